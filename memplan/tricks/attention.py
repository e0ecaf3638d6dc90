"""Attention that never writes its scores down."""

from collections.abc import Callable

from memplan.estimating.changes import Fields
from memplan.models import find_model
from memplan.plan import TrainingPlan
from memplan.tricks.trick import Trick

SDPA = "torch/nn/functional.py, scaled_dot_product_attention"
WITHOUT = ("pe_net",)
"""Families that have no attention."""


def _kernel(name: str) -> Callable[[TrainingPlan], Fields | str]:
    def changes(plan: TrainingPlan) -> Fields | str:
        if plan.model is None:
            return "a parameter count has no attention"
        if find_model(plan.model, plan.revision).family.name in WITHOUT:
            return "the model has no attention"
        return {"attn_implementation": name}

    return changes


TRICKS = (
    Trick(
        name="attention-auto",
        title="PyTorch's own choice (SDPA)",
        technique="attention",
        exactness="rounding",
        cost="None.",
        source=SDPA,
        changes=_kernel("auto"),
        suits_generation=True,
    ),
    Trick(
        name="attention-flash",
        title="FlashAttention",
        technique="attention",
        exactness="rounding",
        cost="None; it wants bf16 or fp16, and takes no bias.",
        source="Dao, arXiv 2307.08691; " + SDPA,
        changes=_kernel("flash"),
        suits_generation=True,
    ),
    Trick(
        name="attention-efficient",
        title="memory-efficient attention",
        technique="attention",
        exactness="rounding",
        cost="None against plain attention; slower than FlashAttention.",
        source="Rabe and Staats, arXiv 2112.05682; " + SDPA,
        changes=_kernel("efficient"),
        suits_generation=True,
    ),
    Trick(
        name="attention-cudnn",
        title="cuDNN's attention",
        technique="attention",
        exactness="rounding",
        cost="None; it wants bf16 or fp16, and an Ampere card or newer.",
        source="NVIDIA, cuDNN frontend documentation, attention; " + SDPA,
        changes=_kernel("cudnn"),
        suits_generation=True,
    ),
)
