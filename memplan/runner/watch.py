"""Sees steps, phases and memory of a process for as long as it is attached.

    attach()     from here on: wherever the program is, and whatever it has built
    content()    what was seen so far, in the words of a capture
    detach()     PyTorch is as it was; `content` still answers

What was allocated before has no line that made it: it is known by who holds it.
"""

import os
from collections.abc import Callable
from typing import Any

from memplan.runner import marks
from memplan.runner.capture import STOPPED
from memplan.runner.counters import COUNTERS
from memplan.runner.out_of_memory import OutOfMemory
from memplan.runner.outside import Outside
from memplan.runner.phases import SETUP, Timeline
from memplan.runner.settings import Settings
from memplan.runner.signals import Signals
from memplan.runner.summary import Summary
from memplan.runner.tags import Place
from memplan.runner.values import Values
from memplan.runner.witness import Witness


class Watch:
    """What hears PyTorch, and makes a capture of it.

    One at a time in a process, since PyTorch has one of what it listens to.
    """

    current: "Watch | None" = None
    """The one that is attached."""

    def __init__(
        self,
        settings: Settings,
        *,
        values: Values | None = None,
        has_met_peers: Callable[[], bool] | None = None,
        when_due: Callable[[], None] = lambda: None,
        when_replayed: Callable[[], None] = lambda: None,
    ) -> None:
        """`when_due` is called at each forward pass that trains, before it begins.

        `when_replayed` is called before a CUDA graph is replayed again.
        """
        self.timeline = Timeline(COUNTERS.take, self._change_phase)
        self._settings = settings
        self._witness = Witness(settings.steps, values)
        self._signals = Signals(
            self.timeline,
            self._witness,
            when_due=when_due,
            when_replayed=when_replayed,
        )
        self._out_of_memory = OutOfMemory(
            self._witness.tags,
            self._where,
            self._signals.look_around,
            settings.snapshot,
        )
        self._outside = Outside()
        self._summary = Summary(
            settings=settings,
            timeline=self.timeline,
            signals=self._signals,
            witness=self._witness,
            out_of_memory=self._out_of_memory,
            outside=self._outside,
            values=values,
            has_met_peers=has_met_peers,
        )
        self._seen: dict[str, Any] | None = None
        """What was seen when it was detached."""

    @property
    def is_attached(self) -> bool:
        return Watch.current is self

    def attach(self) -> None:
        """See the program from here on."""
        assert Watch.current is None, "a process is watched already"
        assert self._seen is None, "a watch is over once it was detached"
        Watch.current = self
        COUNTERS.attach()
        self._outside.attach()
        self._witness.attach()
        self._signals.attach()
        self._out_of_memory.attach()
        marks.listeners.append(self.timeline)

    def detach(self) -> None:
        """Keep what was seen, and leave no trace in PyTorch."""
        if not self.is_attached:
            return
        try:
            self._seen = self._summary.content(STOPPED)
        finally:
            Watch.current = None
            _unmark(self.timeline)
            self._out_of_memory.detach()
            self._signals.detach()
            self._witness.detach()
            self._outside.detach()
            COUNTERS.detach()

    def content(self, ended: str, about: str | None = None) -> dict[str, Any]:
        """What was seen until now, or until it was detached.

        The peak is that of the steady step, or of the mark `about`.
        """
        if self._seen is None:
            return self._summary.content(ended, about)
        return self._seen

    def late_out_of_memory(self, where: Callable[[], Place]) -> OutOfMemory:
        """For the time after: models and optimizers are still known."""
        return OutOfMemory(
            self._witness.tags,
            where,
            self._signals.look_around,
            self._settings.snapshot,
        )

    def _where(self) -> Place:
        here, phase = self._witness.tags.here, self.timeline.phase
        module = here.module if phase != SETUP else ""
        return Place(self.timeline.step_number, phase, module, here.node)

    def _change_phase(self, step: int, phase: str) -> int:
        self._outside.look()
        return self._witness.tags.change_phase(step, phase)


def _let_go() -> None:
    """A worker that was forked off marks nothing: it must not touch CUDA."""
    if Watch.current is not None:
        _unmark(Watch.current.timeline)


def _unmark(timeline: Timeline) -> None:
    if timeline in marks.listeners:
        marks.listeners.remove(timeline)


os.register_at_fork(after_in_child=_let_go)
