"""The grid: the plans on which the closed form is held against rehearsals.

    profiles/grid/axes.toml        what is varied, family by family
    profiles/grid/plans.jsonl      the plans that were drawn from it, one a line
    profiles/grid/rehearsed.jsonl  what each took on a virtual card, one record a line
    profiles/grid/expandable.jsonl the same of every fourth, with segments that grow

`scripts/grid` draws and rehearses. A plan that was drawn once stays what it is: what is
kept of it is kept under its name.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

from memplan.errors import MemplanError, ProfileError
from memplan.estimate import estimate
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport
from memplan.runner.training.refusals import check
from memplan.units import GiB
from memplan.validation.records import Found, Record, record_of

LARGEST_BYTES = 1024 * GiB
"""A plan beyond it is nobody's: batch and length were drawn apart."""
MOST_DRAWS = 1000
"""Of one plan; more, and the axes leave nothing that can be run."""
WITHOUT_LIMIT_BYTES = 4096 * GiB
"""Of every card: the question is what a plan needs."""
PLANS, REHEARSED, EXPANDABLE = "plans.jsonl", "rehearsed.jsonl", "expandable.jsonl"
GROWING = "expandable_segments:True"
ONE_IN = 4
"""Of the plans, rehearsed with segments that grow too."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan of the grid. Its name is the family and a number: `llama-07`."""

    name: str
    plan: TrainingPlan

    @property
    def family(self) -> str:
        return self.name.rpartition("-")[0]

    @property
    def number(self) -> int:
        return int(self.name.rpartition("-")[2])


def grid() -> tuple[Planned, ...]:
    """All plans of the grid, in their order."""
    return tuple(_planned(json.loads(line)) for line in _lines(PLANS))


def growing() -> tuple[Planned, ...]:
    """Some plans of the grid, with segments that grow in place."""
    return tuple(
        Planned(planned.name, replace(planned.plan, alloc_conf=GROWING))
        for planned in grid()[::ONE_IN]
    )


def rehearsed() -> Found:
    """What is kept of all these plans, in the order in which they were run."""
    return Found(
        records=tuple(
            (_folder() / name, record_of(line, _folder() / name))
            for name in (REHEARSED, EXPANDABLE)
            for line in _lines(name)
        )
    )


def missing() -> tuple[Planned, ...]:
    """The plans of which nothing is kept, families in turn."""
    kept = {(record.entry, record.plan.alloc_conf) for _, record in rehearsed().records}
    ahead = [
        planned
        for planned in (*grid(), *growing())
        if (planned.name, planned.plan.alloc_conf) not in kept
    ]
    return tuple(
        sorted(ahead, key=lambda one: (one.plan.alloc_conf is not None, one.number))
    )


def without_limit(planned: Planned) -> TrainingPlan:
    """The plan to rehearse, on a card that holds whatever it needs."""
    return replace(planned.plan, gpu_memory_bytes=WITHOUT_LIMIT_BYTES)


def rehearsed_as(planned: Planned, report: MemoryReport) -> Record:
    """The record of a plan that has been rehearsed just now."""
    return Record(
        entry=planned.name,
        plan=without_limit(planned),
        ended="finished",
        report=_in_brief(report),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def keep(record: Record) -> None:
    """Add a record to those that are kept."""
    name = REHEARSED if record.plan.alloc_conf is None else EXPANDABLE
    with (_folder() / name).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def draw() -> dict[str, int]:
    """Draw what is not there, or cannot be run any more; how many of each family."""
    axes = read_axes()
    there = {planned.name: planned for planned in grid()}
    count = dict.fromkeys(axes["family"], 0)
    lines = []
    for family in axes["family"]:
        for new in drawn(axes, family):
            old = there.get(new.name)
            if old is None or not is_runnable(old.plan):
                count[family] += 1
                old = new
            lines.append(as_line(old) + "\n")
    (_folder() / PLANS).write_text("".join(lines), encoding="utf-8")
    return count


def is_runnable(plan: TrainingPlan) -> bool:
    """Whether a plan can be rehearsed, and is of a size that somebody trains."""
    try:
        check(plan)
        return estimate(plan).peak.allocated_bytes <= LARGEST_BYTES
    except MemplanError:
        return False


def drawn(axes: Mapping[str, Any], family: str) -> Iterator[Planned]:
    """The plans of a family: the same for the same seed, whatever other families are.

    Raises:
        ProfileError: the axes leave nothing that can be run.
    """
    own = dict(axes["family"][family])
    num_plans, seed = own.pop("plans"), f"{axes['seed']} {family}"
    columns = {
        name: _balanced(values, num_plans, Random(f"{seed} {name}"))
        for name, values in {**axes["axes"], **own}.items()
    }
    for number in range(num_plans):
        first = {name: column[number] for name, column in columns.items()}
        name = f"{family}-{number + 1:02}"
        yield Planned(name, _runnable(first, columns, axes["never"], Random(name)))


def as_line(planned: Planned) -> str:
    """What a plan says beyond the defaults, as a line of plans.jsonl."""
    given = {
        field.name: value
        for field, value in zip(
            fields(TrainingPlan), asdict(planned.plan).values(), strict=True
        )
        if value != field.default
    }
    return json.dumps({"name": planned.name, **given})


def read_axes() -> dict[str, Any]:
    """What profiles/grid/axes.toml holds."""
    import tomllib

    return tomllib.loads((_folder() / "axes.toml").read_text(encoding="utf-8"))


def _balanced(values: Sequence[Any], length: int, random: Random) -> list[Any]:
    """A column in which each value comes equally often, as far as that goes."""
    column = [values[index % len(values)] for index in range(length)]
    random.shuffle(column)
    return column


def _runnable(
    first: Mapping[str, Any],
    columns: Mapping[str, Sequence[Any]],
    never: Sequence[Mapping[str, Any]],
    random: Random,
) -> TrainingPlan:
    """The plan of these values; if it cannot be run, one value after another moves."""
    values = dict(first)
    for _ in range(MOST_DRAWS):
        plan = _plan_if_runnable(values, never)
        if plan is not None:
            return plan
        name = random.choice(sorted(columns))
        values[name] = random.choice(columns[name])
    raise ProfileError(
        f"No plan near {values} can be run.", hint="Widen profiles/grid/axes.toml."
    )


def _plan_if_runnable(
    values: Mapping[str, Any], never: Sequence[Mapping[str, Any]]
) -> TrainingPlan | None:
    given: dict[str, Any] = {}
    for name, value in values.items():
        given |= value if isinstance(value, dict) else {name: value}
    if any(ruled.items() <= given.items() for ruled in never):
        return None
    try:
        plan = TrainingPlan(**given)
    except MemplanError:
        return None
    return plan if is_runnable(plan) else None


def _planned(line: dict[str, Any]) -> Planned:
    name = line.pop("name")
    if "lora_targets" in line:
        line["lora_targets"] = tuple(line["lora_targets"])
    return Planned(name, TrainingPlan(**line))


def _in_brief(report: MemoryReport) -> MemoryReport:
    """What an estimate is held against: of the phases, those of the steady step."""
    return replace(
        report,
        phases=tuple(p for p in report.phases if p.step == report.peak.step),
        holders=(),
        assumptions=(),
        host=None,
    )


def _lines(name: str) -> list[str]:
    file = _folder() / name
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def _folder() -> Path:
    return Path(str(files("memplan.profiles"))) / "grid"
