"""Activations that are computed again instead of being kept."""

from collections.abc import Callable

from memplan.estimating.changes import Fields
from memplan.plan import TrainingPlan
from memplan.tricks.trick import Trick


def _mode(name: str) -> Callable[[TrainingPlan], Fields | str]:
    def changes(plan: TrainingPlan) -> Fields | str:
        if plan.model is None:
            return "a parameter count has no activations"
        return {"activation_checkpointing": name}

    return changes


TRICKS = (
    Trick(
        name="checkpointing-full",
        title="checkpoint every layer",
        technique="gradient checkpointing",
        exactness="exact",
        cost="Layers run forward twice: a third more FLOPs, about 20% of the speed.",
        source="Chen et al., arXiv 1604.06174; torch/utils/checkpoint.py; transformers "
        "documentation, perf_train_gpu_one.md, for the 20%",
        changes=_mode("full"),
    ),
    Trick(
        name="checkpointing-every-2",
        title="checkpoint every other layer",
        technique="gradient checkpointing",
        exactness="exact",
        cost="Every other layer runs forward twice: about a sixth more FLOPs.",
        source="Chen et al., arXiv 1604.06174; torch/utils/checkpoint.py",
        changes=_mode("every-2"),
    ),
    Trick(
        name="checkpointing-selective",
        title="checkpoint, keep matmuls",
        technique="gradient checkpointing",
        exactness="exact",
        cost="What is cheap runs twice; results of matrix products and attention stay.",
        source="Korthikanti et al., arXiv 2205.05198; torch/utils/checkpoint.py, "
        "create_selective_checkpoint_contexts",
        changes=_mode("selective"),
    ),
)
