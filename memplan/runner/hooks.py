"""Installs the runner in a process that has just imported PyTorch."""

import os
from typing import Any

from memplan.runner import collectives, marks, summary, world
from memplan.runner.capture import STOPPED, Capture
from memplan.runner.counters import Counters
from memplan.runner.phases import Timeline
from memplan.runner.settings import Settings
from memplan.runner.signals import Signals
from memplan.runner.stop import Stop
from memplan.runner.witness import Witness


def install(settings: Settings) -> None:
    """See the whole program, from here to its end."""
    if settings.rank is not None and settings.world_size is not None:
        world.install(settings.rank, settings.world_size)
    if settings.virtual:
        collectives.install()
    counters = Counters()
    witness = Witness(settings.steps)
    timeline = Timeline(counters.take, witness.tags.change_phase)
    stop = Stop(timeline, settings.steps, lambda: capture.write(STOPPED))
    signals = Signals(timeline, witness, stop.if_due)

    def content() -> dict[str, Any]:
        return summary.seen(settings, timeline, signals, witness)

    capture = Capture(settings.folder, content)
    counters.install()
    witness.install()
    signals.install()
    marks.listeners.append(timeline)
    capture.install()
    os.register_at_fork(after_in_child=lambda: _let_go(timeline))


def _let_go(timeline: Timeline) -> None:
    """A worker that was forked off marks nothing: it must not touch CUDA."""
    if timeline in marks.listeners:
        marks.listeners.remove(timeline)
