"""A plan in torchtitan's words, and where they stand in each version."""

from collections.abc import Callable, Mapping
from typing import Any

from memplan.inputs.configs.format import Keys, at
from memplan.inputs.configs.names import LONG_DTYPES
from memplan.inputs.configs.section import kept
from memplan.plan import TrainingPlan

PRESETS = {
    ("llama2", "7B"): "llama-2-7b",
    ("llama3", "8B"): "llama-3.1-8b",
    ("llama3", "70B"): "llama-3.1-70b",
    ("llama3", "405B"): "llama-3.1-405b",
    ("deepseek_v3", "16B"): "deepseek-v2-lite",
    ("deepseek_v3", "671B"): "deepseek-v3",
    ("qwen3", "8B"): "qwen3-8b",
}
"""Models by name and flavor, as presets of the same sizes; its 16B of DeepSeek V3 has
those of DeepSeek-V2-Lite."""
OPTIMIZERS = {
    ("AdamW", "fused"): "adamw_fused",
    ("AdamW", "foreach"): "adamw",
    ("AdamW", "for-loop"): "adamw_forloop",
    ("Adam", "fused"): "adam_fused",
    ("Adam", "foreach"): "adam",
    ("Adam", "for-loop"): "adam_forloop",
}
DEGREES = {
    "tensor_parallel_degree": "tensor_parallel",
    "pipeline_parallel_degree": "pipeline_parallel",
    "context_parallel_degree": "context_parallel",
    "expert_parallel_degree": "expert_parallel",
}
PLACES = ("parallelism", "training", "experimental")
"""Where degrees have stood: the newest first."""
Place = Callable[[str, str], tuple[str, str]]
"""From where a key stands in the newest version to where a document has it."""


def keys_of(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    """All keys by which a job says what a plan says."""
    place = _places(document)
    keys: Keys = {
        ("training", "max_norm"): plan.max_grad_norm,
        ("training", "enable_cpu_offload"): plan.offload_parameters,
        place("compile", "enable"): plan.torch_compile,
    }
    if plan.seq_len is not None:
        keys["training", "seq_len"] = plan.seq_len
    keys |= _model(plan, document) | _optimizer(plan, document) | _batch(plan, place)
    keys |= _precision(plan, document) | _checkpointing(plan)
    return keys | _parallelism(plan, document, place)


def _places(document: Mapping[str, Any]) -> Place:
    """Where a document has a key, which has moved from version to version."""
    before = {
        ("training", "local_batch_size"): ("training", "batch_size"),
        ("compile", "enable"): ("training", "compile"),
    }

    def place(table: str, name: str) -> tuple[str, str]:
        old = before.get((table, name))
        if old and at(document, *old) is not None:
            return old
        if table == "parallelism":
            for other in PLACES:
                if at(document, other, name) is not None:
                    return other, name
        return table, name

    return place


def _model(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    name, flavor = ("model", "name"), ("model", "flavor")
    for words, preset in PRESETS.items():
        if preset == plan.model:
            return dict(zip((name, flavor), words, strict=True))
    return kept(document, name, flavor)


def _optimizer(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    name, way = ("optimizer", "name"), ("optimizer", "implementation")
    fused = ("optimizer", "fused")  # before 0.1
    for words, optimizer in OPTIMIZERS.items():
        if optimizer != plan.optim:
            continue
        if at(document, *fused) is None or words[1] == "for-loop":
            return dict(zip((name, way), words, strict=True))
        return {name: words[0], fused: words[1] == "fused"}
    return kept(document, name, way, fused)


def _batch(plan: TrainingPlan, place: Place) -> Keys:
    """Pipelines divide the batch of a step into micro-batches; else it is repeated."""
    batch, steps = plan.per_device_train_batch_size, plan.gradient_accumulation_steps
    local = place("training", "local_batch_size")
    if plan.pipeline_parallel > 1:
        microbatch = ("parallelism", "pipeline_parallel_microbatch_size")
        return {local: batch * steps, microbatch: batch}
    keys: Keys = {local: batch}
    if steps > 1:
        total = batch * steps * plan.data_parallel
        keys["training", "global_batch_size"] = total
    return keys


def _precision(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    stored, mixed = ("training", "dtype"), ("training", "mixed_precision_param")
    match plan.precision:
        case "bf16-pure":
            return {stored: LONG_DTYPES["bf16"]}
        case "bf16-mixed":
            return {mixed: LONG_DTYPES["bf16"]}
        case "fp32":
            return {mixed: LONG_DTYPES["fp32"]}
        case _:
            return kept(document, stored, mixed)


def _parallelism(plan: TrainingPlan, document: Mapping[str, Any], place: Place) -> Keys:
    is_sharded = plan.zero_stage >= 2
    shard = place("parallelism", "data_parallel_shard_degree")
    ranks = plan.data_parallel if is_sharded else 1
    if is_sharded and at(document, *shard) == -1:
        ranks = -1  # all there are
    replicate = place("parallelism", "data_parallel_replicate_degree")
    keys: Keys = {shard: ranks, replicate: 1 if is_sharded else plan.data_parallel}
    for name, field in DEGREES.items():
        keys[place("parallelism", name)] = getattr(plan, field)
    if is_sharded:
        policy = place("parallelism", "fsdp_reshard_after_forward")
        keeps = plan.zero_stage == 2
        is_default = at(document, *policy) == "default"
        if not (is_default and keeps == (plan.pipeline_parallel > 1)):
            keys[policy] = "never" if keeps else "always"
        else:
            keys[policy] = "default"
    return keys


def _checkpointing(plan: TrainingPlan) -> Keys:
    mode = ("activation_checkpoint", "mode")
    option = ("activation_checkpoint", "selective_ac_option")
    name = plan.activation_checkpointing
    if name.startswith("every-"):
        return {mode: "selective", option: name.removeprefix("every-")}
    return {mode: name, option: "op"} if name == "selective" else {mode: name}
