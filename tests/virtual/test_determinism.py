"""A rehearsal repeats to the byte: what is reserved depends on addresses, too."""

import json
import os
import shlex
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "programs"

REPEATED = {
    # Autocast frees its copies in the order of host addresses.
    "plain": "-- python plain_loop.py",
    # Workspaces of convolutions, and a scaler that reads back what it found.
    "convolutions": "-- python vision.py --model resnet50",
    # A launcher starts another process; NCCL's threads and streams.
    "rank": "--num-gpus 64 -- torchrun fsdp2.py",
    # Two processes that meet over TCP; the report is of one of them.
    "ranks": "-- torchrun --nproc-per-node 2 torchrun_two_ranks.py",
    # Batches come from other processes, through a thread that pins them.
    "workers": "-- python forks_workers.py",
    # Kernels are tried out where no cache has them.
    "compiled": "-- python compiled.py",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", REPEATED.values(), ids=REPEATED)
def test_the_same_run_gives_the_same_report(cuda_torch, command):
    first, second = rehearse(command), rehearse(command)
    assert first["peak"] == second["peak"]
    assert first["phases"] == second["phases"]
    assert first["holders"] == second["holders"]
    assert first == second


def rehearse(command):
    """The report of a program, started anew."""
    own_tools = Path(sys.executable).parent
    done = subprocess.run(
        [sys.executable, "-m", "memplan", "rehearse", "--json", *shlex.split(command)],
        cwd=PROGRAMS,
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(own_tools), os.environ["PATH"]]),
            # Where the user's shell put things differs between two runs.
            "A_LONGER_ENVIRONMENT": "x" * next(LENGTHS),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LENGTHS = count(0, 4321)
