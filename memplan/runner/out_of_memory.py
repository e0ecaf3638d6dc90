"""Out of memory: where it happened, what was asked, and what the memory was held by.

The allocator calls before it raises. The program's exception then goes its own way, and
may be caught.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from memplan.runner.attribution import Attribution, components_of, largest_holders
from memplan.runner.history import History, write_snapshot
from memplan.runner.lines import line_here
from memplan.runner.tags import Place, Tags

Observer = Callable[[int, int, int, int], None]
_observers: list[Observer] = []
"""Who is told when memory runs out."""


class OutOfMemory:
    """Keeps the last time that memory ran out."""

    def __init__(
        self,
        tags: Tags,
        where: Callable[[], Place],
        look_around: Callable[[], None],
        path: Path | None,
    ) -> None:
        self._tags = tags
        self._where = where
        self._look_around = look_around
        self._path = path
        self.last: dict[str, Any] | None = None

    def attach(self) -> None:
        """Be told from here on, or from the beginning of CUDA."""
        _observers.append(self._observe)
        _have_observers_told()

    def detach(self) -> None:
        """Be told no more."""
        _observers.remove(self._observe)

    def _observe(self, device: int, segment: int, total: int, free: int) -> None:
        """Called by the allocator; `segment` is what it asked of the card."""
        place = self._where()  # before looking around, which is a place of its own
        self._look_around()
        snapshot = torch.cuda.memory._snapshot(device)
        if self._path is not None:
            write_snapshot(snapshot, self._path, int(os.environ.get("RANK", 0)))
        history = History(snapshot, device)
        held = Attribution(history, self._tags).held(history.now())
        stats = torch.cuda.memory_stats(device)
        asked = history.asked_in_vain or segment
        self.last = {
            "step": place.step,
            "phase": place.phase,
            "module": place.module,
            "line": line_here() or self._tags.backward_line,
            "asked_bytes": asked,
            "segment_bytes": segment,
            "free_bytes": free,
            "allocated_bytes": stats["allocated_bytes.all.current"],
            "reserved_bytes": stats["reserved_bytes.all.current"],
            "message": f"asked for {asked} bytes; of {total} there were {free} free",
            "components": components_of(held),
            "holders": largest_holders(held),
        }


@cache
def _have_observers_told() -> None:
    """Once a process: the allocator never lets go of whom it calls."""
    attach = vars(torch._C)["_cuda_attach_out_of_memory_observer"]
    torch.cuda._lazy_call(lambda: attach(_tell))  # type: ignore[no-untyped-call]


def _tell(device: int, segment: int, total: int, free: int) -> None:
    for observer in tuple(_observers):
        observer(device, segment, total, free)
