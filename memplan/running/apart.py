"""A command in a process of its own, of which nothing outlives this one.

    apart = Apart()
    done = apart.run(["python", "-m", "memplan", "rehearse", "gpt2"], environment)
    apart.stop()                # from another thread: ends all, and starts no more

Several threads may run commands at once. On Linux `runner/supervise.py` stands between:
it ends what was started, and all that this started, when this process dies.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

from memplan.runner import supervise

PATIENCE_S = 15
"""From asking a command to end, to killing it."""


class StoppedError(Exception):
    """The command was ended, or not started, because of `stop`."""


class Apart:
    """Commands that run beside this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._is_stopped = False

    def run(
        self, words: Sequence[str], environment: Mapping[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, and give what it printed.

        Raises:
            StoppedError: `stop` was called meanwhile, or before.
        """
        with tempfile.TemporaryDirectory(
            prefix="memplan-apart-", ignore_cleanup_errors=True
        ) as name:
            process = self._start(_supervised(words, Path(name)), environment)
            try:
                printed, said = process.communicate()
            except BaseException:
                _end(process)
                raise
            finally:
                with self._lock:
                    self._running.discard(process)
        if self._is_stopped:
            raise StoppedError
        return subprocess.CompletedProcess(words, process.returncode, printed, said)

    def stop(self) -> None:
        """End what runs, and start nothing any more."""
        with self._lock:
            self._is_stopped = True
            running = tuple(self._running)
        for process in running:
            process.terminate()

    def _start(
        self, words: Sequence[str], environment: Mapping[str, str]
    ) -> "subprocess.Popen[str]":
        with self._lock:
            if self._is_stopped:
                raise StoppedError
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C is for this process alone
            )
            self._running.add(process)
        return process


def _supervised(words: Sequence[str], folder: Path) -> Sequence[str]:
    """The command with who watches over it; prctl is Linux's."""
    if sys.platform != "linux":
        return words
    request = folder / "request.json"
    asked = {"parent": os.getpid(), "command": list(words), "environment": {}}
    request.write_text(json.dumps(asked), encoding="utf-8")
    return [sys.executable, "-I", "-S", supervise.__file__, str(request)]


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
