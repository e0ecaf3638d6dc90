"""The end of a rehearsal: as many steps as were asked for, and no more.

The program is left by SystemExit, as if it had called `sys.exit(0)`: its `finally`
blocks run, its workers are stopped, its process group is destroyed. One that catches
that, or takes too long over it, is left at once.
"""

import os
import threading
import time
from collections.abc import Callable

import torch

from memplan.runner.phases import Timeline

PATIENCE_S = 15.0
"""What a program may take to clean up."""


class Stop:
    """Stops the program at the forward pass after the last step."""

    def __init__(
        self, timeline: Timeline, steps: int, before: Callable[[], None]
    ) -> None:
        self._timeline = timeline
        self._steps = steps
        self._before = before
        self._is_stopping = False

    @property
    def is_last_step(self) -> bool:
        """Whether the step that is now is the one to look at closely."""
        return self._timeline.step_number >= self._steps

    def if_due(self) -> None:
        """Called when a forward pass begins.

        Raises:
            SystemExit: all steps are done.
        """
        if self._is_stopping:
            os._exit(0)
        if not (self.is_last_step and self._timeline.is_between_steps):
            return
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            # Warm-up steps before a CUDA graph is captured are not yet the run itself.
            return
        self._is_stopping = True
        self._before()
        threading.Thread(target=_leave_late, daemon=True).start()
        raise SystemExit(0)


def _leave_late() -> None:
    time.sleep(PATIENCE_S)
    os._exit(0)
