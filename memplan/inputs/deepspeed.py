"""What a configuration of DeepSpeed says of sharding."""

from collections.abc import Mapping
from typing import Any

from memplan.errors import PlanError


def sharding_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Its stage and what it offloads, as fields of a plan.

    Raises:
        PlanError: it shards nothing.
    """
    zero = config.get("zero_optimization") or {}
    stage = int(zero.get("stage", 0))
    if stage == 0:
        raise PlanError(
            "DeepSpeed's stage 0 has no formula.", hint="Stages 1 to 3 have."
        )
    return {
        "sharding": "deepspeed",
        "zero_stage": stage,
        "offload_optimizer": _is_offloaded(zero.get("offload_optimizer")),
        "offload_parameters": _is_offloaded(zero.get("offload_param")),
    }


def _is_offloaded(section: Mapping[str, Any] | None) -> bool:
    return bool(section) and (section or {}).get("device", "none") != "none"
