"""Starts a program with the runner inside it, waits, and collects what it captured.

    environment of a card + bootstrap first on PYTHONPATH + MEMPLAN_RUNNER
      -> supervise.py -> the program -> capture-<pid>.json of every process with a GPU

The program's output goes to stderr as it comes, since stdout belongs to the report. A
program has no time limit. Ctrl-C is passed on to it; what has not ended some seconds
later is killed, and nothing survives memplan, however memplan ends.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memplan.runner import supervise
from memplan.runner.settings import STEADY_STEPS

GRACE_S = 15
"""From Ctrl-C to the end of what has not ended by itself: a process writes its capture
before it goes. A second Ctrl-C waits no longer."""
STDERR = 2

_RUNNER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What to start, and what the runner inside it shall do."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    """Beside that of this process: the card, the allocator's settings."""
    steps: int = STEADY_STEPS
    timed_steps: int = 0
    counts_flops: bool = False
    """Whether the operations of one more step are counted."""
    is_virtual: bool = True
    rank: int | None = None
    """The rank that one process plays, of `world_size`; None: as the program says."""
    world_size: int | None = None
    has_nccl: bool = True
    """Whether that rank's NCCL can do without its peers; else no group is NCCL's."""
    snapshot: Path | None = None
    is_quiet: bool = False
    """Drop what the program prints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a program ended, and what was seen in it."""

    exit_code: int
    captures: tuple[dict[str, Any], ...]
    is_repeatable: bool
    """Addresses were those of every run: so are the bytes."""
    is_interrupted: bool = False
    """By Ctrl-C; the captures are those of what had been seen."""


def launch(program: Program) -> Outcome:
    """Run a program to its end, or until Ctrl-C has ended it and all it started."""
    with tempfile.TemporaryDirectory(prefix="memplan-") as name:
        folder = Path(name)
        request = folder / "request.json"
        request.write_text(json.dumps(_request(program, folder)), encoding="utf-8")
        output = subprocess.DEVNULL if program.is_quiet else STDERR
        # -I and -S: of this interpreter nothing but the standard library is needed.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", supervise.__file__, str(request)],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        is_interrupted = False
        try:
            exit_code = process.wait()
        except KeyboardInterrupt:
            _interrupt(process)
            exit_code, is_interrupted = 128 + signal.SIGINT, True
        except BaseException:
            _interrupt(process)
            raise
        return Outcome(
            exit_code=exit_code,
            captures=_captures(folder),
            is_repeatable=not (folder / supervise.RANDOMIZED).exists(),
            is_interrupted=is_interrupted,
        )


def _request(program: Program, folder: Path) -> dict[str, Any]:
    """What supervise.py reads."""
    own = {"PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0")}
    if program.is_virtual:
        # torch.compile tries kernels out, and keeps what it found: no real run must
        # find what was tried on a virtual card. Nor may it matter which came before.
        own["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")
    return {
        "parent": os.getpid(),
        "command": program.command,
        "environment": {
            **own,
            **program.environment,
            "PYTHONPATH": _python_path(program.environment),
            "MEMPLAN_RUNNER": json.dumps(
                {
                    "folder": str(folder),
                    "steps": program.steps,
                    "timed_steps": program.timed_steps,
                    "counts_flops": program.counts_flops,
                    "rank": program.rank,
                    "world_size": program.world_size,
                    "has_nccl": program.has_nccl,
                    "snapshot": program.snapshot and str(program.snapshot.resolve()),
                    "package": str(_RUNNER.parent),
                }
            ),
        },
    }


def _python_path(environment: Mapping[str, str]) -> str:
    """The bootstrap's folder ahead of the user's own."""
    own = environment.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    return os.pathsep.join(filter(None, [str(_RUNNER / "bootstrap"), own]))


def _interrupt(process: "subprocess.Popen[bytes]") -> None:
    """Let the program end as on Ctrl-C; then end what is left of it."""
    try:
        process.send_signal(signal.SIGINT)
        process.wait(GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.terminate()
        process.wait()


def _captures(folder: Path) -> tuple[dict[str, Any], ...]:
    """What each process wrote, in the order of ranks."""
    files = sorted(folder.glob("capture-*.json"))
    captures = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return tuple(sorted(captures, key=lambda capture: capture["rank"]))
