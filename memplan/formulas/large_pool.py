"""The large blocks of PyTorch's caching allocator, played request by request.

A block from the cache may be up to 1 MiB larger than what was asked for, and that
counts as allocated. Which requests get such blocks follows from those before them: the
last one in a segment gets what is left at its end, and a gap between others goes to the
next tensor that fits in. Tensors of one to some ten MiB are concerned: with the weights
of a small vision tower it was up to 4% of the peak.

Source: `c10/cuda/CUDACachingAllocator.cpp` (2.14): `get_free_block`, `alloc_block`,
`should_split`, `free_block`, `try_merge_blocks`; default settings.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from memplan.formulas.allocator import (
    LARGE_SEGMENT_BYTES,
    MAX_SLACK_BYTES,
    MIN_BLOCK_BYTES,
    MIN_OWN_SEGMENT_BYTES,
    SEGMENT_STEP_BYTES,
    block_bytes,
)
from memplan.formulas.events import SCRATCH, Event, Repeat


@dataclass(frozen=True, slots=True)
class Slack:
    """What blocks have beyond those that sums count; less where those are larger."""

    at_peak_bytes: int
    at_end_bytes: int


class Block:
    """A part of a segment; `before` and `after` are its neighbours there."""

    __slots__ = ("address", "after", "before", "counted_bytes", "is_free", "num_bytes")

    def __init__(self, address: int, num_bytes: int) -> None:
        self.address = address
        self.num_bytes = num_bytes
        self.counted_bytes = 0
        """What sums count for the request that it answers."""
        self.is_free = False
        self.before: Block | None = None
        self.after: Block | None = None


class LargePool:
    """Segments, what is free in them, and how high it came."""

    def __init__(self) -> None:
        self.reserved_bytes = 0
        self._level = self._highest = 0
        self._counted_level = self._counted_highest = 0
        self._free: list[tuple[int, int, Block]] = []
        """By size, and blocks of a size by address."""

    def take(self, requested_bytes: int, counted_bytes: int | None = None) -> Block:
        """The smallest free block that holds a request above 1 MiB, or a new segment.

        More than 1 MiB left over is split off. Sums count a fresh block for it, if
        nothing else is said.
        """
        rounded = -(-requested_bytes // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES
        index = bisect_left(self._free, (rounded,))
        if index < len(self._free):
            block = self._free.pop(index)[2]
            block.is_free = False
        else:
            block = self._new_segment(rounded)
        if block.num_bytes - rounded > MAX_SLACK_BYTES:
            self._split(block, rounded)
        if counted_bytes is None:
            counted_bytes = block_bytes(requested_bytes)
        block.counted_bytes = counted_bytes
        self._level += block.num_bytes
        self._counted_level += block.counted_bytes
        self._highest = max(self._highest, self._level)
        self._counted_highest = max(self._counted_highest, self._counted_level)
        return block

    def give_back(self, block: Block) -> None:
        """Free a block, and join it with free neighbours."""
        self._level -= block.num_bytes
        self._counted_level -= block.counted_bytes
        if block.after is not None and block.after.is_free:
            self._join(block, block.after)
        if block.before is not None and block.before.is_free:
            block = self._join(block.before, block)
        block.is_free = True
        insort(self._free, (block.num_bytes, block.address, block))

    def slack(self) -> Slack:
        """Of the stretch since the last call."""
        at_end = self._level - self._counted_level
        slack = Slack(self._highest - self._counted_highest, at_end)
        self._highest, self._counted_highest = self._level, self._counted_level
        return slack

    def _new_segment(self, num_bytes: int) -> Block:
        """Of 20 MiB, or from 10 MiB on of its own; the virtual card goes downwards."""
        size = LARGE_SEGMENT_BYTES
        if num_bytes >= MIN_OWN_SEGMENT_BYTES:
            size = -(-num_bytes // SEGMENT_STEP_BYTES) * SEGMENT_STEP_BYTES
        self.reserved_bytes += size
        return Block(-self.reserved_bytes, size)

    def _split(self, block: Block, num_bytes: int) -> None:
        rest = Block(block.address + num_bytes, block.num_bytes - num_bytes)
        rest.is_free = True
        rest.before, rest.after = block, block.after
        if rest.after is not None:
            rest.after.before = rest
        block.after, block.num_bytes = rest, num_bytes
        insort(self._free, (rest.num_bytes, rest.address, rest))

    def _join(self, block: Block, after: Block) -> Block:
        """Two neighbours as one; of them one or both are in the list of free ones."""
        for part in (block, after):
            if part.is_free:
                del self._free[bisect_left(self._free, (part.num_bytes, part.address))]
                part.is_free = False
        block.num_bytes += after.num_bytes
        block.after = after.after
        if block.after is not None:
            block.after.before = block
        return block


class Player:
    """Runs events on a pool. Layers that are alike have storages of the same number:
    what the last of them made is the first to go, as backward runs in reverse."""

    def __init__(self, pool: LargePool) -> None:
        self._pool = pool
        self._held: dict[int | str, list[Block]] = {}

    def play(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Repeat):
                self._repeat(event)
                continue
            serial, change = event
            if serial == SCRATCH:
                self._pool.give_back(self._pool.take(change))
            elif change > 0:
                self._held.setdefault(serial, []).append(self._pool.take(change))
            else:
                for _ in range(-change):
                    self._free(serial)

    def free_all(self) -> None:
        """The step is over: gradients go."""
        for serial, blocks in self._held.items():
            while blocks:
                self._free(serial)

    def _repeat(self, repeat: Repeat) -> None:
        held = self._held
        for number in range(repeat.count):
            self.play(repeat.events)
            if number and repeat.frees_taken:
                self._free(repeat.taken)
            if number < repeat.count - 1 and held.get(repeat.made):
                block = held[repeat.made].pop()
                held.setdefault(repeat.taken, []).append(block)

    def _free(self, serial: int | str) -> None:
        if self._held.get(serial):
            self._pool.give_back(self._held[serial].pop())
