"""Fewer samples at a time."""

from memplan.estimating.changes import Fields
from memplan.plan import TrainingPlan
from memplan.tricks.trick import Trick

ONE_SAMPLE = "the micro-batch is one sample"
DOCUMENTED = "transformers documentation, perf_train_gpu_one.md: "
SAME_BATCH = "As many samples in more, smaller steps; each makes less use of the card."
FEWER_SAMPLES = (
    "Fewer samples an optimizer step: learning rate and length of training are tuned "
    "anew, and the card is used less."
)


def _accumulated(plan: TrainingPlan, parts: int) -> Fields | str:
    """As many samples an optimizer step, in so many times more micro-batches."""
    batch = plan.per_device_train_batch_size
    if batch == 1:
        return ONE_SAMPLE
    if batch % parts:
        return f"{batch} samples cannot be divided by {parts}"
    return {
        "per_device_train_batch_size": batch // parts,
        "gradient_accumulation_steps": parts * plan.gradient_accumulation_steps,
    }


def _fewer(plan: TrainingPlan, batch: int) -> Fields | str:
    if plan.per_device_train_batch_size == 1:
        return ONE_SAMPLE
    return {"per_device_train_batch_size": max(batch, 1)}


TRICKS = (
    Trick(
        name="accumulation-2",
        title="accumulate over 2 halves",
        technique="gradient accumulation",
        exactness="rounding",
        cost=SAME_BATCH,
        source=DOCUMENTED + "gradient accumulation",
        changes=lambda plan: _accumulated(plan, 2),
    ),
    Trick(
        name="accumulation",
        title="accumulate sample by sample",
        technique="gradient accumulation",
        exactness="rounding",
        cost=SAME_BATCH,
        source=DOCUMENTED + "gradient accumulation",
        changes=lambda plan: _accumulated(plan, plan.per_device_train_batch_size),
    ),
    Trick(
        name="batch-half",
        title="half the micro-batch",
        technique="batch size",
        exactness="different optimisation",
        cost=FEWER_SAMPLES,
        source=DOCUMENTED + "batch size",
        changes=lambda plan: _fewer(plan, plan.per_device_train_batch_size // 2),
        suits_generation=True,
    ),
    Trick(
        name="batch-1",
        title="one sample a micro-batch",
        technique="batch size",
        exactness="different optimisation",
        cost=FEWER_SAMPLES,
        source=DOCUMENTED + "batch size",
        changes=lambda plan: _fewer(plan, 1),
        suits_generation=True,
    ),
)
