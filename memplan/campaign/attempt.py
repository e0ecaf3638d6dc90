"""One plan on the card at hand, in a process of its own that may crash, hang or die.

    attempt = Attempt(entry, folder)       # starts it; libraries are imported
    attempt.let_in()                       # it may have the card
    answer = attempt.wait(seconds=90)      # None: it took longer
    attempt.stop()

The process is forked off this one, which has memplan imported and no PyTorch, and
profiles the plan as `memplan profile` does: the plan's program is a process below it.
Nothing that was started outlives this process, however it ends.
"""

import ctypes
import fcntl
import multiprocessing
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from memplan.campaign.plans import Entry
from memplan.errors import MemplanError
from memplan.report import MemoryReport
from memplan.runner.launch import GRACE_S
from memplan.runner.training.turn import VARIABLE
from memplan.validation.records import Ended

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PATIENCE_S = 2 * GRACE_S
"""From asking the process to end its program, to killing it."""

_FORKING = multiprocessing.get_context("fork")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """How it ended; of a run that failed, its last words."""

    ended: Ended
    error: str = ""
    report: MemoryReport | None = None


class Attempt:
    """A plan that is being measured, or waits for its turn to be."""

    def __init__(self, entry: Entry, folder: Path) -> None:
        """Start it; what it prints goes to a file in `folder`."""
        self.entry = entry
        self.log = folder / f"{entry.name}.log"
        turn = folder / f"{entry.name}.turn"
        self._turn = turn.open("wb")
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        self._answers, theirs = _FORKING.Pipe(duplex=False)
        self._process = _FORKING.Process(
            target=_profile, args=(entry, self.log, turn, theirs), daemon=True
        )
        self._process.start()
        theirs.close()

    def let_in(self) -> None:
        """It may have the card."""
        # The lock is shared with processes that were forked off since: closing the
        # file alone would not let go of it.
        fcntl.flock(self._turn, fcntl.LOCK_UN)

    def wait(self, seconds: float) -> Answer | None:
        """How it ended; None where it has not within so many seconds."""
        if not self._answers.poll(seconds):
            return None
        try:
            answer: Answer = self._answers.recv()
        except EOFError:
            self._process.join()
            return Answer(ended="failed", error=_death(self._process.exitcode))
        self._process.join(PATIENCE_S)
        return answer

    def stop(self) -> None:
        """End it, and all that it started, if it has not ended; forget it."""
        self._answers.close()
        if self._process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self._process.pid or 0, signal.SIGINT)
            self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._turn.close()


def _death(exit_code: int | None) -> str:
    """What became of a process that left without a word."""
    if exit_code is not None and exit_code < 0:
        return f"its process was killed by {signal.Signals(-exit_code).name}"
    return f"its process left with exit code {exit_code}"


def _profile(entry: Entry, log: Path, turn: Path, answers: Connection) -> None:
    """In the process: profile the plan, and send the answer."""
    os.setsid()  # Ctrl-C is for the process that started it
    _die_with_parent()
    with log.open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.update(entry.environment)
    os.environ[VARIABLE] = str(turn)
    from memplan.profile import profile

    try:
        # Of several GPUs this card plays one.
        report = profile(entry.plan, ranks=entry.plan.num_gpus, say=_say)
    except MemplanError as error:
        _say(f"error: {error.message}\nhint: {error.hint}")
        answer = Answer(ended="failed", error=error.message)
    else:
        ended: Ended = "out_of_memory" if report.out_of_memory else "finished"
        answer = Answer(ended=ended, report=report)
    with suppress(BrokenPipeError):  # nobody waits for it any more
        answers.send(answer)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _die_with_parent() -> None:
    """The kernel kills this process when the one that started it dies."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:  # it died before that
        os._exit(1)
