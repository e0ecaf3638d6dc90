"""The question: everything that decides how much memory a training run takes.

    TrainingPlan(model="llama-2-7b", per_device_train_batch_size=4, gpu="a100-80gb")

Names are those of transformers' `TrainingArguments` where it has one. A plan is frozen
and checks itself: what contradicts itself raises `PlanError`.
"""

from dataclasses import dataclass, fields
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from memplan.errors import PlanError, UnknownNameError
from memplan.formulas.allocator import settings_of
from memplan.formulas.optimizers import find_optimizer
from memplan.formulas.setting import KERNELS

Precision = Literal[
    "fp32", "tf32", "bf16-mixed", "fp16-mixed", "bf16-pure", "fp16-master"
]
Accounting = Literal["torch", "zero", "hf"]
Sharding = Literal["fsdp2", "deepspeed"]
Quantization = Literal["none", "int8", "nf4"]
FrozenDtype = Literal["fp32", "bf16", "fp16"]
Workload = Literal["train", "generate", "mme"]

MAX_SHOTS = 32
"""The most that Flamingo is evaluated with (arXiv 2204.14198)."""
MAX_COUNT = 2**40
"""No batch, length or number of GPUs is larger: it would be a typing error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """One training run, described by what decides its memory on the most loaded GPU."""

    model: str | None = None
    """A preset, a hub id, a folder, or the path of a config.json."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    parameters: int | None = None
    """A bare parameter count instead of a model: model states alone are answered."""
    workload: Workload = "train"
    """train; generate: prompts of seq_len, then max_new_tokens with a KV cache; or mme:
    the generation that `memplan mme run` comes to."""

    trainable: str = "default"
    """default (what the preset trains), all, lora, a named set of the preset, or
    comma-separated regular expressions of parameter names."""
    lora_rank: int = 16
    lora_targets: tuple[str, ...] = ()
    """Names of linear layers; empty takes the model's own default."""
    lora_dropout: float = 0.0
    frozen_dtype: FrozenDtype | None = None
    """What frozen parts are stored in; None is the preset's, or the precision's own.
    transformers loads a checkpoint in the dtype it is stored in, often bf16."""
    quantization: Quantization = "none"
    """How the linear layers of a frozen base are stored: none, int8 or nf4."""

    precision: Precision = "bf16-mixed"
    accounting: Accounting = "torch"
    """What a parameter costs: torch (what is held), zero (2 + 2 + 12) or hf (18)."""
    optim: str = "adamw"
    """An optimizer of memplan's, or a name of the Trainer's."""
    ema: bool = False
    """An fp32 copy of the trained weights, averaged over steps, on the GPU."""

    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    seq_len: int | None = None
    """Tokens of a sample (of the encoder, where there is one); None asks the preset."""
    target_seq_len: int | None = None
    """Tokens of the decoder of an encoder-decoder model; None asks the preset."""
    images_per_sample: int | None = None
    image_size: int | None = None
    """Pixels of a side."""
    max_new_tokens: int = 0
    num_shots: int = 0
    """Of the workload mme: answered examples, each with its image, before a question.
    MME itself is asked without any."""
    max_grad_norm: float = 1.0
    """Gradient clipping; 0 is none."""

    activation_checkpointing: str = "none"
    """none, full, selective, or every-N: the first of each N layers."""
    attn_implementation: str = "auto"
    """auto (what scaled_dot_product_attention picks), eager, math, efficient, flash,
    cudnn."""
    offload_activations: bool = False
    """What the forward pass saves waits in pinned host memory (`save_on_cpu`)."""
    cross_entropy_chunks: int = 1
    """Head and loss run over so many parts of the tokens, each recomputed."""
    torch_compile: bool = False
    """The model is compiled by `torch.compile`."""

    num_gpus: int = 1
    zero_stage: int = 0
    """0 replicates (DDP), 1 shards optimizer states, 2 gradients too, 3 weights too."""
    sharding: Sharding = "fsdp2"
    """Who shards at stage 1 and above."""
    offload_optimizer: bool = False
    """Optimizer states live, and are updated, in host memory."""
    offload_parameters: bool = False
    """Sharded parameters live in host memory and come when their layer runs."""
    tensor_parallel: int = 1
    sequence_parallel: bool = False
    """Norms and dropouts split along the sequence within the tensor-parallel group."""
    pipeline_parallel: int = 1
    context_parallel: int = 1
    expert_parallel: int = 1

    gpu: str = "h100-80gb"
    gpu_memory_bytes: int | None = None
    """Total memory of the card, in place of the catalogue's."""
    context_bytes: int | None = None
    """CUDA context and libraries outside the allocator, in place of the catalogue's."""
    headroom_fraction: float = 0.05
    """Part of the card that shall stay free."""
    alloc_conf: str | None = None
    """Settings of the caching allocator, as PYTORCH_ALLOC_CONF has them; None is its
    defaults, or in a run what the environment says."""
    torch: str | None = None
    """The version whose constants apply; None is the installed, or the newest known."""

    def __post_init__(self) -> None:
        _check_types(self)
        _check_model(self)
        _check_choices(self)
        _check_counts(self)
        _check_fractions(self)
        _check_allocator(self)
        _check_parallelism(self)
        _check_parts(self)

    @property
    def generates(self) -> bool:
        """Nothing is trained; tokens are generated."""
        return self.workload != "train"

    @property
    def checkpointing(self) -> tuple[str, int]:
        """Mode (none, full, selective) and how many layers share one checkpoint."""
        name = self.activation_checkpointing
        if name.startswith("every-"):
            return "full", int(name.removeprefix("every-"))
        return name, 1

    @property
    def data_parallel(self) -> int:
        """Ranks that hold the same part of the model."""
        model_parallel = self.tensor_parallel * self.pipeline_parallel
        return self.num_gpus // (model_parallel * self.context_parallel)


