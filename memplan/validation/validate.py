"""Records of measurements held against what memplan says today of their plans.

    validation = validate(records_under(Path("profiles/measured")))
    validation.errors("estimated", "allocated").median_fraction

An error is prediction less measurement. That of a peak is a fraction of the measured
peak, that of a component a fraction of the measured allocated peak: those of the
components add up to that of the allocated peak. Below zero is an under-estimate, which
on a card is a run out of memory.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from memplan.diff import diff
from memplan.errors import MemplanError
from memplan.estimate import estimate
from memplan.hardware import find_gpu
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport
from memplan.validation.cases import PLAIN, Case, Engine, Errors, Verdict, errors_of
from memplan.validation.elsewhere import Found as Answered
from memplan.validation.elsewhere import reason_of
from memplan.validation.records import Found, Record

Reference = Literal["measured", "rehearsed"]
DEFAULT_ALLOCATOR = "caching allocator, default settings"
ALLOCATOR_PREFIX = "caching allocator, "
UNUSABLE = {"failed": "it failed", "timeout": "it took too long and was stopped"}
"""Ends of which nothing can be said."""

Say = Callable[[str], None]
Rehearse = Callable[[Iterable[TrainingPlan]], Iterator[tuple[TrainingPlan, Answered]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A file that is held against nothing, or not against one of the predictions."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """What came of all records."""

    reference: Reference
    """What the records are; rehearsed ones only where they were asked for."""
    engines: tuple[Engine, ...]
    num_records: int
    """Held against at least one prediction."""
    cases: tuple[Case, ...]
    skipped: tuple[Skipped, ...]

    def of(self, engine: Engine) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.engine == engine)

    def errors(self, engine: Engine, term: str) -> Errors | None:
        """None where no case of the engine has that term."""
        return errors_of(self.of(engine), term)

    def by_trick(self, engine: Engine) -> dict[str, tuple[Case, ...]]:
        """The cases of each trick; a case counts for all those that its plan sets."""
        names = {trick for case in self.of(engine) for trick in case.tricks}
        return {
            name: tuple(case for case in self.of(engine) if name in case.tricks)
            for name in sorted(names, key=lambda name: (name != PLAIN, name))
        }

    def by_kind(self, engine: Engine) -> dict[str, tuple[Case, ...]]:
        """The cases of each class of plans that bands are made of."""
        kinds = {case.kind for case in self.of(engine) if case.kind is not None}
        return {
            kind: tuple(case for case in self.of(engine) if case.kind == kind)
            for kind in sorted(kinds)
        }

    def phase_rate(self, engine: Engine) -> float | None:
        """The part of the cases whose phase of the peak was named rightly."""
        named = [case.names_phase for case in self.of(engine)]
        known = [is_right for is_right in named if is_right is not None]
        return sum(known) / len(known) if known else None

    @property
    def lowest_fraction(self) -> float:
        """The worst under-estimate of the allocated peak; 0 where there is none."""
        errors = [case.error_fraction("allocated") or 0 for case in self.cases]
        return min((0.0, *errors))

    def worst_first(self) -> tuple[Case, ...]:
        """Runs that were thought to fit, then by the size of the allocated error."""
        return tuple(sorted(self.cases, key=_badness, reverse=True))

    def beyond(self, limit_fraction: float) -> tuple[Case, ...]:
        """Under-estimates of the allocated peak by more, and runs thought to fit."""
        return tuple(
            case
            for case in self.worst_first()
            if case.verdict == "missed"
            or (case.error_fraction("allocated") or 0) < -limit_fraction
        )


def validate(
    found: Found,
    *,
    rehearse: Rehearse | None = None,
    against: Reference = "measured",
    say: Say = lambda line: None,
) -> Validation:
    """Hold every record against today's estimate, and with `rehearse` a rehearsal too.

    Args:
        found: what `records_under` found.
        rehearse: rehearses plans, as `Rehearsals.look` does; None: none are.
        against: rehearsed takes the records of the virtual card, and no others.
        say: is told what has been rehearsed.

    Raises:
        ExecutorError: rehearsals go to an executor, and it fails.
    """
    engines: tuple[Engine, ...] = (
        ("estimated", "rehearsed") if rehearse else ("estimated",)
    )
    cases: list[Case] = []
    skipped = [Skipped(path=path, reason=reason) for path, reason in found.broken]
    usable: list[_Usable] = []
    for path, record in found.records:
        reason = _refused(record, against)
        if reason is None:
            try:
                usable.append(_usable(path, record))
                continue
            except MemplanError as error:
                reason = f"not estimated: {error.message}"
        skipped.append(Skipped(path=path, reason=reason))
    rehearsed = _rehearsed(usable, rehearse, say) if rehearse else {}
    for one in usable:
        for engine in engines:
            predicted = (
                _estimated(one) if engine == "estimated" else rehearsed[one.plan]
            )
            if isinstance(predicted, MemoryReport):
                cases.append(_case(one, engine, predicted))
            else:
                reason = f"not {engine}: {predicted}."
                skipped.append(Skipped(path=one.path, reason=reason))
    return Validation(
        reference=against,
        engines=engines,
        num_records=len({(case.path, case.entry) for case in cases}),
        cases=tuple(cases),
        skipped=tuple(skipped),
    )


@dataclass(frozen=True, slots=True)
class _Usable:
    """A record that predictions are held against."""

    path: Path
    record: Record
    report: MemoryReport
    """The record's own."""
    plan: TrainingPlan
    """With the size, the context and the allocator that the run had."""


