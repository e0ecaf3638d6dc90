"""Model states divided over GPUs, or kept in host memory."""

from collections.abc import Callable

from memplan.estimating.changes import Fields
from memplan.plan import TrainingPlan
from memplan.tricks.trick import ALREADY, Trick

ZERO = "Rajbhandari et al., arXiv 1910.02054; "
FSDP2 = "torch/distributed/fsdp/_fully_shard; "
WHOSE = {"fsdp2": "PyTorch", "deepspeed": "DeepSpeed"}
FILES = {
    "fsdp2": {
        1: "torch/distributed/optim/zero_redundancy_optimizer.py",
        2: FSDP2 + "reshard_after_forward=False",
        3: FSDP2 + "Zhao et al., arXiv 2304.11277",
    },
    "deepspeed": {
        1: "deepspeed/runtime/zero/stage_1_and_2.py",
        2: "deepspeed/runtime/zero/stage_1_and_2.py",
        3: "deepspeed/runtime/zero/stage3.py",
    },
}
SHARDED = {1: "states", 2: "states, gradients", 3: "all model states"}
COSTS = {
    1: "Ranks exchange as much as DDP does.",
    2: "Ranks exchange as much as DDP does.",
    3: "Ranks exchange half as much again as DDP: weights are gathered for each use.",
}


def _stage(stage: int, sharding: str) -> Callable[[TrainingPlan], Fields | str]:
    def changes(plan: TrainingPlan) -> Fields | str:
        if plan.data_parallel == 1:
            return "one GPU holds each part of the model: there is nobody to share with"
        if plan.zero_stage == stage and plan.sharding == sharding:
            return ALREADY
        if plan.zero_stage > stage:
            return f"the plan shards more, at stage {plan.zero_stage}"
        return {"zero_stage": stage, "sharding": sharding}

    return changes


def _states_to_host(plan: TrainingPlan) -> Fields | str:
    """DeepSpeed's ZeRO-Offload, which one GPU can do as well."""
    if plan.offload_optimizer:
        return ALREADY
    stage = plan.zero_stage or 2
    return {"zero_stage": stage, "sharding": "deepspeed", "offload_optimizer": True}


def _all_to_host(sharding: str) -> Callable[[TrainingPlan], Fields | str]:
    return lambda plan: {
        "zero_stage": 3,
        "sharding": sharding,
        "offload_optimizer": True,
        "offload_parameters": True,
    }


_STAGES = tuple(
    Trick(
        name=f"{'zero' if sharding == 'fsdp2' else sharding}-{stage}",
        title=f"{WHOSE[sharding]}: share {SHARDED[stage]}",
        technique="ZeRO and FSDP",
        exactness="rounding",
        cost=COSTS[stage],
        source=ZERO + FILES[sharding][stage],
        changes=_stage(stage, sharding),
    )
    for sharding in ("fsdp2", "deepspeed")
    for stage in (1, 2, 3)
)

TRICKS = (
    *_STAGES,
    Trick(
        name="offload-states",
        title="DeepSpeed: states to the host",
        technique="CPU offload",
        exactness="rounding",
        cost="Gradients go to host memory and weights come back over PCIe; the "
        "processor makes the step.",
        source="Ren et al., arXiv 2101.06840; deepspeed/ops/adam/cpu_adam.py",
        changes=_states_to_host,
    ),
    Trick(
        name="offload-fsdp2",
        title="FSDP2: model states to the host",
        technique="CPU offload",
        exactness="rounding",
        cost="Weights come over PCIe for each use, forward and backward; the processor "
        "makes the step.",
        source=FSDP2 + "CPUOffloadPolicy",
        changes=_all_to_host("fsdp2"),
    ),
    Trick(
        name="offload-deepspeed",
        title="DeepSpeed: all states to the host",
        technique="CPU offload",
        exactness="rounding",
        cost="Weights come over PCIe for each use, forward and backward; the processor "
        "makes the step.",
        source="Rajbhandari et al., arXiv 2104.07857; deepspeed/runtime/zero/stage3.py",
        changes=_all_to_host("deepspeed"),
    ),
)
