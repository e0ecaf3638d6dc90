"""Today's rehearsal of a plan in a process of its own, kept so that it is made once.

    replays = Replays(folder)
    report = replays.rehearse(plan)

What is kept is found again by everything that decides it: the plan, its model and card,
the versions of the libraries that allocate, and memplan's own code. So a run over many
plans can be stopped and goes on where it was.
"""

import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from memplan.errors import ProgramError
from memplan.estimating.changes import command_words
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport, from_json
from memplan.running.apart import Apart
from memplan.running.run import ALLOCATOR_SETTINGS
from memplan.validation.kept import KeptReports

FITS, DOES_NOT_FIT = 0, 1


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
        return self.kept.report(plan, lambda: rehearsed_apart(plan, self.apart))

    @property
    def kept(self) -> KeptReports:
        """Those that were made before."""
        return KeptReports(self.folder)


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
