"""Records: what one plan took on one card, one JSON file a plan.

    record = read_record(Path("profiles/measured/h100-80gb/gpt2-bf16.json"))
    found = records_under(Path("profiles/measured"))

`scripts/measure` writes them and `memplan validate` holds them against predictions. A
file that is no record is named, never passed over in silence.
"""

import json
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memplan.errors import MemplanError, RecordError
from memplan.files import whole_file
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport
from memplan.units import MiB
from memplan.untrusted import plain_data

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Ended = Literal["finished", "out_of_memory", "failed", "timeout"]
MOST_BYTES = 64 * MiB
OF_THE_RUN = frozenset(
    {"gpu", "gpu_memory_bytes", "context_bytes", "headroom_fraction", "torch"}
)
"""Fields of a plan that the machine decides on which it is run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One run of one plan."""

    schema_version: Literal[1] = 1
    entry: str
    """Its name in the list of plans."""
    plan: TrainingPlan
    ended: Ended
    error: str = ""
    """Of a run that failed, its last words."""
    report: MemoryReport | None = None
    """None where nothing came back."""
    measured_at: str
    """A date, or a date and a time, as ISO 8601 writes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a folder holds."""

    records: tuple[tuple[Path, Record], ...] = ()
    broken: tuple[tuple[Path, str], ...] = ()
    """Files that are no records, each with why."""


def measured_folder() -> Path:
    """Where memplan's own records are, once there are any."""
    return Path(str(files("memplan.profiles"))) / "measured"


def records_under(folder: Path) -> Found:
    """The records in a folder and the folders below it, in the order of their paths.

    Raises:
        RecordError: there is no such folder.
    """
    if not folder.is_dir():
        raise RecordError(
            f"{folder} is no folder.",
            hint="Name the folder that scripts/measure wrote its records to.",
        )
    records, broken = [], []
    for path in sorted(folder.rglob("*.json")):
        try:
            records.append((path, read_record(path)))
        except RecordError as error:
            broken.append((path, error.reason))
    return Found(records=tuple(records), broken=tuple(broken))


def read_record(path: Path) -> Record:
    """Read a record, wherever it comes from.

    Raises:
        RecordError: it cannot be read, or is no record, or contradicts itself.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise RecordError.of(path, error.strerror or str(error)) from error
    if len(content) > MOST_BYTES:
        raise RecordError.of(path, "it is larger than any record")
    return record_of(content, path)


def record_of(content: str | bytes, path: Path) -> Record:
    """The record that a text of a file is.

    Raises:
        RecordError: it is none, or contradicts itself.
    """
    from pydantic import ValidationError

    try:
        record = _adapter().validate_python(plain_data(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise RecordError.of(path, f"{place}: {first['msg']}") from error
    except MemplanError as error:  # a plan that contradicts itself
        raise RecordError.of(path, f"plan: {error.message}") from error
    except ValueError as error:
        raise RecordError.of(path, str(error)) from error
    problem = _problem(record)
    if problem is not None:
        raise RecordError.of(path, problem)
    return record


def write_record(record: Record, path: Path, *, force: bool = False) -> None:
    """Write a record, whole or not at all.

    Raises:
        RecordError: it contradicts itself; it exists and `force` is not given; or it
            cannot be written.
    """
    problem = _problem(record)
    if problem is not None:
        raise RecordError.of(path, problem)
    text = json.dumps(asdict(record), indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, overwrite=force) as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        raise RecordError.of(path, error.strerror or str(error)) from error


@cache
def _adapter() -> "TypeAdapter[Record]":
    from pydantic import TypeAdapter

    return TypeAdapter(Record)


def _problem(record: Record) -> str | None:
    """What a record says that cannot be, if it does."""
    try:
        datetime.fromisoformat(record.measured_at)
    except ValueError:
        return f"measured_at: {record.measured_at!r} is no date"
    report = record.report
    if report is None:
        if record.ended == "finished":
            return "report: a run that finished has one"
        return None
    if report.source == "estimated":
        return "report: it is estimated, and nothing ran"
    if report.plan is None or not same_question(report.plan, record.plan):
        return "report: it is of another plan"
    peak = report.peak
    if record.ended == "finished" and not (
        0 < peak.allocated_bytes <= peak.reserved_bytes <= peak.device_bytes
    ):
        return "report: its peaks are not in order"
    if report.components.total != peak.allocated_bytes:
        return "report: its components do not add up to the allocated peak"
    return None


def same_question(a: TrainingPlan, b: TrainingPlan) -> bool:
    """Whether two plans ask the same, whichever machine answers."""
    return _asked(a) == _asked(b)


def _asked(plan: TrainingPlan) -> dict[str, Any]:
    """What a plan asks, whichever machine answers."""
    return {
        item.name: getattr(plan, item.name)
        for item in fields(plan)
        if item.name not in OF_THE_RUN
    }
