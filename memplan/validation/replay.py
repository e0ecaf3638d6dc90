"""Today's rehearsal of a plan in a process of its own, kept so that it is made once.

    replays = Replays(folder)
    report = replays.rehearse(plan)

What is kept is found again by everything that decides it: the plan, the versions of the
libraries that allocate, and memplan's own code. So a run over many plans can be stopped
and goes on where it was.
"""

import hashlib
import json
import os
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import memplan
from memplan.errors import MemplanError, ProgramError
from memplan.estimating.changes import command_words
from memplan.files import whole_file
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport, from_json, to_json
from memplan.running.apart import Apart
from memplan.running.run import ALLOCATOR_SETTINGS

FITS, DOES_NOT_FIT = 0, 1
LIBRARIES = (
    "accelerate",
    "bitsandbytes",
    "deepspeed",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "peft",
    "timm",
    "torch",
    "torchvision",
    "transformers",
    "triton",
)
"""Distributions whose version can move a peak."""
CODE = (".py", ".c", ".h")
ONLY_SHOWS = ("cli", "integrations", "views")
"""Rooms that decide no figure."""


@dataclass(frozen=True, slots=True)
class Replays:
    """Rehearsals, kept in a folder."""

    folder: Path
    apart: Apart = field(default_factory=Apart)
    """Runs what was not kept; several threads may ask at once."""

    def rehearse(self, plan: TrainingPlan) -> MemoryReport:
        """What a plan takes on the virtual card.

        Raises:
            MemplanError: it cannot be rehearsed, or not here.
        """
        words = command_words(plan, "rehearse")
        file = self.folder / f"{key_of(words)}.json"
        with suppress(OSError, MemplanError):  # made anew where it is not there, or cut
            return from_json(file.read_bytes())
        report = rehearsed_apart(plan, self.apart)
        with suppress(OSError):  # a folder that cannot be written costs the next run
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file, overwrite=True) as kept:
                kept.write(to_json(report).encode("utf-8"))
        return report


def replays_folder() -> Path:
    """`rehearsals` in `MEMPLAN_CACHE`, else in memplan's part of the user's cache."""
    if chosen := os.environ.get("MEMPLAN_CACHE"):
        return Path(chosen).absolute() / "rehearsals"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "memplan" / "rehearsals"


def rehearsed_apart(plan: TrainingPlan, apart: Apart | None = None) -> MemoryReport:
    """What `memplan rehearse` prints in a process of its own; the rest is not shown.

    Settings of the allocator are those of the plan, and none of the environment.

    Raises:
        ProgramError: it cannot be rehearsed, or not here.
    """
    words = command_words(plan, "rehearse")
    environ = {k: v for k, v in os.environ.items() if k not in ALLOCATOR_SETTINGS}
    done = (apart or Apart()).run(
        [sys.executable, "-m", *words, "--no-try-changes", "--json"], environ
    )
    if done.returncode in (FITS, DOES_NOT_FIT) and done.stdout:
        return from_json(done.stdout)
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    why = said[-1].removeprefix("error: ") if said else f"exit code {done.returncode}"
    raise ProgramError(why, hint=f"Try it: {shlex.join(words)}")


def key_of(words: list[str]) -> str:
    """Names what was kept by all that decides it."""
    decides = [words, _versions(), _code()]
    return hashlib.sha256(json.dumps(decides).encode("utf-8")).hexdigest()[:32]


@cache
def _versions() -> dict[str, str]:
    """Of the interpreter, and of the libraries that are installed."""
    found = {"python": sys.version}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@cache
def _code() -> str:
    """A sum of memplan's own files: between two releases they change too."""
    package = Path(str(memplan.__file__)).parent
    total = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        place = path.relative_to(package)
        if path.suffix in CODE and place.parts[0] not in ONLY_SHOWS:
            total.update(str(place).encode("utf-8"))
            total.update(path.read_bytes())
    return total.hexdigest()
