"""Who shards what, as FSDP and DeepSpeed are configured.

The same for files and for runs that are looked at when training begins.
"""

from collections.abc import Mapping
from typing import Any

from memplan.errors import PlanError
from memplan.inputs.configs.format import Reading, at, wrong

STAGES = {
    "FULL_SHARD": 3,
    "SHARD_GRAD_OP": 2,
    "NO_SHARD": 0,
    "HYBRID_SHARD": 3,
    "HYBRID_SHARD_ZERO2": 2,
}
"""FSDP's sharding strategies, in the order of their numbers, as stages of ZeRO."""
FSDP1 = "FSDP1: counted as FSDP2"


def strategy_of(value: object, version: int, key: str) -> str:
    """The sharding strategy behind a name, a number (from 1), or true and false.

    FSDP2 reshards after the forward pass, or does not.

    Raises:
        ConfigError: it is none.
    """
    names = tuple(STAGES)
    text = str(value).upper()
    if version == 2 and text in ("TRUE", "FALSE"):
        return "FULL_SHARD" if text == "TRUE" else "SHARD_GRAD_OP"
    if text.isdecimal() and 1 <= int(text) <= len(names):
        return names[int(text) - 1]
    if text in names:
        return text
    raise wrong(key, value, f"be one of {', '.join(names)}")


def read_fsdp(
    reading: Reading,
    key: str,
    *,
    strategy: str,
    version: int = 2,
    offloads: bool = False,
    num_nodes: int = 1,
) -> None:
    """FSDP as fields of a plan: resharding after the forward pass is stage 3.

    Args:
        strategy: a key of STAGES.
        offloads: parameters, gradients and optimizer states live on the host.
        num_nodes: a hybrid strategy shards within each of them.
    """
    stage = STAGES[strategy]
    if version == 1:
        reading.not_read.append(FSDP1)
    if strategy.startswith("HYBRID") and num_nodes > 1:
        reading.miss(key, f"{strategy}, counted as sharded over all {num_nodes} nodes")
    if offloads and stage != 3:
        reading.miss(key, "offload without resharding is counted on the GPU")
    reading.say(
        key,
        sharding="fsdp2",
        zero_stage=stage,
        offload_optimizer=offloads and stage == 3,
        offload_parameters=offloads and stage == 3,
    )


def sharding_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration of DeepSpeed shards and offloads, as fields of a plan.

    Raises:
        PlanError: it shards nothing.
        ConfigError: a value is not what its key takes.
    """
    stage = at(config, "zero_optimization", "stage") or 0
    if stage not in (0, 1, 2, 3) or isinstance(stage, bool):
        raise wrong("zero_optimization.stage", stage, "be 0, 1, 2 or 3")
    if stage == 0:
        raise PlanError(
            "DeepSpeed's stage 0 has no formula.", hint="Stages 1 to 3 have."
        )
    offloads_parameters = _is_offloaded(config, "offload_param", "cpu_offload_param")
    return {
        "sharding": "deepspeed",
        "zero_stage": stage,
        "offload_optimizer": _is_offloaded(config, "offload_optimizer", "cpu_offload"),
        "offload_parameters": offloads_parameters and stage == 3,
    }


def _is_offloaded(config: Mapping[str, Any], section: str, before: str) -> bool:
    """By its device; versions before 0.3.16 had a switch."""
    path = ("zero_optimization", section)
    if at(config, "zero_optimization", before) is True:
        return True
    device = at(config, *path, "device")
    if device not in (None, "none", "cpu", "nvme"):
        raise wrong((*path, "device"), device, "be none, cpu or nvme")
    return device not in (None, "none")
