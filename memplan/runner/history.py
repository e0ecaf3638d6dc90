"""The allocator's own history, and what was alive at any moment of it.

History is kept from the start, so that blocks of long ago still have the lines that
made them; of its events a bounded number is kept, the last ones. Sizes are requested
bytes, and a block is gone when `free_completed` says so: the sum over what is alive is
then the allocator's own `requested_bytes`.
"""

import pickle
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memplan.files import whole_file
from memplan.runner.lines import Frame
from memplan.runner.patches import Patches

MOST_EVENTS = 200_000
"""A few steps of a large model, at about a kilobyte each."""
ACTIVE = ("active_allocated", "active_pending_free", "active_awaiting_free")
NEVER = 1 << 62


class Recording:
    """Has the allocator keep its history.

    One recording at a time: the program's own would end this one, and finds in a
    snapshot what it wants all the same. It begins when this one has ended.
    """

    def __init__(self) -> None:
        self._record = torch.cuda.memory._record_memory_history
        self._patches = Patches()
        self._is_attached = False
        self._asked: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        """What the program would have recorded."""

    def attach(self) -> None:
        """Record from here on, or from the beginning of CUDA."""
        self._is_attached = True
        torch.cuda._lazy_call(self._start)  # type: ignore[no-untyped-call]

    def detach(self) -> None:
        """Leave the recording to the program."""
        is_used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._is_attached = False
        self._patches.restore()
        if not is_used:
            return
        self._record(None)
        if self._asked is not None:
            args, kwargs = self._asked
            self._record(*args, **kwargs)

    def _start(self) -> None:
        if not self._is_attached:
            return
        if torch._C._cuda_isHistoryEnabled():
            self._asked = (), {}
        self._record(
            "all",
            context="alloc",
            stacks="python",
            max_entries=MOST_EVENTS,
            clear_history=True,
            skip_actions=["free_requested"],
        )
        self._patches.replace(
            torch.cuda.memory, "_record_memory_history", self._record_later
        )

    def _record_later(self, *args: Any, **kwargs: Any) -> None:
        """In place of the program's own recording."""
        if self._is_attached:
            self._asked = args, kwargs
        else:
            self._record(*args, **kwargs)


@dataclass(slots=True, eq=False)
class Block:
    """A block from its allocation to its end. `born` and `freed` are serial numbers."""

    address: int
    num_bytes: int
    frames: Sequence[Frame] = ()
    born: int = 0
    """0: before the history begins."""
    freed: int = NEVER


@dataclass(slots=True)
class _Event:
    """A block comes or goes."""

    block: Block
    is_birth: bool
    serial: int
    time_us: int

    @property
    def change(self) -> int:
        """Of the bytes that are alive."""
        return self.block.num_bytes if self.is_birth else -self.block.num_bytes


@dataclass(frozen=True, slots=True)
class Point:
    """How many bytes were alive, from some event on."""

    num_bytes: int
    serial: int
    time_us: int


@dataclass(frozen=True, slots=True)
class Moment:
    """What was alive after some event."""

    serial: int
    alive: list[Block]
    newest: Block | None
    """The block that made it the highest."""

    @property
    def num_bytes(self) -> int:
        return sum(block.num_bytes for block in self.alive)


