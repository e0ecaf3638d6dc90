"""A plan in Axolotl's words, and which of its spellings a document has."""

from collections.abc import Mapping
from typing import Any

from memplan.formulas.setting import ALL_LINEAR
from memplan.inputs.configs.deepspeed import DEEPSPEED
from memplan.inputs.configs.format import Keys
from memplan.inputs.configs.losses import has_formula
from memplan.inputs.configs.names import (
    NOT_OF_THE_TRAINER,
    hub_name,
    optimizer_name,
    trainer_optimizer_name,
)
from memplan.inputs.configs.section import kept
from memplan.plan import TrainingPlan

ATTENTION = {
    "sdpa": "auto",
    "eager": "eager",
    "flash_attention_2": "flash",
    "flash_attention_3": "flash",
    "xformers": "efficient",
}
"""Values of `attn_implementation`, as kernels of a plan."""
SWITCHES = {
    "flash_attention": "flash",
    "sdp_attention": "auto",
    "eager_attention": "eager",
    "xformers_attention": "efficient",
}
"""What there was before: a switch for each."""
LAYERS = "TRANSFORMER_BASED_WRAP"


def keys_of(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    """All keys by which a configuration of Axolotl says what a plan says."""
    keys: Keys = {
        ("micro_batch_size",): plan.per_device_train_batch_size,
        ("max_grad_norm",): plan.max_grad_norm,
        ("torch_compile",): plan.torch_compile,
    }
    steps = plan.gradient_accumulation_steps
    if document.get("batch_size") and not document.get("gradient_accumulation_steps"):
        keys[("batch_size",)] = plan.per_device_train_batch_size * steps
    else:
        keys[("gradient_accumulation_steps",)] = steps
    if plan.model is not None:
        keys[("base_model",)] = hub_name(plan.model)
    if plan.revision is not None:
        keys[("revision_of_model",)] = plan.revision
    if plan.seq_len is not None:
        keys[("sequence_len",)] = plan.seq_len
    keys |= _loss(plan, document)
    keys |= _optimizer(plan, document) | _precision(plan, document)
    keys |= _activations(plan, document) | _attention(plan, document)
    return keys | _trained(plan) | _sharding(plan, document)


def _optimizer(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    present = document.get("optimizer")
    is_said = isinstance(present, str) and optimizer_name(present) == plan.optim
    if is_said or plan.optim in NOT_OF_THE_TRAINER:
        return kept(document, ("optimizer",))
    return {("optimizer",): trainer_optimizer_name(plan.optim)}


def _loss(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    name = "chunked_cross_entropy"
    switch, chunks = (name,), (f"{name}_num_chunks",)
    if not has_formula(plan.zero_stage, plan.sharding):
        return kept(document, switch, chunks)
    if plan.cross_entropy_chunks == 1:
        return {}
    return {switch: True, chunks: plan.cross_entropy_chunks}


def _precision(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    """Weights are loaded in what autocast casts to; engines keep those that train in
    fp32 then."""
    bf16, fp16, tf32 = ("bf16",), ("fp16",), ("tf32",)
    is_kept = plan.zero_stage > 0 or plan.trainable == "lora"
    cast = True if document.get("bf16") is True else "auto"
    match plan.precision:
        case "bf16-mixed":
            return {bf16: cast}
        case "bf16-pure":
            return {bf16: "full" if is_kept else cast}
        case "fp16-mixed":
            return {bf16: False, fp16: True}
        case "fp32" | "tf32":
            return {bf16: False, tf32: plan.precision == "tf32"}
        case _:
            return kept(document, bf16, fp16, tf32)


def _activations(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    checkpoints, offloads = ("gradient_checkpointing",), ("activation_offloading",)
    every = ("gradient_checkpointing_kwargs", "every_n_layers")
    how = plan.activation_checkpointing
    if how == "selective":
        return kept(document, checkpoints, offloads, every)
    is_on = how != "none"
    if how == "full" and _fsdp_checkpoints(document):
        is_on = False  # FSDP's own switch is
    is_one_word = document.get("gradient_checkpointing") == "offload"
    if is_on and plan.offload_activations and is_one_word:
        return {checkpoints: "offload"}
    keys: Keys = {checkpoints: is_on}
    if how.startswith("every-"):
        keys[every] = int(how.removeprefix("every-"))
    if plan.offload_activations:
        keys[offloads] = True
    return keys


def _attention(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    present = document.get("attn_implementation")
    if plan.attn_implementation not in ATTENTION.values():
        return kept(document, ("attn_implementation",), *((s,) for s in SWITCHES))
    if present is None and document.keys() & SWITCHES.keys():
        return {
            (name,): True
            for name, kernel in SWITCHES.items()
            if kernel == plan.attn_implementation
        }
    names = [n for n, kernel in ATTENTION.items() if kernel == plan.attn_implementation]
    return {("attn_implementation",): present if present in names else names[0]}


def _trained(plan: TrainingPlan) -> Keys:
    keys: Keys = {}
    if plan.trainable not in ("default", "all", "lora"):
        patterns = [part.strip() for part in plan.trainable.split(",")]
        keys[("unfrozen_parameters",)] = [_matched(part) for part in patterns]
    if plan.trainable != "lora":
        return keys
    is_4bit = plan.quantization == "nf4"
    keys = {
        ("adapter",): "qlora" if is_4bit else "lora",
        ("load_in_4bit",): is_4bit,
        ("load_in_8bit",): plan.quantization == "int8",
        ("lora_r",): plan.lora_rank,
        ("lora_dropout",): plan.lora_dropout,
    }
    if ALL_LINEAR in plan.lora_targets:
        keys[("lora_target_linear",)] = True
    elif plan.lora_targets:
        keys[("lora_target_modules",)] = list(plan.lora_targets)
    return keys


def _matched(pattern: str) -> str:
    """Axolotl matches from the beginning of a name, memplan searches in it."""
    return pattern if pattern.startswith("^") else f".*{pattern}"


def searched(pattern: str) -> str:
    """The other way: a pattern that finds in a name what `re.match` would.

    >>> searched("model.embed_tokens"), searched(".*mlp")
    ('^model.embed_tokens', 'mlp')
    """
    if pattern.startswith("^"):
        return pattern
    return pattern[2:] if pattern.startswith(".*") else f"^{pattern}"


def _sharding(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    keys: Keys = {}
    for name, degree in (
        ("tensor_parallel_size", plan.tensor_parallel),
        ("context_parallel_size", plan.context_parallel),
    ):
        if degree > 1 or name in document:
            keys[(name,)] = degree
    if plan.zero_stage == 0:
        return keys
    if plan.sharding == "deepspeed":
        named = document.get("deepspeed")
        if isinstance(named, str) and named:
            return keys | {("deepspeed",): named}
        inner = DEEPSPEED.keys_of(plan, named or {})
        return keys | {("deepspeed", *key): value for key, value in inner.items()}
    if plan.num_gpus > 1 and ("dp_shard_size" in document or not document):
        keys[("dp_shard_size",)] = plan.data_parallel
    return keys | _fsdp(plan, document)


def _fsdp(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    """As FSDP2; a document of FSDP1 stays one."""
    there = document.get("fsdp_config") or {}
    prefix = "fsdp_" if any(key.startswith("fsdp_") for key in there) else ""
    named = document.get("fsdp")
    version = document.get("fsdp_version") or there.get(f"{prefix}version")
    is_first = str(version or (1 if there or named else 2)) == "1"
    place = "fsdp_config"
    keys: Keys = {(place, f"{prefix}offload_params"): plan.offload_parameters}
    if not is_first:
        keys[place, f"{prefix}reshard_after_forward"] = plan.zero_stage == 3
        if there.get(f"{prefix}version") is None:
            keys[("fsdp_version",)] = 2
    elif isinstance(named, list) and not there.get(f"{prefix}sharding_strategy"):
        keys[("fsdp",)] = _listed(plan, named)
    else:
        strategy = "FULL_SHARD" if plan.zero_stage == 3 else "SHARD_GRAD_OP"
        keys[place, f"{prefix}sharding_strategy"] = strategy
    wrap = f"{prefix}auto_wrap_policy"
    keys[place, wrap] = there.get(wrap) or LAYERS
    checkpoints = _fsdp_checkpoints(document)
    if checkpoints and plan.activation_checkpointing == "selective":
        return keys | kept(document, (place, checkpoints))
    if checkpoints:
        keys[place, checkpoints] = plan.activation_checkpointing == "full"
    return keys


def _fsdp_checkpoints(document: Mapping[str, Any]) -> str | None:
    """FSDP's own switch of checkpoints, where a document has it."""
    there = document.get("fsdp_config") or {}
    name = "activation_checkpointing"
    return next((key for key in (name, f"fsdp_{name}") if key in there), None)


def _listed(plan: TrainingPlan, named: list[Any]) -> list[str]:
    """The list that FSDP1 was switched on by: its strategy first."""
    others = [str(word) for word in named if word not in STRATEGIES]
    strategy = "full_shard" if plan.zero_stage == 3 else "shard_grad_op"
    return [strategy, *(word for word in others if word != "offload")]


STRATEGIES = (
    "full_shard",
    "shard_grad_op",
    "no_shard",
    "hybrid_shard",
    "hybrid_shard_zero2",
)
