"""What was seen, as one JSON file for each process that used the card.

Written when the program is stopped, or else when it ends, crashes or is interrupted;
and kept before, where there is enough to be worth keeping, in case it is killed. A
process that was forked off (a DataLoader's worker) writes none.
"""

import atexit
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from memplan.runner.termination import Termination

FINISHED = "finished"
STOPPED = "stopped"
CRASHED = "crashed"
OUT_OF_MEMORY = "out_of_memory"
INTERRUPTED = "interrupted"
DIED = "died"


class Capture:
    """Asks `content` what was seen when the time comes, and writes it."""

    def __init__(self, folder: Path, content: Callable[[str], dict[str, Any]]) -> None:
        self._folder = folder
        self._content = content
        self._owner = os.getpid()
        self._error: str | None = None
        self._ended = FINISHED
        self._is_written = False
        self._lock = threading.RLock()
        self._termination = Termination(lambda: self.write(INTERRUPTED))

    def install(self) -> None:
        """Be there however the program ends."""
        atexit.register(self._at_exit)
        self._watch_exceptions()
        self._termination.install()

    def keep(self) -> None:
        """Leave what was seen so far, for the case that nothing else gets written."""
        with self._lock, self._termination.held_back(), _deaf_to_ctrl_c():
            if not self._is_written and os.getpid() == self._owner:
                self._put(DIED)

    def write(self, ended: str) -> None:
        """Write the capture; the first call counts."""
        with self._lock, self._termination.held_back(), _deaf_to_ctrl_c():
            if not self._is_written and os.getpid() == self._owner:
                self._is_written = True
                self._put(ended)

    def _put(self, ended: str) -> None:
        """All of it or nothing, in place of what was kept."""
        local_size = os.environ.get("LOCAL_WORLD_SIZE", "")
        content = {
            "pid": self._owner,
            "argv": list(sys.argv),
            "ended": ended,
            "error": self._error,
            "local_world_size": int(local_size) if local_size.isdecimal() else None,
            **self._content(ended),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"capture-{self._owner}.json"
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(content, indent=1))
        unfinished.replace(path)

    def _at_exit(self) -> None:
        self.write(self._ended)

    def _watch_exceptions(self) -> None:
        """The program's own exception goes its way; its last line is noted."""
        shown = sys.excepthook

        def excepthook(
            kind: type[BaseException],
            error: BaseException,
            traceback: TracebackType | None,
        ) -> None:
            try:
                self._note(error)
            finally:
                shown(kind, error, traceback)

        sys.excepthook = excepthook

    def _note(self, error: BaseException) -> None:
        """Write what was seen before the error goes on."""
        if os.getpid() != self._owner:
            return
        self._ended = ending_of(error)
        if self._ended != INTERRUPTED:
            self._error = last_line_of(error)
        self.write(self._ended)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A second Ctrl-C does not cut off what the first one brought about."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if heard is not None:  # by Python; a library's own handler is lost to it
            signal.signal(signal.SIGINT, heard)


def ending_of(error: BaseException) -> str:
    """How an error ends a program; libraries wrap the allocator's into their own."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.OutOfMemoryError):
            return OUT_OF_MEMORY
        cause = cause.__cause__ or cause.__context__
    return CRASHED


def last_line_of(error: BaseException) -> str:
    """As a traceback ends."""
    text = f"{type(error).__name__}: {error}"
    return text.splitlines()[0].rstrip(": ")
