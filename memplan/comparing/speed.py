"""How long a step of a plan takes, where that is more than a guess."""

from memplan.comparing.comparison import Speed
from memplan.errors import MemplanError
from memplan.estimating.speed import counted_step
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport


def speed_of(
    plan: TrainingPlan, report: MemoryReport, beside: TrainingPlan
) -> Speed | None:
    """As it was timed on a card; of other reports as it is counted, if it can be.

    Communication is not counted: a plan that is sharded otherwise than the one it
    stands `beside` has none to compare.
    """
    if report.source == "measured":
        return _measured(report)
    return counted_speed(plan) if _talks_alike(plan, beside) else None


def _talks_alike(a: TrainingPlan, b: TrainingPlan) -> bool:
    """Whether the GPUs of both plans exchange the same."""
    return (a.num_gpus, _sharding(a)) == (b.num_gpus, _sharding(b))


def _sharding(plan: TrainingPlan) -> tuple[int, str]:
    is_sharded = plan.num_gpus > 1 and plan.zero_stage > 0
    return (plan.zero_stage, plan.sharding) if is_sharded else (0, "")


def _measured(report: MemoryReport) -> Speed | None:
    """What ran out of memory has no times."""
    timing = report.timing
    if timing is None or timing.samples_per_s is None:
        return None
    return Speed(
        basis="measured",
        step_ms=timing.median_ms,
        samples_per_s=timing.samples_per_s,
        flops_per_step=timing.flops_per_step,
    )


def counted_speed(plan: TrainingPlan) -> Speed | None:
    """From FLOPs and bytes, and the card's rates; None where they do not decide it."""
    try:
        work = counted_step(plan)
    except MemplanError:
        return None
    samples = plan.per_device_train_batch_size * plan.gradient_accumulation_steps
    return Speed(
        basis="counted",
        step_ms=1000 * work.seconds,
        samples_per_s=samples / work.seconds,
        flops_per_step=work.flops,
        bytes_per_step=work.moved_bytes,
    )
