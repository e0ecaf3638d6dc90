"""What candidates take, each asked of the closed form once.

Plans that differ only in what moves no memory are one: cards of the same processors,
ranks of DDP beyond the second, micro-batches accumulated beyond the second. And what a
step holds besides its optimizer is one for all optimizers: a bound from below, for
which it is traced once.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from memplan.errors import MemplanError
from memplan.estimate import estimate
from memplan.estimating.card import (
    card_of,
    context_of,
    processors_of,
    torch_version_of,
)
from memplan.estimating.moments import moments_of
from memplan.estimating.rank import part_of
from memplan.estimating.step import Step, trace_step
from memplan.formulas.optimizers import find_optimizer, state_tensors
from memplan.hardware import Gpu
from memplan.models import find_model
from memplan.plan import TrainingPlan
from memplan.runner.training.refusals import check_combination

STATELESS = "sgd"


class Needs:
    """The closed form, and what it has said already."""

    def __init__(self, gpus: Iterable[Gpu]) -> None:
        """Get ready for plans on these cards."""
        self._stands_for: dict[str, str] = {}
        alike: dict[object, str] = {}
        for gpu in gpus:
            first = alike.setdefault(processors_of(gpu), gpu.slug)
            self._stands_for[gpu.slug] = first
        self._reserved: dict[TrainingPlan, int | str] = {}
        self._steps: dict[TrainingPlan, Step | str] = {}
        self._refused: dict[TrainingPlan, str | None] = {}

    @property
    def num_estimated(self) -> int:
        """Plans that were traced, for a bound or for all that they take."""
        return len(self._reserved) + len(self._steps)

    def refusal(self, plan: TrainingPlan, gpu: Gpu) -> str | None:
        """Why no library runs a plan on such a card, whatever its batch."""
        key = replace(plan, gpu=self._stands_for[gpu.slug])
        if key not in self._refused:
            try:
                check_combination(key)
                self._refused[key] = None
            except MemplanError as error:
                self._refused[key] = reason_of(error)
        return self._refused[key]

    def device_bytes(self, plan: TrainingPlan) -> int | str:
        """What a plan takes, with what PyTorch likely reserves; or why not."""
        key = self._key(plan)
        if key not in self._reserved:
            try:
                self._reserved[key] = _reserved_bytes(key)
            except MemplanError as error:
                self._reserved[key] = reason_of(error)
        reserved = self._reserved[key]
        return reserved if isinstance(reserved, str) else reserved + _outside(plan)

    def standing_bytes(self, plan: TrainingPlan) -> int | str:
        """No less than the model states, whatever is computed again or kept where."""
        plan = replace(
            plan,
            per_device_train_batch_size=1,
            activation_checkpointing="none",
            cross_entropy_chunks=1,
            offload_activations=False,
        )
        return self._least_of(plan, _standing)

    def least_bytes(self, plan: TrainingPlan) -> int | str:
        """No less than the step beside its optimizer, and the states of that."""
        return self._least_of(plan, _highest)

    def _least_of(self, plan: TrainingPlan, bound: Callable[[Step], int]) -> int | str:
        key = self._key(plan)
        # Of ZeRO-1 in PyTorch the optimizer decides which rank is the most loaded.
        if plan.zero_stage != 1 or plan.sharding != "fsdp2":
            key = replace(key, optim=STATELESS)
        if key not in self._steps:
            try:
                self._steps[key] = _step(key)
            except MemplanError as error:
                self._steps[key] = reason_of(error)
        step = self._steps[key]
        if isinstance(step, str):
            return step
        beside = 0 if key.optim == plan.optim else _states_bytes(step, plan)
        return bound(step) + beside + _outside(plan)

    def _key(self, plan: TrainingPlan) -> TrainingPlan:
        ranks = plan.num_gpus if plan.zero_stage else min(plan.num_gpus, 2)
        return replace(
            plan,
            gpu=self._stands_for[plan.gpu],
            num_gpus=ranks,
            gradient_accumulation_steps=min(plan.gradient_accumulation_steps, 2),
        )


def room_of(plan: TrainingPlan) -> int:
    """What the device has for a plan, its headroom left free."""
    total = card_of(plan).total_bytes
    return total - int(total * plan.headroom_fraction)


def reason_of(error: MemplanError) -> str:
    """Its sentence as part of another."""
    return error.message.removesuffix(".")


def _outside(plan: TrainingPlan) -> int:
    """Bytes on the device that the allocator does not hold."""
    context, _ = context_of(plan, card_of(plan))
    return context


def _reserved_bytes(plan: TrainingPlan) -> int:
    """Raises MemplanError: the plan has no estimate."""
    report = estimate(plan)
    likely = report.reserved.likely_bytes if report.reserved else 0
    return max(report.peak.reserved_bytes, likely)


def _step(plan: TrainingPlan) -> Step:
    """Raises MemplanError: the plan does not suit the model."""
    capability, num_sms = processors_of(card_of(plan))
    return trace_step(
        plan,
        part_of(plan, find_model(plan.model or "", plan.revision)),
        find_optimizer(plan.optim),
        capability,
        torch_version_of(plan),
        num_sms,
    )


def _states_bytes(step: Step, plan: TrainingPlan) -> int:
    """States of the plan's optimizer in a step that was traced with another."""
    optimizer = find_optimizer(plan.optim)
    return sum(p.count * sum(state_tensors(optimizer, p)) for p in step.updated)


def _standing(step: Step) -> int:
    """When the optimizer steps, without what that needs for a moment."""
    states = step.weights.and_(step.gradients).and_(step.optimizer_states)
    return states.block_bytes


def _highest(step: Step) -> int:
    """Of the passes of the steady step, and of that moment."""
    passes = (m.allocated for m in moments_of(step, 0) if m.phase != "optimizer")
    return max(*passes, _standing(step))