def _check_types(plan: TrainingPlan) -> None:
    """Plans are built from files and flags too: every field must be of its type."""
    for name, (kinds, noun) in _field_types().items():
        value = getattr(plan, name)
        is_wrong_bool = isinstance(value, bool) and bool not in kinds
        if is_wrong_bool or not isinstance(value, kinds):
            raise PlanError(
                f"{name} must be {noun}, not {value!r}.",
                hint=f"Leave {name} out for its default.",
            )
    if not all(isinstance(target, str) for target in plan.lora_targets):
        raise PlanError(
            "lora_targets must be names of linear layers.", hint="Like ('q_proj',)."
        )


@cache
def _field_types() -> dict[str, tuple[tuple[type, ...], str]]:
    """What each field may hold, and how a person calls it."""
    found = {}
    for item in fields(TrainingPlan):
        is_union = get_origin(item.type) in (UnionType, Union)
        parts = get_args(item.type) if is_union else (item.type,)
        kinds = tuple(_kind(part) for part in parts)
        if float in kinds:
            kinds = (*kinds, int)
        found[item.name] = (kinds, _NOUNS[kinds[0]])
    return found


def _kind(annotation: Any) -> type:
    """The class behind an annotation: `Literal` is text, `tuple[str, ...]` a tuple."""
    origin = get_origin(annotation)
    return str if origin is Literal else (origin or annotation)


def _check_model(plan: TrainingPlan) -> None:
    if (plan.model is None) == (plan.parameters is None):
        raise PlanError(
            "A plan needs either a model or a parameter count.",
            hint="Name a model (see `memplan models`), or pass --parameters 7.5e9.",
        )
    if plan.model is not None and not plan.model.strip():
        raise PlanError("The model's name is empty.", hint="See `memplan models`.")
    if plan.revision is not None and plan.model is None:
        raise PlanError(
            "A revision needs a hub id.", hint="Drop revision, or name a model."
        )


def _check_choices(plan: TrainingPlan) -> None:
    for name, choices in _CHOICES.items():
        value = getattr(plan, name)
        if value is not None and value not in choices:
            raise UnknownNameError.of(name.replace("_", "-"), str(value), choices)
    find_optimizer(plan.optim)
    name = plan.activation_checkpointing
    if name in ("none", "full", "selective"):
        return
    every = name.removeprefix("every-")
    if every == name or not every.isdecimal() or not 1 <= int(every) <= MAX_COUNT:
        raise UnknownNameError.of(
            "activation-checkpointing", name, ("none", "full", "selective", "every-2")
        )


def _check_counts(plan: TrainingPlan) -> None:
    for name in _COUNTS:
        value = getattr(plan, name)
        if value is None:
            continue
        flag = f"--{name.replace('_', '-').removesuffix('-bytes')}"
        least = 0 if name in _MAY_BE_ZERO else 1
        most = 2**50 if name in ("parameters", "gpu_memory_bytes") else MAX_COUNT
        if not least <= value <= most:
            raise PlanError(
                f"{name} must lie between {least} and {most}, not be {value}.",
                hint=f"Pass {flag} {max(least, 1)} or more.",
            )


