"""The largest micro-batch, length or rank that fits, and what would raise it.

found = fit(TrainingPlan(model="gpt2", gpu="rtx-4090"), "seq_len")
found.value, found.breaking_value
[(change.flags, change.value) for change in found.changes]
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

from memplan.compare import NOT_ESTIMATED, NOT_SEEN
from memplan.comparing.comparison import By, LeftOut
from memplan.comparing.engines import engine_of
from memplan.comparing.speed import speed_of
from memplan.errors import ConfigError, MemplanError, UnknownNameError
from memplan.estimating.changes import Fields, as_flags
from memplan.inputs.configs.reading import Asked
from memplan.inputs.configs.writing import Rewriting, rewritten
from memplan.plan import TrainingPlan
from memplan.report import Components, MemoryReport
from memplan.runner.training.refusals import check_combination
from memplan.searching.fitting import Edge, Look, Range, find_edge
from memplan.searching.looking import FIELDS, Looking, values_of, with_value
from memplan.tricks.catalogue import ALL, find_tricks
from memplan.tricks.trick import EXACTNESSES, Exactness, Trick, change_of

SCHEMA_VERSION = 1
MOST = 2**20
"""What is looked at, unless somebody asks for more."""
BY_ESTIMATE = "changes are estimated, shifted by what the estimate is off here"

StoppedBy = Literal["memory", "model", "limit"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A trick that raises the largest value."""

    trick: str
    title: str
    exactness: Exactness
    """What becomes of the results."""
    cost: str
    """What it takes in return."""
    fields: Fields
    """Of the plan, that it sets."""
    flags: str
    """The same, as they are typed."""
    value: int
    """The largest that fits with it."""
    plan: TrainingPlan
    """With it, and with that value."""
    breaking_value: int | None
    speed_change_fraction: float | None
    """Of samples per second, at the value that fits without it; None: not known."""
    rewriting: Rewriting | None = None
    """Of the user's files; None where there are none, or it cannot be done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How large a field of a plan can be."""

    schema_version: int = SCHEMA_VERSION
    memplan_version: str
    kind: Literal["fit"] = "fit"
    """Tells its JSON from that of a report."""
    by: By
    plan: TrainingPlan
    """As it was asked about."""
    field: str
    value: int | None
    """The largest that fits, before fragmentation; None: none does."""
    likely: int | None
    """The largest that fits with what PyTorch likely reserves; None: none."""
    surely: int | None
    """The largest that fits with all that PyTorch may reserve; None: none."""
    breaking_value: int | None
    """The next one, which does not fit, or is refused; None: there is none below
    `most`."""
    stopped_by: StoppedBy
    """memory; model: it takes no more; limit: all that were to be looked at fit."""
    refusal: str
    """Why the model does not take more."""
    skipped: tuple[int, ...]
    """Values just below the largest that do not fit: kernels want multiples."""
    most: int
    """Larger values were not looked at."""
    found: MemoryReport | None
    """At the largest value."""
    breaking: MemoryReport | None
    changes: tuple[Change, ...]
    """What raises it: what changes results least first, then what costs least."""
    left_out: tuple[LeftOut, ...]
    """Tricks that do not raise it, or do not suit, and why."""
    rewriting: Rewriting | None = None
    """Of the user's files, with the largest value; None where there are none."""
    assumptions: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    """What takes memory, or may, and is in no figure: keys of files among it."""

    @property
    def plan_that_fits(self) -> TrainingPlan | None:
        """The plan with the largest value."""
        if self.value is None:
            return None
        return with_value(self.plan, self.field, self.value)

    @property
    def growth(self) -> Components | None:
        """What is held more at the peak of the breaking value than of the largest."""
        if self.found is None or self.breaking is None:
            return None
        before, after = asdict(self.found.components), asdict(self.breaking.components)
        return Components(**{name: after[name] - before[name] for name in after})


