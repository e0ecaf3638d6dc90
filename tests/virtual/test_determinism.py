"""A rehearsal repeats to the byte: what is reserved depends on addresses, too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "programs"

REPEATED = {
    # Autocast frees its copies in the order of host addresses.
    "plain_loop.py": [],
    # Workspaces of convolutions, and a scaler that reads back what it found.
    "vision.py": ["--model", "resnet50"],
}


@pytest.mark.slow
@pytest.mark.parametrize("program", REPEATED)
def test_the_same_run_gives_the_same_report(cuda_torch, program):
    command = [PROGRAMS / program, *REPEATED[program]]
    first, second = rehearse(*command), rehearse(*command)
    assert first["peak"] == second["peak"]
    assert first["phases"] == second["phases"]
    assert first["holders"] == second["holders"]
    assert first == second


def rehearse(*program):
    """The report of a program, started anew."""
    command = [sys.executable, "-m", "memplan", "rehearse", "--json", "--"]
    done = subprocess.run(
        [*command, sys.executable, *program],
        # Where the user's shell put things differs between two runs.
        env={**os.environ, "A_LONGER_ENVIRONMENT": "x" * next(LENGTHS)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LENGTHS = iter(range(0, 10**6, 4321))
