"""A plan as accelerate's configuration."""

from collections.abc import Mapping
from typing import Any

from memplan.inputs.configs.format import Document, Keys, at
from memplan.inputs.configs.precision import AUTOCAST
from memplan.inputs.configs.sharding import STAGES, strategy_of
from memplan.plan import TrainingPlan

LAYERS = "TRANSFORMER_BASED_WRAP"
DYNAMO = ("dynamo_config", "dynamo_backend")
PARALLELISM = "parallelism_config"


def accelerate_keys(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    """In the spelling of a document; a DeepSpeed file that it names says the rest."""
    kind = _type_for(plan)
    keys: Keys = {
        ("compute_environment",): "LOCAL_MACHINE",
        ("distributed_type",): kind,
        ("num_processes",): plan.num_gpus,
    }
    if at(document, "deepspeed_config", "deepspeed_config_file") is None:
        keys["mixed_precision",] = AUTOCAST.get(plan.precision, "no")
    if kind == "FSDP":
        keys |= _fsdp_keys(plan, document)
    if kind == "DEEPSPEED":
        keys |= _deepspeed_keys(plan, document)
    there = at(document, PARALLELISM)
    if there or max(plan.tensor_parallel, plan.context_parallel) > 1:
        keys |= _parallelism_keys(plan, there or {})
    if plan.torch_compile or at(document, *DYNAMO) is not None:
        keys[DYNAMO] = "INDUCTOR" if plan.torch_compile else "NO"
    return keys


def _type_for(plan: TrainingPlan) -> str:
    """Who shards it; ZeRO's stage 1 without DeepSpeed has no type of its own."""
    if plan.sharding == "deepspeed" and plan.zero_stage > 0:
        return "DEEPSPEED"
    if plan.zero_stage > 1:
        return "FSDP"
    return "MULTI_GPU" if plan.num_gpus > 1 else "NO"


def _fsdp_keys(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    """As FSDP2; a document of FSDP1 stays one."""
    there = at(document, "fsdp_config") or {}
    prefix = (
        "" if there and not any(key.startswith("fsdp_") for key in there) else "fsdp_"
    )
    values: Document = {
        "auto_wrap_policy": there.get(f"{prefix}auto_wrap_policy", LAYERS),
        "offload_params": plan.offload_parameters,
        "activation_checkpointing": plan.activation_checkpointing == "full",
    }
    is_fsdp1 = bool(there) and str(there.get(f"{prefix}version", 1)) == "1"
    if is_fsdp1:
        by_strategy = f"{prefix}reshard_after_forward" not in there
        name = "sharding_strategy" if by_strategy else "reshard_after_forward"
        values[name] = _strategy_for(plan.zero_stage, there.get(f"{prefix}{name}"))
    else:
        values |= {"version": 2, "reshard_after_forward": plan.zero_stage == 3}
    return {("fsdp_config", f"{prefix}{key}"): value for key, value in values.items()}


def _strategy_for(stage: int, there: object) -> object:
    """The one in the document, where it shards as much."""
    if there is not None and STAGES[strategy_of(there, 1, "fsdp_config")] == stage:
        return there
    return "FULL_SHARD" if stage == 3 else "SHARD_GRAD_OP"


def _deepspeed_keys(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    section = "deepspeed_config"
    named = at(document, section, "deepspeed_config_file")
    if named is not None:
        return {(section, "deepspeed_config_file"): named}
    return {
        (section, "zero_stage"): plan.zero_stage,
        (section, "offload_optimizer_device"): _device(plan.offload_optimizer),
        (section, "offload_param_device"): _device(plan.offload_parameters),
        (section, "gradient_accumulation_steps"): plan.gradient_accumulation_steps,
        (section, "gradient_clipping"): plan.max_grad_norm,
    }


def _device(is_offloaded: bool) -> str:
    return "cpu" if is_offloaded else "none"


def _parallelism_keys(plan: TrainingPlan, there: Mapping[str, Any]) -> Keys:
    """All processes, divided; replicas of a document stay where they can."""
    replicas = there.get(f"{PARALLELISM}_dp_replicate_size")
    if not isinstance(replicas, int) or replicas < 1 or plan.data_parallel % replicas:
        replicas = 1
    sizes = {
        "dp_replicate": replicas,
        "dp_shard": plan.data_parallel // replicas,
        "tp": plan.tensor_parallel,
        "cp": plan.context_parallel,
    }
    return {
        (PARALLELISM, f"{PARALLELISM}_{name}_size"): size
        for name, size in sizes.items()
    }
