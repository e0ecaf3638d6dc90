"""Where the program was, for every event of the allocator.

The allocator's history keeps with each event a text that the thread set. Here that is a
serial number, so that an event leads to a place (phase, module, autograd node), and
notes on tensors made at some number lead to the very block that was alive then:
addresses are used again and again, a number is not.
"""

import itertools
import threading
from typing import NamedTuple

import torch

from memplan.runner.labels import Label
from memplan.runner.phases import BACKWARD, SETUP


class Place(NamedTuple):
    """Where a thread was."""

    step: int
    phase: str
    module: str
    node: str
    """The autograd function that ran, in the backward pass."""


NOWHERE = Place(0, SETUP, "", "")
NUMBERS = itertools.count(1)
"""Of the whole process: a thread may have kept one from the time before it was watched.
"""


class Note(NamedTuple):
    """At this number the block at this address was that."""

    serial: int
    address: int
    label: Label


class Tags:
    """Sets the text of the running thread, and keeps what the numbers mean."""

    def __init__(self) -> None:
        self.step = 0
        self.phase = SETUP
        self.places: dict[int, Place] = {}
        self.notes: list[Note] = []
        self.bucket_sizes: list[int] = []
        """Bytes of the buckets in which DDP reduces gradients."""
        self.node_starts: list[int] = []
        """Numbers at which an autograd function was about to run."""
        self.backward_ends: list[int] = []
        """Numbers from which on a backward pass was over."""
        self._step_begins = 0
        self._last = 0
        self._local = threading.local()

        self.backward_line = ""
        """The line of the program that called the backward pass."""

    @property
    def node(self) -> str:
        """The autograd function this thread runs."""
        return getattr(self._local, "node", "")

    @property
    def here(self) -> Place:
        """Where this thread is."""
        place: Place = getattr(self._local, "place", NOWHERE)
        return place

    def put(self, module: str) -> None:
        """From here on this thread is in another place."""
        serial = self._last = next(NUMBERS)
        place = Place(self.step, self.phase, module, self.node)
        self._local.place = self.places[serial] = place
        torch._C._cuda_setMemoryMetadata(str(serial))

    def put_node(self, node: str, module: str) -> None:
        """An autograd function is about to run in this thread."""
        self._local.node = node
        self.put(module)
        self.node_starts.append(self._last)

    def change_phase(self, step: int, phase: str) -> int:
        """The program has come to another phase; a step may turn out to be the last."""
        is_new_step = step > self.step
        was_backward = self.phase == BACKWARD
        self.step, self.phase = step, phase
        self._local.node = ""
        self.put("")
        if was_backward:
            self.backward_ends.append(self._last)
        if is_new_step:
            self._forget_before(self._step_begins)
            self._step_begins = self._last
        return self._last

    def note(self, address: int, label: Label) -> None:
        """Remember what the block now at an address is."""
        self.notes.append(Note(self._last, address, label))

    def forget(self) -> None:
        """Nobody will ask any more."""
        self._forget_before(self._last + 1)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch._C._cuda_setMemoryMetadata("")

    def _forget_before(self, serial: int) -> None:
        """Keep this step and the one before it."""
        self.places = {n: p for n, p in self.places.items() if n >= serial}
        self.notes = [note for note in self.notes if note.serial >= serial]
        self.node_starts = [n for n in self.node_starts if n >= serial]
