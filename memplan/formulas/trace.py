"""What a tape records: sums of what is alive, their highest points, backward nodes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from memplan.formulas.events import Event
from memplan.formulas.gathering import Layer
from memplan.formulas.tensors import Storage

Items = dict[tuple[Any, int], int]
"""What a ledger counts, by its kind: how often."""


@dataclass(slots=True)
class Totals:
    """What is alive: `block_bytes` counts blocks, the kinds count requested bytes."""

    block_bytes: int = 0
    saved_bytes: int = 0
    temporary_bytes: int = 0
    gradient_bytes: int = 0
    items: Items | None = None
    """The same one by one, where the tape keeps a ledger."""

    def plus(self, other: "Totals", times: int = 1) -> "Totals":
        """Self and `times` times `other`."""
        return Totals(
            self.block_bytes + times * other.block_bytes,
            self.saved_bytes + times * other.saved_bytes,
            self.temporary_bytes + times * other.temporary_bytes,
            self.gradient_bytes + times * other.gradient_bytes,
            _joined(self.items, other.items, times),
        )


def _joined(items: Items | None, others: Items | None, times: int) -> Items | None:
    """Both together, `others` so many times."""
    if not others:
        return None if items is None else dict(items)
    joined = dict(items or {})
    for item, count in others.items():
        joined[item] = joined.get(item, 0) + times * count
    return {item: count for item, count in joined.items() if count}


@dataclass(slots=True)
class Peak:
    """The highest point of a stretch, and where in the model it stands."""

    at: Totals
    place: str


@dataclass(slots=True)
class Span:
    """A stretch relative to its start: its highest point, and what it leaves."""

    peak: Peak
    leaves: Totals


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of the step: its highest point and what was alive at its end."""

    name: str
    peak: Peak
    end: Totals
    events: Sequence[Event] = ()
    """What it asks of the allocator."""


@dataclass(slots=True)
class Node:
    """One backward function."""

    place: str
    outputs: tuple[int, ...]
    inputs: list[tuple[int, int]]
    """Edges that want a gradient, with its bytes; 0 passes the incoming one on."""
    saved: list[Storage]
    scratch_bytes: int
    sum_scratch_bytes: int = 0
    """Needed after the function itself, while a gradient is summed to its shape."""
    is_recomputed: bool = False
    """What a checkpoint has computed again is let go before that sum."""
    fetched: Sequence[int] = ()
    """Bytes of what it saved on the host and has back while it runs, one by one."""


@dataclass(slots=True)
class Again:
    """A function under a checkpoint, which runs again where its gradient comes."""

    place: str
    output: int
    recompute: Callable[[], "Trace"]
    saved: list[Storage]
    """What it was given."""
    shared: tuple[int, ...]
    """Edges from outside that it and others lead to."""


@dataclass(slots=True)
class Trace:
    """One recorded run of a layer."""

    nodes: list["Node | Stack | Again"]
    input: int | None
    output: int
    first_edge: int
    kept: list[Storage] = field(default_factory=list)
    """What selective checkpointing keeps until the layer has gone backward."""


@dataclass(slots=True)
class Stack:
    """`count` equal layers. A checkpointed one traces itself again in backward."""

    place: str
    first_index: int
    count: int
    input: int | None
    output: int
    trace: Trace | None
    recompute: Callable[[], Trace] | None
    saved: list[Storage]
    """Held once for each layer."""
    shared: list[Storage]
    """Older storages that the layers hold together."""
    layer: Layer
