"""Fewer bits: of what is computed, of what is trained."""

from memplan.estimating.changes import Fields
from memplan.plan import TrainingPlan
from memplan.tricks.trick import ALREADY, Trick

FULL = ("fp32", "tf32")
LOW = "the plan's precision is low already"


def _autocast(dtype: str, plan: TrainingPlan) -> Fields | str:
    if plan.precision == f"{dtype}-mixed":
        return ALREADY
    if plan.precision not in FULL:
        return LOW
    return {"precision": f"{dtype}-mixed"}


TRICKS = (
    Trick(
        name="tf32",
        title="TF32 matrix products",
        technique="mixed precision",
        exactness="rounding",
        cost="Products of fp32 matrices keep 10 bits of the mantissa; Ampere or newer.",
        source="NVIDIA, CUDA C++ programming guide, tensor cores; transformers "
        "documentation, perf_train_gpu_one.md: tf32",
        changes=lambda plan: {"precision": "tf32"} if plan.precision == "fp32" else LOW,
        suits_generation=True,
    ),
    Trick(
        name="bf16-mixed",
        title="bf16 autocast",
        technique="mixed precision",
        exactness="rounding",
        cost="Weights stay in fp32 and are cast at each use; activations have 8 bits "
        "of precision.",
        source="Kalamkar et al., arXiv 1905.12322; torch/amp/autocast_mode.py",
        changes=lambda plan: _autocast("bf16", plan),
        suits_generation=True,
    ),
    Trick(
        name="fp16-mixed",
        title="fp16 autocast",
        technique="mixed precision",
        exactness="rounding",
        cost="As bf16 autocast, in a smaller range: the loss is scaled, and steps that "
        "overflow are skipped.",
        source="Micikevicius et al., arXiv 1710.03740; torch/amp/grad_scaler.py",
        changes=lambda plan: _autocast("fp16", plan),
        suits_generation=True,
    ),
    Trick(
        name="bf16-pure",
        title="weights in bf16",
        technique="mixed precision",
        exactness="different optimisation",
        cost="No fp32 copy of the weights: updates below 1/256 of a weight are rounded "
        "away.",
        source="Zamirai et al., arXiv 2010.06192; torchtune recipes (dtype: bf16)",
        changes=lambda plan: {"precision": "bf16-pure"},
        suits_generation=True,
    ),
)
