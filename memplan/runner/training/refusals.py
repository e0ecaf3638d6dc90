"""What a plan can ask that cannot be run here: said before anything is built.

Without torch, so that whoever starts the program can ask first.
"""

from collections.abc import Iterator
from importlib.util import find_spec

from memplan.errors import PlanError
from memplan.formulas.optimizers import find_optimizer
from memplan.formulas.weights import AUTOCAST_DTYPE, STORED_DTYPE
from memplan.hardware import find_gpu
from memplan.models import Model, find_model
from memplan.models.batch import batch_of, seq_len_of
from memplan.models.trainable import trainable_patterns
from memplan.models.workload import generation_of
from memplan.plan import TrainingPlan

NOT_RUN = {
    "tensor_parallel": "Tensor parallelism",
    "pipeline_parallel": "Pipeline parallelism",
    "context_parallel": "Context parallelism",
    "expert_parallel": "Expert parallelism",
}
"""What accelerate's own training step does not do."""
SHARED_TABLE = ("t5", "blip2", "instructblip", "mmicl")
"""Families in which several modules have one embedding table."""
CAUSAL = (
    "deepseek",
    "gemma",
    "gpt2",
    "gpt_neox",
    "llama",
    "llava",
    "mixtral",
    "mpt",
    "opt",
    "phi",
    "phi3",
    "qwen_vl",
)
"""Families whose loss is `ForCausalLMLoss` of what the head makes."""


def check(plan: TrainingPlan) -> Model:
    """The model of a plan that can be run here.

    Raises:
        MemplanError: it cannot.
    """
    model = check_combination(plan)
    for library, purpose in libraries_of(generation_of(plan, model), model):
        if find_spec(library) is None:
            raise PlanError(
                f"{purpose} needs {library}, which is not installed.",
                hint=f"pip install {library}",
            )
    return model


def check_combination(plan: TrainingPlan) -> Model:
    """The model of a plan that libraries run, whether or not they are installed.

    Raises:
        MemplanError: they do not.
    """
    if plan.model is None:
        raise PlanError(
            "A parameter count alone is no model that could be run.",
            hint="Name a model, or ask `memplan estimate`.",
        )
    model = find_model(plan.model, plan.revision)
    plan = generation_of(plan, model)
    batch_of(plan, model)
    _check_parallelism(plan)
    _check_sharding(plan, model)
    if plan.accounting != "torch":
        raise PlanError(
            f"The accounting {plan.accounting} is a convention, and no way to run.",
            hint="Leave --accounting out.",
        )
    if plan.generates:
        _check_generation(plan, model)
    _check_dtypes(plan, model)
    _check_checkpointing(plan, model)
    _check_model(plan, model)
    check_chunks(plan, model)
    return model


def libraries_of(plan: TrainingPlan, model: Model) -> Iterator[tuple[str, str]]:
    """Libraries that the plan runs on, and what for."""
    for library in ("torch", "transformers", "accelerate"):
        yield library, "Running a plan"
    if plan.trainable == "lora":
        yield "peft", "LoRA"
    if plan.quantization != "none":
        yield "bitsandbytes", f"A base in {plan.quantization}"
    if find_optimizer(plan.optim).implementation in ("8bit", "32bit"):
        yield "bitsandbytes", f"The optimizer {plan.optim}"
    if _is_deepspeed(plan):
        yield "deepspeed", "Sharding with DeepSpeed"
    if model.family.name == "pe_net":
        yield "torchvision", "PE-Net's detector"
    if getattr(model.config, "nfnet_config", None) is not None:
        yield "timm", "Flamingo's NFNet"


