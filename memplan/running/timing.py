"""How long the steps of a card took, and what they came to in a second.

The runner times steps after those whose memory it watched. What is a sample, and in
which precision the card's rate counts, only a plan says: a program's steps have times
and, where they were counted, operations.
"""

from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Any

from memplan.hardware import Gpu
from memplan.models import find_model
from memplan.models.batch import batch_of
from memplan.plan import TrainingPlan
from memplan.report import StepTiming

MS_PER_S = 1000


def timing_of(
    seen: Mapping[str, Any] | None, plan: TrainingPlan | None, gpu: Gpu
) -> StepTiming | None:
    """The times that a process took; None where no step was timed."""
    if seen is None or not seen["step_ms"]:
        return None
    steps_ms = seen["step_ms"]
    typical_ms = median(steps_ms)
    low_ms, high_ms = _tenths(steps_ms)
    samples, tokens = _per_step(plan)
    flops = seen["flops_per_step"]
    rate = None if flops is None else flops * MS_PER_S / typical_ms
    peak = None if plan is None else gpu.peak_flops.get(_rate_of(plan))
    return StepTiming(
        num_steps=len(steps_ms),
        median_ms=typical_ms,
        low_ms=low_ms,
        high_ms=high_ms,
        data_stall_ms=median(seen["stall_ms"]) if seen["stall_ms"] else None,
        samples_per_s=None if samples is None else samples * MS_PER_S / typical_ms,
        tokens_per_s=tokens * MS_PER_S / typical_ms if tokens else None,
        flops_per_step=flops,
        flops_per_s=rate,
        fraction_of_peak=None if rate is None or peak is None else rate / peak,
    )


def _tenths(values: Sequence[float]) -> tuple[float, float]:
    """A tenth of the values lies below the first, and a tenth above the second."""
    if len(values) == 1:
        return values[0], values[0]
    cuts = quantiles(values, n=10, method="inclusive")
    return cuts[0], cuts[-1]


def _per_step(plan: TrainingPlan | None) -> tuple[int | None, int | None]:
    """Samples and tokens that one GPU trains on from one optimizer step to the next."""
    if plan is None or plan.model is None or plan.generates:
        return None, None
    batch = batch_of(plan, find_model(plan.model, plan.revision))
    samples = batch.size * plan.gradient_accumulation_steps
    return samples, samples * batch.seq_len


def _rate_of(plan: TrainingPlan) -> str:
    """The key of the card's rate: bf16 for bf16-mixed and bf16-pure."""
    return plan.precision.partition("-")[0]
