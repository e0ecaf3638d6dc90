"""One field of a plan at many values: what each takes, by estimate and by a run.

Every value is estimated. A run, virtual or real, is asked where fitting ends; what the
estimate is off there by is added to all others, and the end is looked for again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from memplan.comparing.comparison import need_of
from memplan.comparing.engines import Engine
from memplan.errors import MemplanError, PlanError
from memplan.estimate import estimate
from memplan.estimating.changes import Fields
from memplan.models import find_model
from memplan.models.batch import batch_of, seq_len_of
from memplan.models.workload import generation_of
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport, ReservedMemory
from memplan.searching.fitting import Edge, Range, State, find_edge, stride_of

FIELDS = (
    "per_device_train_batch_size",
    "seq_len",
    "target_seq_len",
    "images_per_sample",
    "image_size",
    "lora_rank",
    "max_new_tokens",
    "num_shots",
)
"""What can be made as large as fits."""
ROUNDS = 8
"""Of runs. The second one nearly always confirms the first."""


@dataclass(slots=True)
class Looking:
    """A plan whose field takes one value after another."""

    plan: TrainingPlan
    name: str
    """Of the field."""
    off_by: int = 0
    """Bytes that are added to every estimate."""
    run: dict[int, MemoryReport] = field(default_factory=dict)
    """Values that were rehearsed or measured."""
    _estimated: dict[int, MemoryReport | MemplanError] = field(default_factory=dict)

    def at(self, value: int) -> TrainingPlan:
        """The plan with that value.

        Raises:
            MemplanError: it does not suit.
        """
        return with_value(self.plan, self.name, value)

    def estimated(self, value: int) -> MemoryReport | MemplanError:
        """What it takes by estimate, or why it has none."""
        if value not in self._estimated:
            try:
                self._estimated[value] = estimate(self.at(value))
            except MemplanError as error:
                self._estimated[value] = error
        return self._estimated[value]

    def report(self, value: int) -> MemoryReport | None:
        """The best there is; None where the value is refused."""
        found = self.run.get(value) or self.estimated(value)
        return found if isinstance(found, MemoryReport) else None

    def fits(self, value: int) -> State:
        """Before fragmentation."""
        if value in self.run:
            return "fits" if self.run[value].fits else "breaks"
        report = self.report(value)
        if report is None:
            return "refused"
        return "fits" if report.headroom_bytes >= self.off_by else "breaks"

    def likely_fits(self, value: int) -> State:
        """With what PyTorch likely reserves; of a run that is what it did reserve."""
        reserved = self._reserved(value)
        return self._fits_with(value, reserved.likely_bytes if reserved else None)

    def surely_fits(self, value: int) -> State:
        """With all that PyTorch may reserve."""
        reserved = self._reserved(value)
        return self._fits_with(value, reserved.high_bytes if reserved else None)

    def _reserved(self, value: int) -> ReservedMemory | None:
        report = self.report(value)
        return None if report is None else report.reserved

    def _fits_with(self, value: int, reserved_bytes: int | None) -> State:
        report, state = self.report(value), self.fits(value)
        if report is None or reserved_bytes is None or state != "fits":
            return state
        beside = reserved_bytes - report.peak.reserved_bytes
        return "fits" if report.headroom_bytes - self.off_by >= beside else "breaks"

    def edge(self, values: Range, engine: Engine, say: Callable[[str], None]) -> Edge:
        """Where fitting ends, as the engine has it.

        Raises:
            PlanError: the engine cannot look at the plan.
        """
        edge = find_edge(self.fits, values)
        if engine.by == "estimate":
            return edge
        for _ in range(ROUNDS):
            ends = (edge.largest, edge.beyond)
            asked = [v for v in ends if v is not None and self._is_new(v)]
            if not asked:
                break
            self._run(asked, engine, say)
            edge = find_edge(self.fits, values)
        return edge

    def _is_new(self, value: int) -> bool:
        return value not in self.run and self.report(value) is not None

    def _run(
        self, values: list[int], engine: Engine, say: Callable[[str], None]
    ) -> None:
        plans = {self.at(value): value for value in values}
        for plan, found in engine.look(plans):
            value = plans[plan]
            if isinstance(found, str):
                raise PlanError(
                    f"{self.name} {value} cannot be looked at: {found}.",
                    hint="Ask by estimate: leave --by out.",
                )
            say(f"{self.name} {value} {'fits' if found.fits else 'does not fit'}")
            self.run[value] = found
            estimated = self.estimated(value)
            assert isinstance(estimated, MemoryReport)
            self.off_by = need_of(found) - need_of(estimated)


def with_value(plan: TrainingPlan, name: str, value: int) -> TrainingPlan:
    """The plan with another value of one field.

    Raises:
        MemplanError: it does not suit.
    """
    change: Fields = {name: value}
    return replace(plan, **change)


def values_of(looking: Looking, most: int) -> Range:
    """The values to look at, from the one that the plan has.

    Raises:
        MemplanError: that is refused, or it is the only one that is not.
        PlanError: the field decides nothing here.
    """
    name = looking.name
    least = 0 if name == "num_shots" else 1
    start = value_of(looking.plan, name)
    first = looking.estimated(start)
    if isinstance(first, MemplanError):
        raise first
    start = min(start, most)
    stride = stride_of(looking.fits, start, least, most)
    if stride is None:
        other = looking.estimated(start + 1)
        assert isinstance(other, MemplanError)
        raise other
    values = Range(start=start, stride=stride, least=least, most=most)
    if not _decides(looking, values):
        raise PlanError(
            f"{name} changes nothing of what this plan takes.",
            hint="Add --trainable lora."
            if name == "lora_rank"
            else "Ask for another: per-device-train-batch-size always does.",
        )
    return values


def value_of(plan: TrainingPlan, name: str) -> int:
    """What a field is where the plan leaves it to the model.

    Raises:
        MemplanError: the plan has no model, or does not suit it.
    """
    if plan.model is None:
        raise PlanError(
            f"A parameter count has no {name}.",
            hint="Name a model of `memplan models`.",
        )
    model = find_model(plan.model, plan.revision)
    run = generation_of(plan, model)
    batch = batch_of(run, model)
    own = {
        "seq_len": seq_len_of(run, model),
        "target_seq_len": batch.target_seq_len,
        "images_per_sample": batch.images_per_sample,
        "image_size": batch.image_size,
        "max_new_tokens": max(run.max_new_tokens, 1),
    }
    if name in own:
        return own[name] or 1
    value: int = getattr(plan, name)
    return value


def _decides(looking: Looking, values: Range) -> bool:
    """Whether another value makes any phase larger or smaller."""
    here = looking.report(values.start)
    far, near = 2 * values.start, values.start + values.stride
    for other in (far, near, values.start - values.stride):
        there = looking.report(values.snap(other))
        if here and there and there.phases != here.phases:
            return True
    return False
