"""What every kept run took, and what is estimated of its plan today."""

import tempfile
from functools import cache
from pathlib import Path

import test_evaluated
import test_rehearsed

from memplan.validation.bands import Outcome, outcome_of
from memplan.validation.grid import rehearsed
from memplan.validation.validate import validate


@cache
def outcomes():
    """Of the grid, of training steps and of evaluations; and the versions of torch."""
    found, versions = [], set()
    for more, their_versions in (_of_the_grid(), _trained(), _evaluated()):
        found += more
        versions |= their_versions
    return found, versions


def _of_the_grid():
    cases = validate(rehearsed(), against="rehearsed").cases
    differences = [(case.entry, case.difference) for case in cases]
    found = [outcome_of(name, d.b, d.a) for name, d in differences]
    return found, {difference.a.device.torch for _, difference in differences}


def _trained():
    found, versions = [], set()
    for file in test_rehearsed.FILES:
        with tempfile.TemporaryDirectory() as folder:
            run, report = test_rehearsed.replay(file, Path(folder))
        steady = [phase for phase in run["phases"] if phase["step"] == 2]
        found.append(
            Outcome(
                name=file.stem,
                plan=report.plan,
                estimated_bytes=report.peak.allocated_bytes,
                allocated_bytes=max(p["peak_allocated_bytes"] for p in steady),
                reserved_bytes=max(p["peak_reserved_bytes"] for p in run["phases"]),
            )
        )
        versions.add(run["versions"]["torch"])
    return found, versions


def _evaluated():
    found, versions = [], set()
    for file in test_evaluated.FILES:
        run, report = test_evaluated.replay(file)
        found.append(
            Outcome(
                name=file.stem,
                plan=report.plan,
                estimated_bytes=report.peak.allocated_bytes,
                allocated_bytes=run["peak"]["allocated_bytes"],
                reserved_bytes=run["peak"]["reserved_bytes"],
            )
        )
        versions.add(run["versions"]["torch"])
    return found, versions