class History:
    """Of one device, as a snapshot of the allocator has it."""

    def __init__(self, snapshot: dict[str, Any], device: int) -> None:
        self._by_address: dict[int, list[Block]] = {}
        self.alive_now: dict[int, Block] = {}
        """What was alive when the snapshot was taken, by address."""
        self.asked_in_vain = 0
        """What was asked for when memory ran out last."""
        self._events: list[_Event] = []
        end = {block.address: block for block in _active_blocks(snapshot, device)}
        traces = snapshot["device_traces"]
        self._read(traces[device] if device < len(traces) else [], end)

    def block_at(self, address: int, serial: int) -> Block | None:
        """The block that was alive at an address, at some number."""
        blocks = self._by_address.get(address, [])
        index = bisect_right(blocks, serial, key=lambda block: block.born) - 1
        if index < 0:
            return None
        block = blocks[index]
        return block if block.freed >= serial else None

    def highest(self, since: int, until: int) -> Moment:
        """When most bytes were alive at once, from one number on and before another.

        Going back from the end, every birth is undone and every death too.
        """
        total = self._num_bytes_now
        best, best_index = -1, len(self._events)
        for index in range(len(self._events) - 1, -1, -1):
            event = self._events[index]
            if event.serial < since:
                break
            if total > best and event.serial < until:
                best, best_index = total, index + 1
            total -= event.change
        alive = dict.fromkeys(self.alive_now.values())
        for event in reversed(self._events[best_index:]):
            if event.is_birth:
                alive.pop(event.block, None)
            else:
                alive[event.block] = None
        last = self._events[best_index - 1] if best_index else None
        if last is None:
            return Moment(since, list(alive), None)
        return Moment(last.serial, list(alive), last.block)

    def between(self, since: int, until: int) -> list[Point]:
        """Every change from one number on and before another, and what there was."""
        events = self._events
        first = len(events)
        while first and events[first - 1].serial >= since:
            first -= 1
        last = first
        while last < len(events) and events[last].serial < until:
            last += 1
        if first == last:
            return []
        total = self._num_bytes_now - sum(event.change for event in events[first:])
        points = [Point(total, since, events[first].time_us)]
        for event in events[first:last]:
            total += event.change
            points.append(Point(total, event.serial, event.time_us))
        return points

    def now(self) -> Moment:
        """When the snapshot was taken."""
        return Moment(NEVER - 1, list(self.alive_now.values()), None)

    @property
    def _num_bytes_now(self) -> int:
        return sum(block.num_bytes for block in self.alive_now.values())

    def _read(self, trace: Sequence[dict[str, Any]], end: dict[int, Block]) -> None:
        """Join events to blocks; those alive at the end keep the snapshot's frames."""
        alive: dict[int, Block] = {}
        for entry in trace:
            action = entry["action"]
            if action == "oom":
                self.asked_in_vain = entry["size"]
            if action not in ("alloc", "free_completed"):
                continue
            text = entry.get("user_metadata", "")
            serial = int(text) if text.isdecimal() else 0
            address, size = entry["addr"], entry["size"]
            if action == "alloc":
                block = Block(address, size, entry.get("frames", ()), serial)
                self._by_address.setdefault(address, []).append(block)
                alive[address] = block
            else:
                known = alive.pop(address, None)
                block = known or self._from_before(address, size)
                block.freed = serial
            time_us = entry.get("time_us", 0)
            self._events.append(_Event(block, action == "alloc", serial, time_us))
        for address, block in end.items():
            if address not in alive:
                self._by_address.setdefault(address, []).insert(0, block)
            self.alive_now[address] = alive.get(address, block)
        for blocks in self._by_address.values():
            blocks.sort(key=lambda block: block.born)

    def _from_before(self, address: int, size: int) -> Block:
        """A block that is older than the history."""
        block = Block(address, size)
        self._by_address.setdefault(address, []).append(block)
        return block


def _active_blocks(snapshot: dict[str, Any], device: int) -> Iterator[Block]:
    for segment in snapshot["segments"]:
        if segment["device"] != device:
            continue
        for block in segment["blocks"]:
            if block["state"] in ACTIVE:
                size = block["requested_size"]
                yield Block(block["address"], size, block.get("frames", ()))


def write_snapshot(snapshot: dict[str, Any], path: Path, rank: int) -> None:
    """In torch's own format, which pytorch.org/memory_viz shows; one for each rank.

    Whole or not at all. That it cannot be written is no reason to lose the rest.
    """
    own = path.with_stem(f"{path.stem}-rank{rank}") if rank else path
    try:
        with whole_file(own, overwrite=True) as file:
            pickle.dump(snapshot, file, protocol=4)
    except OSError as error:
        print(f"memplan: {own} is not written: {error.strerror}", file=sys.stderr)
