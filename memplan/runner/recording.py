"""Watches the first steps of the process that it is in, then only counts and times.

    begin()  watch from here on
    step()   the program says that a step is over
    end()    what was seen, in the words of a capture

Once the steps to watch are over, PyTorch is as it was. What is left to do is to put an
event into a stream at each step, on a card, and to read the allocator's peak at times.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memplan.runner.capture import (
    FINISHED,
    STOPPED,
    ending_of,
    last_line_of,
)
from memplan.runner.counters import COUNTERS
from memplan.runner.device import is_virtual
from memplan.runner.laps import Laps
from memplan.runner.settings import Settings
from memplan.runner.watch import Watch
from memplan.units import format_gib

COUNT_EVERY = 10
"""The allocator's peak stays until the program begins it anew: it need not be read at
every step."""


@dataclass(slots=True)
class Worked:
    """What the timed steps came to."""

    samples: int = 0
    tokens: int = 0


class Recorder:
    """Of one stretch of a program: begun once, ended once."""

    def __init__(self, watch_steps: int) -> None:
        self._watch_steps = watch_steps
        self._watch = Watch(
            Settings(folder=Path(), steps=watch_steps), when_due=self._detach_if_due
        )
        self._laps = Laps()
        self._worked = Worked()
        self._device = 0
        self._num_counted = 0
        self._highest_bytes = 0
        """Allocated at most in the steps that were only counted."""
        self._failure: Exception | None = None

    @property
    def has_watched(self) -> bool:
        """Whether the steps to watch are over, and something came of it."""
        return not self.is_watching and self._failure is None

    @property
    def is_watching(self) -> bool:
        """Whether the steps to watch are still going on."""
        return self._watch.is_attached

    def begin(self) -> None:
        """Watch from here on, whatever has been built before."""
        self._watch.attach()

    def step(self, samples: int | None = None, tokens: int | None = None) -> None:
        """A step is over; `samples` and `tokens` are those it trained on."""
        if self.is_watching:
            self._detach_if_due()
            return
        self._num_counted += 1
        if self._num_counted % COUNT_EVERY == 0:
            self._count()
        if is_virtual() or self._laps.is_full:
            return
        if self._laps.has_begun:
            self._worked.samples += samples or 0
            self._worked.tokens += tokens or 0
        self._laps.mark()

    def content(self) -> dict[str, Any]:
        """What the watched steps showed."""
        return self._as_capture(self._watch.content(STOPPED), STOPPED, None)

    def end(self, error: BaseException | None) -> dict[str, Any]:
        """What was seen, and how the program left; it is watched no more."""
        if self._failure is not None:
            raise self._failure
        ended = _ended(error)
        if self._num_counted:
            self._count()
        try:
            seen = self._watch.content(ended)
        finally:
            self._watch.detach()
        self._laps.finish()
        return self._as_capture(seen, ended, error)

    def _detach_if_due(self) -> None:
        """Once a step was completed, and none is being captured as a CUDA graph."""
        timeline = self._watch.timeline
        if timeline.step_number < self._watch_steps or not timeline.is_between_steps:
            return
        if torch.cuda.is_current_stream_capturing():
            return
        try:
            self._watch.detach()
            device = self._watch.content(STOPPED)["device"]
            self._device = device["index"] if device else 0
        except Exception as error:  # the program is in the middle of a step
            self._failure = error

    def _count(self) -> None:
        allocated = COUNTERS.peak_allocated_bytes(self._device)
        self._highest_bytes = max(self._highest_bytes, allocated)

    def _as_capture(
        self, seen: dict[str, Any], ended: str, error: BaseException | None
    ) -> dict[str, Any]:
        timing = None
        if self._laps.laps_ms:
            timing = {
                "step_ms": list(self._laps.laps_ms),
                "stall_ms": [],
                "warmup_steps": self._watch_steps + 1,
                "flops_per_step": None,
                "samples": self._worked.samples or None,
                "tokens": self._worked.tokens or None,
            }
        assumptions = [*seen.get("assumptions", ()), *self._after(seen)]
        return {
            "pid": os.getpid(),
            "argv": list(sys.argv),
            "ended": ended,
            "error": None if error is None else last_line_of(error),
            **seen,
            "timing": timing,
            "assumptions": assumptions,
        }

    def _after(self, seen: dict[str, Any]) -> list[str]:
        """What the steps after those that were watched mean for the figures."""
        lines = []
        peak = seen.get("peak")
        if peak and self._highest_bytes > peak["allocated_bytes"]:
            lines.append(
                f"a later step allocated up to {format_gib(self._highest_bytes)}: the "
                f"peak is that of the first {self._watch_steps}"
            )
        if is_virtual():
            lines.append(
                "recorded from within on a virtual card: operators whose output "
                "depends on values are not listed; `memplan rehearse` lists them"
            )
        return lines


def _ended(error: BaseException | None) -> str:
    """How the block was left."""
    if error is None or isinstance(error, (SystemExit, GeneratorExit)):
        return FINISHED
    return ending_of(error)
