"""Installs the runner in a process that has just imported PyTorch."""

import torch

from memplan.runner import collectives, world
from memplan.runner.course import Course
from memplan.runner.device import is_virtual
from memplan.runner.settings import Settings
from memplan.runner.values import Values


def install(settings: Settings) -> None:
    """See the whole program, from here to its end."""
    has_met_peers = None
    if settings.rank is not None and settings.world_size is not None:
        has_met_peers = world.install(
            settings.rank, settings.world_size, has_nccl=settings.has_nccl
        )
    Course(settings, _play(), has_met_peers).start()


def _play() -> Values | None:
    """What only a virtual card needs: it computes nothing, and is never late."""
    if not is_virtual() or torch.version.cuda is None:
        return None
    collectives.install()
    values = Values()
    values.install()
    return values
