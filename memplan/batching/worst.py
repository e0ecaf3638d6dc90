"""What a worst batch is told with."""

from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from memplan.batching.batches import BatchingRule
from memplan.estimating.changes import command_words
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchMemory:
    """A batch of some shape."""

    shape: dict[str, int] = field(hash=False)
    """By field of a plan; a length is what the batch is padded to."""
    device_bytes: int
    fits: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentile(BatchMemory):
    """So many percent of the batches take no more."""

    percent: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """The sample without which the worst batch would be smallest."""

    row: int | None
    """In the file, from 1; None of a histogram."""
    id: str | None
    """What the column of names says of it, where one was named."""
    sizes: dict[str, int] = field(hash=False)
    """By field of a plan, as they are batched."""
    num_alike: int
    """Samples that are as large in what makes it the cause, itself included."""
    without_bytes: int
    """What the worst batch of the same epochs takes without this sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorstDrawn(BatchMemory):
    """The batch that takes most in the epochs drawn, the first of its shape."""

    epoch: int
    """From 1, as all that follows but the rank."""
    batch: int
    """In the epoch, over all ranks."""
    step: int
    """Of the optimizer, in the epoch."""
    micro_batch: int
    rank: int
    """Of the data-parallel ranks."""
    cause: Cause | None
    """None of packed rows: they are all full."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorstPossible(BatchMemory):
    """The worst that chance can bring together: a bound for every seed."""

    expected_per_epoch: float | None
    """How many such batches an epoch has on average; the chance that it has any is no
    larger. None where there is no closed form."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hint:
    """A change with which the worst batch fits."""

    flags: str
    effect: str
    device_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What batches were made of."""

    source: str
    num_samples: int
    """Batched: packed rows where samples are packed."""
    num_skipped: int
    num_truncated: int
    num_dropped: int
    largest: dict[str, int] = field(hash=False)
    """By field of a plan."""
    longest_of_a_batch: dict[int, int] = field(hash=False)
    """In closed form, by percent: so many percent of all random batches are padded to
    this length at most. Empty where there is no closed form."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorstBatch:
    """What came out. Its JSON gets fields within a `schema_version`, and loses none."""

    schema_version: int = SCHEMA_VERSION
    memplan_version: str = field(default_factory=lambda: version("memplan"))
    plan: TrainingPlan
    rule: BatchingRule
    data: Data
    num_batches: int
    """In all epochs drawn, over all ranks."""
    num_shapes: int
    """Of those batches."""
    percentiles: tuple[Percentile, ...]
    worst: WorstDrawn
    possible: WorstPossible | None
    """None where the worst that was drawn is the worst there is."""
    report: MemoryReport
    """Of the worst that is possible."""
    hints: tuple[Hint, ...]
    assumptions: tuple[str, ...]
    unsupported: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Every batch fits that the rule can make."""
        return self.report.fits

    @property
    def command(self) -> list[str]:
        """What rehearses the worst batch that is possible, word by word."""
        assert self.report.plan is not None
        return command_words(self.report.plan, "rehearse")


def as_dict(found: WorstBatch) -> dict[str, Any]:
    """As plain data, in the order of the fields."""
    return asdict(found) | {"fits": found.fits}