def _check_parallelism(plan: TrainingPlan) -> None:
    for name, noun in NOT_RUN.items():
        if getattr(plan, name) > 1:
            raise PlanError(
                f"{noun} is not run: accelerate's training step has none.",
                hint=f"Leave --{name.replace('_', '-')} out; `estimate` covers it.",
            )
    offloads_states_alone = plan.offload_optimizer and not plan.offload_parameters
    if plan.sharding == "fsdp2" and offloads_states_alone:
        raise PlanError(
            "FSDP2 offloads optimizer states with parameters and gradients alone.",
            hint="Add --offload-parameters, or choose --sharding deepspeed.",
        )


def _check_sharding(plan: TrainingPlan, model: Model) -> None:
    """What libraries do not do with sharded tensors, as of those in CI."""
    if _is_fsdp2(plan):
        _check_fsdp2(plan, model)
    if _is_deepspeed(plan) and has_scalars(model):
        raise PlanError(
            "DeepSpeed cannot broadcast parameters without a dimension, and "
            f"{model.name} has such.",
            hint="Leave --zero-stage out; `estimate` covers it.",
        )
    if _is_deepspeed(plan) and plan.zero_stage == 3 and plan.quantization != "none":
        raise PlanError(
            f"A base in {plan.quantization} is not run under DeepSpeed's stage 3: that "
            "partitions parameters as they are made.",
            hint="Choose --zero-stage 2.",
        )


def _check_fsdp2(plan: TrainingPlan, model: Model) -> None:
    optimizer = find_optimizer(plan.optim)
    if optimizer.implementation in ("8bit", "32bit"):
        raise PlanError(
            f"The optimizer {plan.optim} is bitsandbytes', which has no rule for the "
            "sharded tensors of FSDP2.",
            hint="Choose --sharding deepspeed, or an optimizer of PyTorch's.",
        )
    if optimizer.algorithm in ("adafactor", "torch_adafactor"):
        raise PlanError(
            "Adafactor, transformers' and PyTorch's, does what FSDP2 refuses with "
            "sharded tensors.",
            hint="Choose --sharding deepspeed, or --optim adamw.",
        )
    if plan.quantization == "int8":
        raise PlanError(
            "FSDP2 makes new parameters of its shards, which lose what bitsandbytes "
            "keeps beside int8 weights.",
            hint="Choose --quantization nf4.",
        )
    if has_scalars(model):
        raise PlanError(
            f"FSDP2 refuses scalar parameters, and {model.name} has such.",
            hint="Leave --zero-stage out; `estimate` covers it.",
        )
    if model.family.name in SHARED_TABLE:
        raise PlanError(
            f"The table that encoder and decoder of {model.name} share comes to two "
            "groups of FSDP2, which refuses that.",
            hint="Choose --sharding deepspeed; `estimate` covers both.",
        )


def has_scalars(model: Model) -> bool:
    """Whether some parameters have no dimension: a temperature, a gate."""
    return model.family.name in ("clip", "pe_net") or _is_paper(model)


def _is_paper(model: Model) -> bool:
    """Flamingo as the paper has it, with its NFNet."""
    return bool(getattr(model.config, "is_paper", False))


def _is_fsdp2(plan: TrainingPlan) -> bool:
    shards = plan.zero_stage > 1 and plan.num_gpus > 1
    return plan.sharding == "fsdp2" and (shards or plan.offload_parameters)


def _is_deepspeed(plan: TrainingPlan) -> bool:
    return plan.sharding == "deepspeed" and plan.zero_stage > 0


def _check_dtypes(plan: TrainingPlan, model: Model) -> None:
    """What is stored differently meets in autocast alone; PEFT casts by itself.

    It does not where pictures, in fp32, come to the paper's tower.
    """
    patterns = trainable_patterns(plan, model)
    # DeepSpeed's engine casts all weights.
    casts = plan.precision in AUTOCAST_DTYPE or _is_deepspeed(plan)
    is_cast_by_peft = not patterns and not _is_paper(model)
    if casts or is_cast_by_peft or patterns == ("",):
        return
    stored = STORED_DTYPE[plan.precision]
    frozen = plan.frozen_dtype or model.frozen_dtype or stored
    if frozen != stored:
        raise PlanError(
            f"Frozen parts in {frozen} and trained ones in {stored} meet in autocast "
            "alone.",
            hint=f"Use --precision bf16-mixed, or --frozen-dtype {stored}.",
        )


