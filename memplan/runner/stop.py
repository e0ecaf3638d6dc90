"""The end of a run: as many steps as were asked for, and no more.

The program is left by SystemExit, as if it had called `sys.exit(0)`: its `finally`
blocks run, its workers are stopped, its process group is destroyed. One that catches
that, or takes too long over it, is left at once.
"""

import os
import threading
import time
from collections.abc import Callable

PATIENCE_S = 15.0
"""What a program may take to clean up."""


class Stop:
    """Stops the program."""

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before
        self._is_stopping = False

    def if_stopping(self) -> None:
        """The program goes on all the same: it is left at once."""
        if self._is_stopping:
            os._exit(0)

    def now(self) -> None:
        """There is nothing more to see.

        Raises:
            SystemExit: always.
        """
        self.if_stopping()
        self._is_stopping = True
        self._before()
        threading.Thread(target=_leave_late, daemon=True).start()
        raise SystemExit(0)


def _leave_late() -> None:
    time.sleep(PATIENCE_S)
    os._exit(0)
