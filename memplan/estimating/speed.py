"""How long an optimizer step takes at the least, from counts and the card's rates.

    step = counted_step(TrainingPlan(model="llama-2-7b", gpu="a100-80gb"))
    step.seconds, step.flops, step.moved_bytes

A bound from below, good for ratios between plans on one card: no launch overhead, no
data loading, no communication between GPUs, and kernels at the rates of the datasheet.
"""

from collections.abc import Sequence

from memplan.errors import PlanError
from memplan.estimating.card import card_of, torch_version_of
from memplan.estimating.rank import part_of, stages_of
from memplan.estimating.step import Step, sharder_of, trace_step
from memplan.formulas.optimizers import find_optimizer, state_tensors
from memplan.formulas.parallel import WHOLE
from memplan.formulas.parameters import Parameter
from memplan.formulas.work import MeteredTape, Rates, Work, optimizer_bytes
from memplan.hardware import ASSUMED_SMS, Gpu
from memplan.models import find_model
from memplan.plan import TrainingPlan

NOT_COUNTED = (
    "launches of kernels, data loading and communication between GPUs are not counted; "
    "rates are those of the card's datasheet, which no run reaches"
)
"""What a counted time leaves out."""


def counted_step(plan: TrainingPlan) -> Work:
    """What one GPU does in an optimizer step: all its micro-batches, and the update.

    Raises:
        PlanError: a step of this plan is not decided by its counts: it generates, moves
            something over the host's bus, is divided by pipeline, or the card's rates
            are not known.
        MemplanError: as `estimate`.
    """
    micro_batch, step = counted_micro_batch(plan)
    updated = sharder_of(plan).updated(step.parameters)
    return counted_update(plan, updated).plus(
        micro_batch, plan.gradient_accumulation_steps
    )


def counted_micro_batch(plan: TrainingPlan) -> tuple[Work, Step]:
    """What one GPU does for a micro-batch, forward and backward; and the traced step.

    Raises:
        PlanError: as `counted_step`.
        MemplanError: as `estimate`.
    """
    _check(plan)
    gpu = card_of(plan)
    model = find_model(plan.model or "", plan.revision)
    tapes: list[MeteredTape] = []

    def metered(**given: object) -> MeteredTape:
        tapes.append(MeteredTape(rates=rates_of(gpu, plan), **given))  # type: ignore[arg-type]
        return tapes[-1]

    step = trace_step(
        plan,
        part_of(plan, model),
        find_optimizer(plan.optim),
        gpu.compute_capability or (9, 0),
        torch_version_of(plan),
        gpu.num_sms or ASSUMED_SMS,
        make_tape=metered,
    )
    (tape,) = tapes
    return tape.work, step


def rates_of(gpu: Gpu, plan: TrainingPlan) -> Rates:
    """The rates of a card for a plan: fp32 products run as TF32 where it says so.

    Raises:
        PlanError: one of them is not known.
    """
    peak = gpu.peak_flops
    if gpu.memory_bandwidth_bytes_per_s is None or "fp32" not in peak:
        raise PlanError(
            f"How fast {gpu.name} is is not known.",
            hint="Name a card that `memplan gpus` shows with its rates.",
        )
    fp32 = peak.get("tf32", peak["fp32"]) if plan.precision == "tf32" else peak["fp32"]
    halves = {dtype: peak.get(dtype, fp32) for dtype in ("bf16", "fp16")}
    int8 = peak.get("int8", halves["fp16"])
    return Rates(
        float(gpu.memory_bandwidth_bytes_per_s), {"fp32": fp32, "int8": int8, **halves}
    )


def _check(plan: TrainingPlan) -> None:
    if plan.model is None or plan.generates:
        raise PlanError(
            "Steps are counted of a model that is trained.",
            hint="Leave --workload and --parameters out.",
        )
    if plan.offload_optimizer or plan.offload_parameters or plan.offload_activations:
        raise PlanError(
            "With offload the host and its bus decide how long a step takes.",
            hint="Measure it with `memplan profile`.",
        )
    if find_optimizer(plan.optim).is_paged:
        raise PlanError(
            "Pages of states cross the host's bus when they are needed.",
            hint="Measure it with `memplan profile`.",
        )
    if stages_of(plan) != (WHOLE,):
        raise PlanError(
            "The bubble of a pipeline is not counted.",
            hint="Measure it with `memplan profile`.",
        )


def counted_update(plan: TrainingPlan, updated: Sequence[Parameter]) -> Work:
    """Clipping and the optimizer's step over the tensors it sees: bytes alone."""
    optimizer = find_optimizer(plan.optim)
    moved = sum(
        p.count
        * optimizer_bytes(
            p.num_elements,
            p.stored.dtype,
            sum(state_tensors(optimizer, p)),
            plan.max_grad_norm > 0,
        )
        for p in updated
    )
    return Work(0, moved, moved / rates_of(card_of(plan), plan).bytes_per_s)