def _check_checkpointing(plan: TrainingPlan, model: Model) -> None:
    if plan.activation_checkpointing == "none":
        return
    is_selective = plan.activation_checkpointing == "selective"
    is_t5_in_4bit = plan.quantization == "nf4" and model.family.name in SHARED_TABLE
    if is_selective and is_t5_in_4bit and _attends_by_math(plan):
        raise PlanError(
            f"Selective checkpointing of {model.name} in nf4 finds other casts in the "
            "math kernel when a layer runs again, which PyTorch refuses.",
            hint="Use --activation-checkpointing full.",
        )
    reduces = plan.num_gpus > 1 and plan.zero_stage < 2
    trains_tower = plan.trainable in ("all", "lora")
    if model.family.name == "llava" and reduces and trains_tower:
        raise PlanError(
            f"The last layer of {model.name}'s tower gets no gradient, and DDP is not "
            "told to look for that where layers are checkpointed.",
            hint="Use --zero-stage 2, or leave --trainable out.",
        )


def _attends_by_math(plan: TrainingPlan) -> bool:
    """Asked for; or PyTorch's own choice for bf16 on cards without a kernel for it."""
    capability = find_gpu(plan.gpu).compute_capability or (9, 0)
    lacks_kernel = capability < (8, 0) and plan.precision.startswith("bf16")
    kernel = plan.attn_implementation
    return kernel == "math" or (kernel == "auto" and lacks_kernel)


def _check_generation(plan: TrainingPlan, model: Model) -> None:
    if plan.num_gpus > 1:
        raise PlanError("Generation is run on one GPU.", hint="Leave --num-gpus out.")
    limit = model.family.max_seq_len(model.config)
    num_tokens = seq_len_of(plan, model) + plan.max_new_tokens
    if limit is not None and num_tokens > limit:
        raise PlanError(
            f"Prompt and answer are {num_tokens} tokens, and {model.name} has "
            f"positions for {limit}.",
            hint="Use a smaller --seq-len or --max-new-tokens.",
        )


def _check_model(plan: TrainingPlan, model: Model) -> None:
    if model.family.name == "pe_net" and STORED_DTYPE[plan.precision] != "fp32":
        raise PlanError(
            "RoIAlign wants features and boxes in one dtype, and boxes are fp32.",
            hint="Use --precision bf16-mixed: PE-Net's weights stay in fp32.",
        )
    if model.family.name == "pe_net" and plan.activation_checkpointing != "none":
        raise PlanError(
            "PE-Net has no layers that are checkpointed.",
            hint='Its hot spot goes with distance = "algebraic" in the configuration.',
        )


def check_chunks(plan: TrainingPlan, model: Model) -> None:
    """The loss runs the head itself: it must be whole, and hand on plain logits."""
    if plan.cross_entropy_chunks == 1:
        return
    capped = getattr(model.config, "final_logit_softcapping", None)
    if model.family.name not in CAUSAL or capped:
        raise PlanError(
            f"The loss of {model.name} is not run in parts.",
            hint="Leave --cross-entropy-chunks out.",
        )
    if _is_fsdp2(plan) or (_is_deepspeed(plan) and plan.zero_stage == 3):
        raise PlanError(
            "A loss in parts runs the head outside of its module, which sharding has "
            "left in pieces.",
            hint="Use --zero-stage 1, or leave --cross-entropy-chunks out.",
        )
    if plan.trainable == "lora" and "lm_head" in plan.lora_targets:
        raise PlanError(
            "A loss in parts runs the head without its adapter.",
            hint="Leave lm_head out of --lora-targets.",
        )
