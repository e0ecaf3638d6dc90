"""Times steps that nobody watches, then counts the operations of one more.

    warm-up        a few steps, not counted: PyTorch goes on as if never watched
    timed steps    an event in the stream at each step's end, read when it was passed;
                   how long the host waited for its DataLoader; the allocator's peak
    one last step  its operations (flops.py): that makes it slow, so it comes last

A step ends with an optimizer step, or with as many of them as there are in a step: of
several optimizers that take turns, or accumulate gradients unlike, a whole round.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

from torch.optim import optimizer as optimizers
from torch.utils.data import dataloader
from torch.utils.hooks import RemovableHandle

from memplan.runner.counters import COUNTERS, Reading
from memplan.runner.flops import Flops
from memplan.runner.laps import Laps
from memplan.runner.patches import Patches
from memplan.runner.settings import Settings

MS_PER_S = 1000


class Clock:
    """Follows optimizer steps, from one step's beginning on."""

    def __init__(
        self, settings: Settings, updates_per_step: int, when_done: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._updates_per_step = max(updates_per_step, 1)
        self._when_done = when_done
        self._num_updates = 0
        self._num_steps = 0
        self._laps = Laps()
        self._stall_ms: list[float] = []
        self._waiting = Waiting()
        self._flops = Flops()
        self._peaks: dict[int, Reading] = {}
        self._hook: RemovableHandle | None = None

    @property
    def step_number(self) -> int:
        """The step that is now, after those that were watched."""
        return self._settings.steps + self._num_steps + 1

    def attach(self) -> None:
        """A step is about to begin."""
        COUNTERS.attach()
        self._hook = optimizers.register_optimizer_step_post_hook(self._updated)
        if self._settings.timed_steps:
            self._waiting.attach()
        elif self._settings.counts_flops:
            self._flops.begin()

    def detach(self) -> None:
        """Leave PyTorch as it was."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
            self._waiting.detach()
            self._flops.end()
            COUNTERS.detach()

    def content(self, device: int) -> dict[str, Any]:
        """What there is by now, in the words of a capture."""
        self._laps.finish()
        peak = self._peaks.get(device)
        return {
            "step_ms": list(self._laps.laps_ms),
            "stall_ms": self._stall_ms[: len(self._laps.laps_ms)],
            "warmup_steps": self._settings.warmup_steps if self._laps.laps_ms else 0,
            "flops_per_step": self._flops.total,
            "peak_allocated_bytes": peak and peak.peak_allocated_bytes,
        }

    def reasons(self) -> list[str]:
        """Why something is not there."""
        if not self._flops.reason:
            return []
        return [f"operations of a step were not counted: {self._flops.reason}"]

    def _updated(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._num_updates += 1
        if self._hook is not None and self._num_updates % self._updates_per_step == 0:
            self._num_steps += 1
            self._step_ends()

    def _step_ends(self) -> None:
        settings, number = self._settings, self._num_steps
        if settings.timed_steps:
            self._time(number - settings.warmup_steps)
        if number == settings.num_later_steps:
            self.detach()
            self._when_done()

    def _time(self, number: int) -> None:
        """That many steps have been timed."""
        num_timed = self._settings.timed_steps
        if 0 <= number <= num_timed:
            self._mark()
        if number == 0:
            COUNTERS.take()
        if number == num_timed:
            self._peaks = COUNTERS.take()
            self._waiting.detach()
            if self._settings.counts_flops:
                self._flops.begin()

    def _mark(self) -> None:
        waited_s = self._waiting.take()
        if self._laps.has_begun:
            self._stall_ms.append(waited_s * MS_PER_S)
        self._laps.mark()


class Waiting:
    """How long the program waits for the next batch of its DataLoaders."""

    def __init__(self) -> None:
        self._patches = Patches()
        self._is_attached = False
        self._depth = 0
        self._waited_s = 0.0

    def attach(self) -> None:
        self._is_attached = True
        iterator = dataloader._BaseDataLoaderIter
        original = iterator.__next__

        @functools.wraps(original)
        def __next__(batches: Any) -> Any:  # noqa: N807
            if not self._is_attached or self._depth:
                return original(batches)
            self._depth += 1
            began = time.perf_counter()
            try:
                return original(batches)
            finally:
                self._waited_s += time.perf_counter() - began
                self._depth -= 1

        self._patches.replace(iterator, "__next__", __next__)

    def detach(self) -> None:
        self._is_attached = False
        self._patches.restore()

    def take(self) -> float:
        """Seconds since the last call."""
        waited_s, self._waited_s = self._waited_s, 0.0
        return waited_s
