"""What was seen, as one JSON file for each process that used the card.

Written once: when the program is stopped, or else when it ends, crashes or is
interrupted. A process that was forked off (a DataLoader's worker) writes none.
"""

import atexit
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

FINISHED = "finished"
STOPPED = "stopped"
CRASHED = "crashed"
OUT_OF_MEMORY = "out_of_memory"
INTERRUPTED = "interrupted"


class Capture:
    """Asks `content` what was seen when the time comes, and writes it."""

    def __init__(self, folder: Path, content: Callable[[str], dict[str, Any]]) -> None:
        self._folder = folder
        self._content = content
        self._owner = os.getpid()
        self._error: str | None = None
        self._ended = FINISHED
        self._is_written = False
        """Or not wanted any more."""

    def install(self) -> None:
        """Be there however the program ends."""
        atexit.register(self._at_exit)
        self._watch_exceptions()
        if threading.current_thread() is threading.main_thread():
            self._watch_signal()

    def write(self, ended: str) -> None:
        """Write the capture; the first call counts."""
        if self._is_written or os.getpid() != self._owner:
            return
        self._is_written = True
        content = {
            "pid": self._owner,
            "argv": list(sys.argv),
            "ended": ended,
            "error": self._error,
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
        """Write what was seen, unless it was the user who did not want to wait."""
        if os.getpid() != self._owner:
            return
        if isinstance(error, KeyboardInterrupt):
            self._is_written = True
            return
        self._ended = ending_of(error)
        self._error = last_line_of(error)
        self.write(self._ended)

    def _watch_signal(self) -> None:
        """SIGTERM ends a program without a word unless it has a handler of its own."""
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return

        def on_terminate(number: int, frame: FrameType | None) -> None:
            self.write(INTERRUPTED)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        signal.signal(signal.SIGTERM, on_terminate)


def ending_of(error: BaseException) -> str:
    """How an error ends a program; libraries wrap the allocator's into their own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.OutOfMemoryError):
            return OUT_OF_MEMORY
        cause = cause.__cause__ or cause.__context__
    return CRASHED


def last_line_of(error: BaseException) -> str:
    """As a traceback ends."""
    text = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    return text.splitlines()[0]
