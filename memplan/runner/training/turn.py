"""Waiting for a turn on the card: after libraries are imported, before CUDA is.

Most of a small plan's time goes into imports. Who measures many plans on one card
starts the next program while this one still runs, and lets it in when the card is
free: each has a process of its own all the same, and none shares the card.
"""

import os
from pathlib import Path

VARIABLE = "MEMPLAN_TURN"
"""A file that somebody else holds locked until it is this process's turn."""


def wait_for_turn() -> None:
    """Go on at once unless the environment names a file to wait for."""
    name = os.environ.get(VARIABLE)
    if not name:
        return
    import fcntl  # there is none on Windows, nor anybody to wait for

    with Path(name).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