def fit(
    plan: TrainingPlan,
    field: str,
    *,
    tricks: Sequence[str] = (ALL,),
    by: By = "estimate",
    jobs: int | None = None,
    most: int = MOST,
    asked: Asked | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Fit:
    """The largest value of a field that a plan fits with.

    Args:
        field: one of `FIELDS`.
        tricks: that may be changed to raise it: names, techniques, what becomes of
            results, or all.
        by: who confirms the largest value and the breaking one.
        jobs: rehearsals at once; None: as many as the machine has room for.
        most: larger values are not looked at.
        asked: the user's files that the plan is from: what they would say instead.
        say: is told of each value that was run.

    Raises:
        MemplanError: the plan cannot be looked at; a field or a trick is unknown.
    """
    if field not in FIELDS:
        raise UnknownNameError.of("field to make larger", field, FIELDS)
    looking = Looking(plan, field)
    values = values_of(looking, most)
    permitted = find_tricks(plan, tricks)
    engine = engine_of(by, jobs)
    edge = looking.edge(values, engine, say)
    stopped_by, refusal = _stop(looking, edge)
    changes: list[Change] = []
    left_out: list[LeftOut] = []
    if stopped_by == "memory":
        for trick, change in _changes(looking, edge, values, permitted):
            if isinstance(change, Change):
                changes.append(change)
            else:
                left_out.append(LeftOut(name=trick.name, reason=change))
    report = _report(looking, edge.beyond if edge.largest is None else edge.largest)
    assert report is not None  # the largest fits, and the smallest of all breaks
    found = Fit(
        memplan_version=version("memplan"),
        by=by,
        plan=plan,
        field=field,
        value=edge.largest,
        likely=_largest(looking.likely_fits, edge, values),
        surely=_largest(looking.surely_fits, edge, values),
        breaking_value=edge.beyond,
        stopped_by=stopped_by,
        refusal=refusal,
        skipped=edge.skipped,
        most=values.most,
        found=_report(looking, edge.largest),
        breaking=_report(looking, edge.beyond),
        changes=tuple(sorted(changes, key=_price)),
        left_out=tuple(left_out),
        assumptions=(*report.assumptions, *([] if by == "estimate" else [BY_ESTIMATE])),
        unsupported=report.unsupported,
    )
    return found if asked is None or not asked.files else _with_files(found, asked)


def as_dict(found: Fit) -> dict[str, Any]:
    """As plain data: of files, the patch and what they have no key for."""
    data = asdict(replace(found, rewriting=None, changes=()))
    data["changes"] = [
        asdict(replace(change, rewriting=None)) | _of_files(change.rewriting)
        for change in found.changes
    ]
    for change in data["changes"]:
        del change["rewriting"]
    del data["rewriting"]
    return data | _of_files(found.rewriting)


def _of_files(rewriting: Rewriting | None) -> dict[str, Any]:
    if rewriting is None:
        return {"patch": None, "not_in_files": {}}
    return {"patch": rewriting.diff, "not_in_files": rewriting.unsaid}


def _stop(looking: Looking, edge: Edge) -> tuple[StoppedBy, str]:
    """What ends it, and the model's words where it is the model."""
    if edge.beyond is None:
        return "limit", ""
    error = looking.estimated(edge.beyond)
    if isinstance(error, MemplanError):
        return "model", error.message
    return "memory", ""


def _largest(look: Look, edge: Edge, values: Range) -> int | None:
    """Of what fits, the largest of which something stronger is true."""
    if edge.largest is None:
        return None
    below = replace(values, start=edge.largest, most=edge.largest)
    return find_edge(look, below).largest


def _report(looking: Looking, value: int | None) -> MemoryReport | None:
    return None if value is None else looking.report(value)


def _changes(
    looking: Looking, edge: Edge, values: Range, tricks: Sequence[Trick]
) -> Iterator[tuple[Trick, Change | str]]:
    """Each trick: how far it raises the largest value, or why it does not."""
    is_run = _refusal(looking.plan) is None
    for trick in tricks:
        fields = change_of(trick, looking.plan)
        if isinstance(fields, str):
            yield trick, fields
        elif looking.name in fields:
            yield trick, f"it sets {looking.name} itself"
        elif fields.keys() <= NOT_SEEN:
            yield trick, NOT_ESTIMATED
        else:
            yield trick, _change(looking, edge, values, trick, fields, is_run)


def _change(
    looking: Looking,
    edge: Edge,
    values: Range,
    trick: Trick,
    fields: Fields,
    is_run: bool,
) -> Change | str:
    try:
        plan = replace(looking.plan, **fields)
    except MemplanError as error:
        return error.message.removesuffix(".")
    # What no library runs is no way out, though a formula has an answer.
    if is_run and (refusal := _refusal(plan)):
        return refusal
    tricked = Looking(plan, looking.name, looking.off_by)
    assert edge.beyond is not None
    at_the_end = tricked.estimated(edge.beyond)
    if isinstance(at_the_end, MemplanError):
        return at_the_end.message.removesuffix(".")
    if tricked.fits(edge.beyond) != "fits":
        return "it does not raise it"
    raised = find_edge(tricked.fits, replace(values, start=edge.beyond))
    assert raised.largest is not None
    return Change(
        trick=trick.name,
        title=trick.title,
        exactness=trick.exactness,
        cost=trick.cost,
        fields=fields,
        flags=as_flags(fields),
        value=raised.largest,
        plan=tricked.at(raised.largest),
        breaking_value=raised.beyond,
        speed_change_fraction=_speed_change(
            looking, tricked, edge.beyond if edge.largest is None else edge.largest
        ),
    )


def _refusal(plan: TrainingPlan) -> str | None:
    """Why no library runs it, whether or not it is installed here."""
    try:
        check_combination(plan)
    except MemplanError as error:
        return error.message.removesuffix(".")
    return None


def _speed_change(before: Looking, after: Looking, value: int) -> float | None:
    """Of samples per second, both with the same value."""
    reports = (before.estimated(value), after.estimated(value))
    if any(isinstance(report, MemplanError) for report in reports):
        return None
    a, b = (
        speed_of(one.at(value), report, before.at(value))
        for one, report in zip((before, after), reports, strict=True)
        if isinstance(report, MemoryReport)
    )
    return b.samples_per_s / a.samples_per_s - 1 if a and b else None


def _price(change: Change) -> tuple[int, float, int]:
    """What changes results least first; then what costs least speed."""
    speed = change.speed_change_fraction
    lost = 1.0 if speed is None else -round(speed, 2)
    return EXACTNESSES.index(change.exactness), lost, -change.value


def _with_files(found: Fit, asked: Asked) -> Fit:
    """With what the user's files would say: for the largest value, and each change.

    Raises:
        ConfigError: the files cannot be read any more.
    """
    plan = found.plan_that_fits
    return replace(
        found,
        assumptions=(*found.assumptions, *asked.assumed),
        unsupported=(*found.unsupported, *asked.not_read),
        changes=tuple(
            replace(change, rewriting=_rewritten(asked, change.plan))
            for change in found.changes
        ),
        rewriting=None if plan is None else rewritten(asked, plan),
    )


def _rewritten(asked: Asked, plan: TrainingPlan) -> Rewriting | None:
    try:
        return rewritten(asked, plan)
    except ConfigError:
        return None
