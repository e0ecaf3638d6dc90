"""The course of a run: steps that are watched, steps that are timed, the end.

A rehearsal ends with the watched steps. On a card the watch then leaves the process,
and a clock takes its place: what it finds goes into the same capture.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.optim import optimizer as optimizers

from memplan.runner.capture import OUT_OF_MEMORY, STOPPED, Capture
from memplan.runner.clock import Clock
from memplan.runner.device import is_virtual
from memplan.runner.host import host_memory
from memplan.runner.lines import is_called_in
from memplan.runner.out_of_memory import OutOfMemory
from memplan.runner.phases import BACKWARD, FORWARD, OPTIMIZER
from memplan.runner.settings import Settings
from memplan.runner.stop import Stop
from memplan.runner.tags import Place
from memplan.runner.values import Values
from memplan.runner.watch import Watch
from memplan.units import format_gib

REPLAYED = "no step was timed: a CUDA graph replays them"


class Course:
    """Of one process, to the end of the program or of what was asked for."""

    def __init__(
        self,
        settings: Settings,
        values: Values | None,
        has_met_peers: Callable[[], bool] | None,
    ) -> None:
        # Times of a virtual card mean nothing.
        self._settings = replace(settings, timed_steps=0) if is_virtual() else settings
        self._watch = Watch(
            settings,
            values=values,
            has_met_peers=has_met_peers,
            when_due=self._if_due,
            when_replayed=self._if_replayed,
        )
        self._clock: Clock | None = None
        self._out_of_memory: OutOfMemory | None = None
        self._is_replayed = False
        self._capture = Capture(settings.folder, self.content)
        self._stop = Stop(lambda: self._capture.write(STOPPED))

    def start(self) -> None:
        """See the program from here on, however it ends."""
        self._watch.attach()
        self._capture.install()

    def content(self, ended: str) -> dict[str, Any]:
        """What was seen and timed until now."""
        seen = self._watch.content(ended)
        lines = [*seen.get("assumptions", ()), *([REPLAYED] * self._is_replayed)]
        if self._clock is None:
            return {**seen, "assumptions": lines}
        device = seen["device"]["index"] if seen["device"] else 0
        timing = self._clock.content(device)
        lines += [*self._clock.reasons(), *self._higher(seen, timing)]
        return {
            **seen,
            "host": host_memory(),
            "timing": timing,
            "out_of_memory": self._where_memory_ended(seen, ended),
            "assumptions": lines,
        }

    def _if_due(self) -> None:
        """A forward pass is about to begin."""
        if not self._is_due():
            return
        if not self._settings.num_later_steps:
            self._stop.now()
        step = self._watch.timeline.step
        updates = step.optimizers.total() if step else 1
        self._watch.detach()
        self._clock = Clock(self._settings, updates, self._stop.now)
        self._out_of_memory = self._watch.late_out_of_memory(self._clock_is_here)
        self._out_of_memory.attach()
        self._capture.keep()
        self._clock.attach()

    def _if_replayed(self) -> None:
        """A captured step allocates nothing when it is replayed: one is enough."""
        if self._is_due():
            self._is_replayed = self._settings.timed_steps > 0
            self._stop.now()

    def _is_due(self) -> bool:
        """Whether the steps to watch are over."""
        self._stop.if_stopping()
        timeline = self._watch.timeline
        is_over = timeline.step_number >= self._settings.steps
        if not (is_over and timeline.is_between_steps):
            return False
        # Warm-up steps before a CUDA graph is captured are not yet the run itself.
        is_used = torch.cuda.is_available()
        return not (is_used and torch.cuda.is_current_stream_capturing())

    def _clock_is_here(self) -> Place:
        """As far as it can be told of a program that nobody watches."""
        assert self._clock is not None
        phase = FORWARD
        if torch._C._current_graph_task_id() != -1:
            phase = BACKWARD
        elif is_called_in(optimizers.__file__):
            phase = OPTIMIZER
        return Place(self._clock.step_number, phase, "", "")

    def _where_memory_ended(
        self, seen: dict[str, Any], ended: str
    ) -> dict[str, Any] | None:
        late = self._out_of_memory.last if self._out_of_memory else None
        if late is None:
            before: dict[str, Any] | None = seen["out_of_memory"]
            return before
        return {**late, "caught": ended != OUT_OF_MEMORY}

    def _higher(self, seen: dict[str, Any], timing: dict[str, Any]) -> list[str]:
        """Batches of unequal size make unequal steps."""
        peak, timed = seen["peak"], timing["peak_allocated_bytes"]
        if peak is None or timed is None or timed <= peak["allocated_bytes"]:
            return []
        return [
            f"of the steps that were timed one allocated {format_gib(timed)}: the peak "
            f"is that of step {peak['step']}, which was watched"
        ]