def _check_fractions(plan: TrainingPlan) -> None:
    for name in ("headroom_fraction", "lora_dropout"):
        value = getattr(plan, name)
        if not 0 <= value < 1:
            raise PlanError(
                f"{name} must be at least 0 and below 1, not {value!r}.",
                hint="5% is 0.05.",
            )
    norm = plan.max_grad_norm
    if not 0 <= norm < float("inf"):
        raise PlanError(
            f"max_grad_norm must be 0 (no clipping) or more, not {norm!r}.",
            hint="The Trainer's default is 1.0.",
        )


def _check_allocator(plan: TrainingPlan) -> None:
    if plan.alloc_conf is not None and not settings_of(plan.alloc_conf):
        raise PlanError(
            f"alloc_conf must be settings of the allocator, not {plan.alloc_conf!r}.",
            hint='Write them as PYTORCH_ALLOC_CONF has them: "expandable_segments:True"'
            ".",
        )


def _check_parallelism(plan: TrainingPlan) -> None:
    if plan.zero_stage not in (0, 1, 2, 3):
        raise PlanError(
            f"There is no ZeRO stage {plan.zero_stage}.", hint="Stages are 0 to 3."
        )
    parts = plan.tensor_parallel * plan.pipeline_parallel * plan.context_parallel
    if plan.num_gpus % parts:
        raise PlanError(
            f"{plan.num_gpus} GPUs cannot be divided into groups of {parts} "
            "(tensor x pipeline x context parallel).",
            hint=f"Use a multiple of {parts} for --num-gpus.",
        )
    if plan.data_parallel % plan.expert_parallel:
        raise PlanError(
            f"{plan.data_parallel} data-parallel ranks cannot be divided into "
            f"{plan.expert_parallel} expert-parallel ones.",
            hint="Use a divisor of the data-parallel ranks for --expert-parallel.",
        )
    if plan.sequence_parallel and plan.tensor_parallel == 1:
        raise PlanError(
            "Sequence parallelism works within a tensor-parallel group.",
            hint="Set --tensor-parallel to 2 or more.",
        )
    if plan.offload_optimizer and plan.zero_stage == 0:
        raise PlanError(
            "Optimizer offload needs ZeRO stage 1 or above.", hint="Add --zero-stage 2."
        )
    if plan.offload_parameters and plan.zero_stage != 3:
        raise PlanError(
            "Parameter offload needs ZeRO stage 3.", hint="Add --zero-stage 3."
        )


def _check_parts(plan: TrainingPlan) -> None:
    if plan.quantization != "none" and plan.trainable == "all":
        raise PlanError(
            f"Weights stored in {plan.quantization} cannot be trained.",
            hint="Add --trainable lora.",
        )
    if plan.lora_targets and plan.trainable != "lora":
        raise PlanError(
            "LoRA targets are given but LoRA is not asked for.",
            hint="Add --trainable lora.",
        )
    of_training = {
        "offload_activations": plan.offload_activations,
        "cross_entropy_chunks": plan.cross_entropy_chunks > 1,
    }
    for name, is_set in of_training.items():
        if plan.generates and is_set:
            raise PlanError(
                f"{name} belongs to training.", hint="Leave --workload out."
            )
    if plan.max_new_tokens and not plan.generates:
        raise PlanError(
            "max_new_tokens belongs to the workload generate.",
            hint="Add --workload generate.",
        )
    if plan.num_shots and plan.workload != "mme":
        raise PlanError(
            "num_shots belongs to the workload mme.", hint="Add --workload mme."
        )
    if plan.num_shots > MAX_SHOTS:
        raise PlanError(
            f"{plan.num_shots} shots are more than models are evaluated with.",
            hint=f"Use --num-shots {MAX_SHOTS} or less.",
        )


_NOUNS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list of names",
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "precision": get_args(Precision),
    "accounting": get_args(Accounting),
    "sharding": get_args(Sharding),
    "frozen_dtype": get_args(FrozenDtype),
    "quantization": get_args(Quantization),
    "workload": get_args(Workload),
    "attn_implementation": KERNELS,
}
_MAY_BE_ZERO = frozenset({"max_new_tokens", "num_shots", "zero_stage", "context_bytes"})
_COUNTS = (
    "parameters",
    "lora_rank",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "cross_entropy_chunks",
    "seq_len",
    "target_seq_len",
    "images_per_sample",
    "image_size",
    "max_new_tokens",
    "num_shots",
    "num_gpus",
    "zero_stage",
    "tensor_parallel",
    "pipeline_parallel",
    "context_parallel",
    "expert_parallel",
    "gpu_memory_bytes",
    "context_bytes",
)
