"""What one process saw of its card, as it wrote it down: the shape of its JSON.

The runner writes it, `report_of` and the views read it, and capture files carry it from
one machine to another. Fields are added, never removed; who reads ignores those it does
not know.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

Process = Mapping[str, Any]
MOST_RANKS = 2**17
"""Of the largest jobs there are; whoever lists ranks shall come to an end."""


@dataclass(kw_only=True)
class Figures:
    """Peaks and ends of a stretch, as the allocator counts them."""

    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    end_requested_bytes: int
    end_allocated_bytes: int
    end_reserved_bytes: int
    peak_active_bytes: int | None = None
    end_active_bytes: int | None = None


@dataclass(kw_only=True)
class Phase(Figures):
    phase: str


@dataclass(kw_only=True)
class Marked(Figures):
    name: str


@dataclass(kw_only=True)
class Step:
    step: int
    phases: list[Phase]


@dataclass(kw_only=True)
class Seen:
    """The device of the process; what lies outside the allocator is a difference."""

    index: int
    name: str
    total_bytes: int
    outside_bytes: int
    lowest_capability: list[int] | None = None
    """Of the cards that this PyTorch has kernels for."""


@dataclass(kw_only=True)
class Model:
    name: str
    parameters: int
    trainable_parameters: int


@dataclass(kw_only=True)
class Peak:
    step: int | None
    phase: str
    module: str | None
    line: str | None
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    active_bytes: int | None = None


@dataclass(kw_only=True)
class Held:
    """Tensors alike, alive at the peak."""

    bytes: int
    component: str
    module: str | None
    name: str | None
    line: str | None
    count: int


@dataclass(kw_only=True)
class Holder(Held):
    shape: list[int] | None
    dtype: str | None


@dataclass(kw_only=True)
class OutOfMemory:
    step: int | None
    phase: str | None
    module: str | None
    line: str | None
    asked_bytes: int
    segment_bytes: int
    free_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    message: str
    components: dict[str, int]
    holders: list[Holder]
    caught: bool


@dataclass(kw_only=True)
class Counted:
    """A call that was met, how often, and the first line that made it."""

    count: int
    name: str = ""
    line: str | None = None


@dataclass(kw_only=True)
class Unsupported:
    operators: list[Counted] = field(default_factory=list)
    reads: list[Counted] = field(default_factory=list)
    calls: list[Counted] = field(default_factory=list)


@dataclass(kw_only=True)
class CurvePhase:
    """A phase of the curve, by the numbers of its points."""

    step: int | None
    phase: str
    begins: int
    ends: int


@dataclass(kw_only=True)
class Curve:
    """Requested bytes over the steady step; a virtual card has no times."""

    requested_bytes: list[int]
    times_us: list[int] | None = None
    phases: list[CurvePhase] = field(default_factory=list)


@dataclass(kw_only=True)
class Outside:
    """What the card held outside the allocator, at first and in the end."""

    at_start_bytes: int
    at_end_bytes: int
    others_bytes: int | None = None
    basis: str = ""


@dataclass(kw_only=True)
class Timing:
    step_ms: list[float] = field(default_factory=list)
    stall_ms: list[float] = field(default_factory=list)
    warmup_steps: int = 0
    flops_per_step: int | None = None


@dataclass(kw_only=True)
class Host:
    peak_resident_bytes: int
    pinned_bytes: int | None = None


@dataclass(kw_only=True)
class Content:
    """All of it. A process that never used the card leaves most of it out."""

    rank: int
    world_size: int
    ended: str
    pid: int = 0
    local_rank: int = 0
    local_world_size: int | None = None
    is_alone: bool = False
    """It plays its rank; there are no others."""
    node: int = 0
    job: str = ""
    is_virtual: bool = True
    """Whether its card was played; what does not say is not taken for measured."""
    argv: list[str] = field(default_factory=list)
    error: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    device: Seen | None = None
    allocator: str = "default"
    model: Model | None = None
    steps: list[Step] = field(default_factory=list)
    unfinished: Step | None = None
    setup: Figures | None = None
    marked: list[Marked] = field(default_factory=list)
    peak: Peak | None = None
    components: dict[str, int] | None = None
    holders: list[Holder] = field(default_factory=list)
    blocks: list[Held] | None = None
    """Every block alive at the peak, grouped; their sum is what was requested then."""
    curve: Curve | None = None
    segments: dict[str, int] | None = None
    retries: int = 0
    inactive_split_bytes: int = 0
    out_of_memory: OutOfMemory | None = None
    unsupported: Unsupported = field(default_factory=Unsupported)
    assumptions: list[str] = field(default_factory=list)
    outside: Outside | None = None
    timing: Timing | None = None
    host: Host | None = None


def process_of(data: Any) -> Process:
    """Plain data that a process wrote, complete, and without fields not known here.

    Raises:
        ValueError: it is not what a process writes; says where.
    """
    from pydantic import ValidationError

    try:
        # As JSON: only there is an object a dataclass, and "5" no number.
        content: Content = _adapter().validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = f"{place}: {first['msg']}" if place else first["msg"]
        raise ValueError(said) from None
    for name in ("rank", "world_size", "local_rank", "local_world_size"):
        if not 0 <= (getattr(content, name) or 0) <= MOST_RANKS:
            raise ValueError(f"{name}: there are not so many")
    return asdict(content)


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Content)
