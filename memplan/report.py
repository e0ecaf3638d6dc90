"""The answer: what a run takes, as estimated, rehearsed or measured.

Its JSON is a public contract: fields are added within a `schema_version`, never
removed. All sizes are bytes, per GPU, for the most loaded rank.
"""

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from memplan.errors import MemplanError
from memplan.plan import TrainingPlan
from memplan.untrusted import plain_data

SCHEMA_VERSION = 1

Source = Literal["estimated", "rehearsed", "measured"]


@cache
def _memplan_version() -> str:
    return version("memplan")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """The model and how many parameters it has."""

    name: str
    parameters: int
    trainable_parameters: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """The card the report is about."""

    gpu: str
    total_bytes: int
    context_bytes: int
    """CUDA context and libraries, outside the allocator."""
    torch: str
    allocator: str
    libraries_bytes: int | None = None
    """The part of `context_bytes` that came after the bare context: NCCL, modules of
    kernels. None where that was not seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Components:
    """What is held at the peak; the sum is `peak.allocated_bytes`."""

    weights: int = 0
    gradients: int = 0
    optimizer_states: int = 0
    activations: int = 0
    """What the forward pass saved for the backward pass."""
    temporary_buffers: int = 0
    """Workspaces, casts, optimizer and loss temporaries, communication buckets, the
    batch, and the rounding of blocks."""
    functionality_specific: int = 0
    """KV cache of generation, averaged weights, and the like."""

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True, kw_only=True, slots=True)
class PeakMemory:
    """The highest point: requested <= allocated <= reserved <= device.

    Of an estimate, reserved is what must be there: whole segments, no fragmentation.
    """

    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    device_bytes: int
    """Reserved, and what lies outside the allocator."""
    phase: str
    """forward, loss, backward or optimizer."""
    step: int
    module: str
    line: str = ""
    """`file:line function` of the program; empty where none is known."""
    active_bytes: int | None = None
    """Allocated, and freed blocks that another stream still waits for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseMemory:
    """One phase of one step. What an estimate does not know is None."""

    step: int
    phase: str
    peak_allocated_bytes: int
    end_allocated_bytes: int
    peak_requested_bytes: int | None = None
    end_requested_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    end_reserved_bytes: int | None = None
    peak_active_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkedPhase:
    """A stretch of the program between the ends of a `with memplan.phase(name):`."""

    name: str
    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    end_requested_bytes: int
    end_allocated_bytes: int
    end_reserved_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Tensors alike, alive at the peak: same module, name, shape, dtype and line."""

    bytes: int
    """Of all of them together."""
    component: str
    """A field of `Components`, or unattributed."""
    module: str
    name: str
    shape: tuple[int, ...] | None
    dtype: str | None
    line: str
    """`file:line function` that made them; empty where none is known."""
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Remedy:
    """One change that would have made the run fit."""

    change: str
    """What to type or to set."""
    basis: Literal["rehearsed", "carried over"]
    """Rehearsed with the change; or the bytes of this card, carried over to another."""
    device_bytes: int
    """What the run would take on the device."""
    changes_answers: bool = False
    """Of a generation: the model's answers, and what they score, may be others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """One trick of a generation: what it saves, estimated, and at what price."""

    trick: str
    """The flag."""
    saved_bytes: int
    device_bytes: int
    """What the run takes on the device with it."""
    changes_answers: bool
    """The model's answers may be others: what it scores has to be found out anew."""
    is_used: bool
    """The plan has it, and saves this against a run without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One of the terms that an estimate is the sum of."""

    component: str
    """A field of `Components`; else `segments`, what is reserved beyond that, or
    `outside`, what is not PyTorch's."""
    name: str
    """What it is, with its place in the model; `*` stands for each repeated layer."""
    formula: str
    """With letters where there are any, then with numbers, which give the bytes."""
    bytes: int
    source: str
    """The files of libraries, or the paper, that it is known from; then memplan's
    function, whose docstring says why it is held."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Every term of an estimate at its peak: the sum is `peak.device_bytes`."""

    letters: dict[str, str] = field(hash=False)
    """What the letters of the formulas stand for."""
    terms: tuple[Term, ...]
    """The largest of each component first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutOfMemory:
    """Where the run stopped for want of memory, and what held it then."""

    step: int
    phase: str
    module: str
    line: str
    asked_bytes: int
    segment_bytes: int
    """What the allocator wanted of the device for it; small requests share segments."""
    free_bytes: int
    """Free on the device; beside it, what PyTorch had reserved and not given out."""
    allocated_bytes: int
    reserved_bytes: int
    message: str
    components: Components
    """Requested bytes; what no component was found for is in temporary_buffers."""
    holders: tuple[Holder, ...] = ()
    needed_bytes: int | None = None
    """What the run takes on a card without limit; None where that is not known."""
    remedies: tuple[Remedy, ...] = ()
    were_changes_tried: bool = True
    """Whether `remedies` are all that was found; on a card nothing is run again."""

    @property
    def is_limited_by_itself(self) -> bool:
        """The card had room: the program took a share of it only.

        `torch.cuda.set_per_process_memory_fraction` does that.
        """
        return self.free_bytes >= self.segment_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class RankMemory:
    """One process of many, at its own peak."""

    rank: int
    node: int
    ended: str
    """finished, stopped, crashed, out_of_memory, interrupted, or died: nothing of it
    came back."""
    error: str = ""
    allocated_bytes: int = 0
    reserved_bytes: int = 0
    device_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTiming:
    """How long steps took on a card, after the steps whose memory was looked at.

    A rehearsal has none: times of a virtual card mean nothing.
    """

    num_steps: int
    """Steps timed, after those of the warm-up."""
    median_ms: float
    """From one step's beginning to the next one's, as the card's own clock has it."""
    low_ms: float
    """A tenth of the steps took less than this, and a tenth more than the next."""
    high_ms: float
    data_stall_ms: float | None = None
    """Median of the time per step in which the program waited for its DataLoader."""
    samples_per_s: float | None = None
    """Per GPU; None for a program, whose samples are not known."""
    tokens_per_s: float | None = None
    flops_per_step: int | None = None
    """Of matrix products, convolutions and attention, recomputation included."""
    flops_per_s: float | None = None
    fraction_of_peak: float | None = None
    """Of the card's dense rate in the precision of the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostMemory:
    """What the process took beside the card."""

    peak_resident_bytes: int
    pinned_bytes: int | None = None
    """Held page-locked by PyTorch, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """Where a figure lies, and how that is known."""

    low_bytes: int
    high_bytes: int
    basis: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReservedMemory:
    """What PyTorch is expected to reserve, fragmentation included."""

    likely_bytes: int
    low_bytes: int
    high_bytes: int
    basis: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryReport:
    """What came out."""

    schema_version: int = SCHEMA_VERSION
    memplan_version: str = field(default_factory=_memplan_version)
    source: Source
    plan: TrainingPlan | None
    """None where a program was run."""
    command: tuple[str, ...] | None = None
    """The program that was run; None for a plan."""
    model: ModelSize
    device: Device
    components: Components
    peak: PeakMemory
    phases: tuple[PhaseMemory, ...]
    fits: bool
    headroom_bytes: int
    """What is left of the card below the headroom asked for; negative: missing."""
    band: Band
    """Of the allocated peak."""
    reserved: ReservedMemory | None = None
    """What an estimate expects; None of a run, and where nothing is known."""
    assumptions: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    """What takes memory, or may, and is not in the figures."""
    num_gpus: int = 1
    rank: int = 0
    """The rank that the report is about."""
    headroom_fraction: float = 0.05
    """Part of the card that shall stay free."""
    versions: dict[str, str] = field(default_factory=dict, hash=False)
    """Of what decided the figures: torch, CUDA, and the libraries that allocate."""
    holders: tuple[Holder, ...] = ()
    """The largest at the peak."""
    unattributed_bytes: int = 0
    """The part of temporary_buffers whose owner is not known."""
    rounding_bytes: int = 0
    """The part of temporary_buffers that is blocks larger than what was asked for."""
    fragmentation_bytes: int | None = None
    """Reserved and not allocated at the peak; None where only formulas were asked."""
    setup_peak_allocated_bytes: int | None = None
    """The highest point before the first step."""
    marked: tuple[MarkedPhase, ...] = ()
    out_of_memory: OutOfMemory | None = None
    savings: tuple[Saving, ...] = ()
    """Of a generation: tricks that it uses, then those that it could use."""
    explanation: Explanation | None = None
    """Of an estimate, where it was asked for."""
    ranks: tuple[RankMemory, ...] = ()
    """Every rank of a job of several processes."""
    timing: StepTiming | None = None
    host: HostMemory | None = None
    retries: int | None = None
    """How often the allocator gave cached memory back and asked again."""
    inactive_split_bytes: int | None = None
    """Free parts of segments that are otherwise in use."""

    @property
    def fits_narrowly(self) -> bool:
        """It fits, and would not with what PyTorch likely reserves beside it.

        Likely, and not at most: PyTorch gives cached segments back before it runs out
        of memory, as far as nothing in them is in use.
        """
        if not self.fits or self.reserved is None:
            return False
        beside = self.reserved.likely_bytes - self.peak.reserved_bytes
        return beside > self.headroom_bytes


def to_json(report: MemoryReport, *, indent: int | None = 2) -> str:
    """The report as JSON text."""
    return json.dumps(as_dict(report), indent=indent)


def as_dict(report: MemoryReport) -> dict[str, Any]:
    """The report as plain data, in the order of the contract."""
    return asdict(report)


def from_json(text: str | bytes) -> MemoryReport:
    """Read a report back; fields that a later version added are ignored.

    Control characters of its texts are written out: they may come from anywhere.

    Raises:
        MemplanError: the text is no report, or one of another schema.
    """
    from pydantic import ValidationError

    try:
        data = plain_data(text)
    except ValueError as error:
        raise MemplanError(
            f"This is not a memplan report: {error}.",
            hint="A report is what `memplan estimate ... --json` prints.",
        ) from error
    if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
        raise MemplanError(
            f"This is not a memplan report of schema version {SCHEMA_VERSION}.",
            hint="Write it anew with this version of memplan.",
        )
    try:
        report: MemoryReport = _adapter().validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MemplanError(
            f"The report's field {place} is wrong: {first['msg']}.",
            hint="Write the report anew with `memplan estimate ... --json`.",
        ) from error
    return report


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(MemoryReport)
