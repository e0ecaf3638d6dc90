"""What a traced step asks of the allocator, in order: large requests, and their ends.

Layers are traced once, so a loop stands for all of them. Small requests are left out:
they have a pool of their own, whose blocks are what was asked for, rounded up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from memplan.formulas.allocator import SMALL_REQUEST_BYTES
from memplan.formulas.tensors import Storage

SCRATCH = 0
"""The serial number of what is asked for and given back at once."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """Layers that are alike, each running these events."""

    count: int
    events: Sequence["Event"]
    taken: int
    """The storage that a layer takes over, by its serial number."""
    made: int
    """The one that it hands on, which the next takes over."""
    frees_taken: bool = False
    """Layers after the first free what they took, which no event of the first says."""


Event = tuple[int | str, int] | Repeat
"""A storage's serial number, or a name, and its bytes; less than none says how many
go."""


class Events(list[Event]):
    """Events as they come."""

    __slots__ = ()

    def ask(self, size_bytes: int, serial: int = SCRATCH) -> None:
        if size_bytes > SMALL_REQUEST_BYTES:
            self.append((serial, size_bytes))

    def free(self, storage: Storage, copies: int) -> None:
        if copies and storage.requested_bytes > SMALL_REQUEST_BYTES:
            self.append((storage.serial, -copies))

    def repeat(
        self,
        count: int,
        events: "Events",
        taken: Storage,
        made: Storage | None,
        *,
        frees_taken: bool = False,
    ) -> None:
        is_large = taken.requested_bytes > SMALL_REQUEST_BYTES
        serial = SCRATCH if made is None else made.serial
        frees = frees_taken and is_large
        self.append(Repeat(count, events, taken.serial, serial, frees))


def most_at_once(events: Sequence[Event]) -> tuple[int, int]:
    """The most blocks that are there at once, and how many are left in the end.

    Both are linear in the number of layers.
    """
    highest = level = 0
    for event in events:
        if isinstance(event, Repeat):
            most, left = most_at_once(event.events)
            left -= event.frees_taken
            first_or_last = max(0, (event.count - 1) * left)
            highest = max(highest, level + first_or_last + most)
            level += event.count * left
            continue
        serial, change = event
        level += 1 if change > 0 else change
        highest = max(highest, level)
        if serial == SCRATCH:
            level -= 1
    return highest, level
