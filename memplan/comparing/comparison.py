"""What a comparison of tricks found. Its JSON is public, as that of a report is.

Fields are added within a `schema_version`, never removed.
"""

from dataclasses import dataclass
from typing import Literal

from memplan.plan import TrainingPlan
from memplan.report import MemoryReport

SCHEMA_VERSION = 1

By = Literal["estimate", "rehearse", "profile"]
SpeedBasis = Literal["measured", "counted"]
Fits = Literal["yes", "narrow", "no"]
Helps = Literal["yes", "no", "costs", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How long an optimizer step takes.

    measured: timed on a card. counted: FLOPs and bytes of the closed form, divided by
    the card's rates; a bound from below, in which only ratios mean something.
    """

    basis: SpeedBasis
    step_ms: float
    samples_per_s: float
    """Per GPU."""
    flops_per_step: int | None = None
    bytes_per_step: int | None = None
    """Moved between the card's memory and its multiprocessors."""


def need_of(report: MemoryReport) -> int:
    """What the run takes on the device, also where it ran out of memory."""
    error = report.out_of_memory
    if error is not None and error.needed_bytes is not None:
        return error.needed_bytes
    return report.peak.device_bytes


def fits_of(report: MemoryReport) -> Fits:
    """As a word of a table; narrow: before fragmentation alone."""
    if report.fits_narrowly:
        return "narrow"
    return "yes" if report.fits else "no"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One plan that was looked at: the baseline, or the plan with tricks."""

    tricks: tuple[str, ...]
    """Names, in the order in which they were added; none: the baseline."""
    flags: str
    """What to type for the last of them."""
    command: str
    """What makes the report again."""
    report: MemoryReport
    speed: Speed | None
    """None where it would be a guess."""
    note: str = ""
    """Where the peak moved, or what the last of the tricks saves beside it."""

    @property
    def need_bytes(self) -> int:
        return need_of(self.report)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What the catalogue says of a trick, as data."""

    name: str
    title: str
    technique: str
    exactness: str
    cost: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A trick that was not looked at, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TechniqueRow:
    """A row of the classic table: does it help speed, does it help memory, by what."""

    technique: str
    best: str | None
    """The trick of the technique that saves most; None: none suits the plan."""
    memory: Helps
    saved_bytes: int | None
    speed: Helps
    speed_change_fraction: float | None
    """Of samples per second; above zero is faster."""
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One plan and its tricks."""

    schema_version: int = SCHEMA_VERSION
    memplan_version: str
    kind: Literal["comparison"] = "comparison"
    """Tells its JSON from that of a report."""
    by: By
    plan: TrainingPlan
    entries: tuple[Entry, ...]
    """The tricks that occur, in the order of the catalogue."""
    baseline: Variant
    alone: tuple[Variant, ...]
    """Each trick by itself: what saves most first."""
    greedy: tuple[Variant, ...]
    """Tricks one after another; each Variant has all those before it too."""
    fits_after: int | None
    """How many of `greedy` it takes to fit; 0: it fits as it is; None: never."""
    gentlest: str | None = None
    """Of the tricks that make it fit alone, the one that changes results least, and
    then costs least speed; None: it fits as it is, or with none alone."""
    table: tuple[TechniqueRow, ...]
    left_out: tuple[LeftOut, ...] = ()
    assumptions: tuple[str, ...] = ()
    """Of the speeds, and of the order; those of the memory are in the reports."""
