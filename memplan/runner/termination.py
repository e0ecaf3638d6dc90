"""A process that is told to end (SIGTERM) says first what it has seen.

Python runs a handler between two of its own instructions. A rank whose peer has died
waits inside of CUDA or NCCL, and comes to none; a launcher that has asked it to end
kills it some seconds later. So a thread hears the signal too, and gives the main thread
a moment before it acts for it.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

MOMENT_S = 2.0
"""For the main thread to hear; launchers wait for 15 and more (torchrun: 30)."""


class Termination:
    """Calls `before` when the process is told to end, and then ends it."""

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before
        self._is_heard = threading.Event()
        self._holder: int | None = None
        """The thread that must not be ended now."""

    def install(self) -> None:
        """Take SIGTERM, unless the program has a handler of its own."""
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
        signal.signal(signal.SIGTERM, self._on_terminate)
        self._hear_in_a_thread()

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """What runs here is finished first, if it is this thread that is to end."""
        outer, self._holder = self._holder, threading.get_ident()
        try:
            yield
        finally:
            self._holder = outer
            if self._is_heard.is_set() and outer is None and _is_main_thread():
                _end()

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        self._is_heard.set()
        if self._holder == threading.get_ident():
            return  # it ends when that is done
        self._before()
        _end()

    def _hear_in_a_thread(self) -> None:
        """Python writes each signal's number into a pipe, if no other has it do so."""
        reads, writes = os.pipe()
        os.set_blocking(writes, False)
        known = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        if known != -1:
            signal.set_wakeup_fd(known, warn_on_full_buffer=False)
            os.close(reads)
            os.close(writes)
            return
        _keep_from_children(writes)
        threading.Thread(target=self._listen, args=(reads,), daemon=True).start()

    def _listen(self, reads: int) -> None:
        while number := os.read(reads, 1):
            if number[0] == signal.SIGTERM and not self._is_heard.wait(MOMENT_S):
                self._before()
                os._exit(128 + signal.SIGTERM)


def _keep_from_children(pipe: int) -> None:
    """A forked child is born with the pipe: what it is told must not reach us by it."""

    def set_to(file: int) -> None:
        if _is_main_thread():  # Python allows it nowhere else
            signal.set_wakeup_fd(file, warn_on_full_buffer=False)

    os.register_at_fork(
        before=lambda: set_to(-1),
        after_in_parent=lambda: set_to(pipe),
        after_in_child=lambda: set_to(-1),
    )


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end() -> None:
    """As the signal would have done without us."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