def _refused(record: Record, reference: Reference) -> str | None:
    """Why a record is held against nothing, if it is not."""
    if record.report is None:
        how = UNUSABLE.get(record.ended, "it ran out of memory and has no report")
        return f"{how}: {record.error}" if record.error else how
    if record.report.source != reference:
        if reference == "rehearsed":
            return "it is measured, and rehearsed ones are asked for"
        return (
            "it says rehearsed, which is no measurement (--against rehearsed takes it)"
        )
    if record.ended in UNUSABLE:
        return UNUSABLE[record.ended]
    return None


def _usable(path: Path, record: Record) -> _Usable:
    """Raises UnknownNameError: the catalogue does not know the card."""
    assert record.report is not None
    device = record.report.device
    gpu = find_gpu(device.gpu)
    is_of_catalogue = gpu.total_bytes == device.total_bytes
    plan = replace(
        record.plan,
        gpu=gpu.slug,
        gpu_memory_bytes=None if is_of_catalogue else device.total_bytes,
        context_bytes=device.context_bytes,
        alloc_conf=_settings(record.report),
        torch=None,
    )
    return _Usable(path, record, record.report, plan)


def _rehearsed(
    usable: Iterable[_Usable], rehearse: Rehearse, say: Say
) -> dict[TrainingPlan, Answered]:
    """Each plan once, though there be several records of it."""
    entries = {one.plan: one.record.entry for one in usable}
    answers: dict[TrainingPlan, Answered] = {}
    for plan, answer in rehearse(entries):
        answers[plan] = answer
        say(f"rehearsed {len(answers)} of {len(entries)}: {entries[plan]}")
    return answers


def _estimated(one: _Usable) -> Answered:
    """For the torch that the run had."""
    try:
        return estimate(_with_its_torch(one))
    except MemplanError as error:
        return reason_of(error)


def _with_its_torch(one: _Usable) -> TrainingPlan:
    version = ".".join(one.report.device.torch.split("+")[0].split(".")[:2])
    return replace(one.plan, torch=version)


def _case(one: _Usable, engine: Engine, predicted: MemoryReport) -> Case:
    """One prediction of one record."""
    difference = diff(one.report, predicted)
    has_peaks = one.record.ended == "finished" and not difference.without_peak
    return Case(
        path=one.path,
        entry=one.record.entry,
        measured_at=one.record.measured_at,
        engine=engine,
        plan=_with_its_torch(one) if engine == "estimated" else one.plan,
        verdict=_verdict(one.record, predicted),
        difference=difference if has_peaks else None,
    )


def _settings(report: MemoryReport) -> str | None:
    """Of the allocator; None for the default ones."""
    allocator = report.device.allocator
    if allocator == DEFAULT_ALLOCATOR:
        return None
    return allocator.removeprefix(ALLOCATOR_PREFIX)


def _verdict(record: Record, predicted: MemoryReport) -> Verdict:
    """Whether it was said beforehand that the run would, or would not, fit.

    A run that came through is none that was wrongly refused because of the headroom.
    """
    if record.ended == "out_of_memory":
        return "missed" if predicted.fits else "foretold"
    is_too_much = predicted.peak.device_bytes > predicted.device.total_bytes
    return "false alarm" if is_too_much else "ran"


def _badness(case: Case) -> tuple[bool, float]:
    return case.verdict == "missed", abs(case.error_fraction("allocated") or 0)
