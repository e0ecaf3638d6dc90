"""Installs the runner in a process that has just imported PyTorch."""

import os

import torch

from memplan.runner import collectives, marks, world
from memplan.runner.capture import STOPPED, Capture
from memplan.runner.counters import Counters
from memplan.runner.out_of_memory import OutOfMemory
from memplan.runner.phases import Timeline
from memplan.runner.settings import Settings
from memplan.runner.signals import Signals
from memplan.runner.stop import Stop
from memplan.runner.summary import Summary
from memplan.runner.values import Values
from memplan.runner.witness import Witness


def install(settings: Settings) -> None:
    """See the whole program, from here to its end."""
    has_met_peers = None
    if settings.rank is not None and settings.world_size is not None:
        has_met_peers = world.install(settings.rank, settings.world_size)
    values = _play(settings)
    counters = Counters()
    witness = Witness(settings.steps, values)
    timeline = Timeline(counters.take, witness.tags.change_phase)
    stop = Stop(timeline, settings.steps, lambda: capture.write(STOPPED))
    signals = Signals(timeline, witness, stop.if_due)
    out_of_memory = OutOfMemory(
        timeline, witness.tags, signals.look_around, settings.snapshot
    )
    summary = Summary(
        settings=settings,
        timeline=timeline,
        signals=signals,
        witness=witness,
        out_of_memory=out_of_memory,
        values=values,
        has_met_peers=has_met_peers,
    )
    capture = Capture(settings.folder, summary.content)
    counters.install()
    witness.install()
    signals.install()
    out_of_memory.install()
    marks.listeners.append(timeline)
    capture.install()
    os.register_at_fork(after_in_child=lambda: _let_go(timeline))


def _play(settings: Settings) -> Values | None:
    """What only a virtual card needs: it computes nothing, and is never late."""
    if not settings.virtual or torch.version.cuda is None:
        return None
    collectives.install()
    values = Values()
    values.install()
    return values


def _let_go(timeline: Timeline) -> None:
    """A worker that was forked off marks nothing: it must not touch CUDA."""
    if timeline in marks.listeners:
        marks.listeners.remove(timeline)
