"""A program on a virtual card, for every test that needs one.

def test_the_card_is_there(run_on):
    assert run_on("h100-80gb", "import torch; print(torch.cuda.device_count())") == "1"
"""

import functools
import os
import subprocess
import sys
import textwrap

import bare
import pytest

from memplan.errors import VirtualDeviceError
from memplan.hardware import find_gpu
from memplan.units import MiB
from memplan.virtual import virtual_environment
from memplan.virtual.compiler import find_compiler
from memplan.virtual.wheels import find_torch


@pytest.fixture(scope="session")
def cuda_torch():
    """The torch of this interpreter, with a compiler to play its libraries."""
    try:
        find_compiler()
        return find_torch()
    except VirtualDeviceError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def virtual_env(cuda_torch):
    """Gives the variables of a virtual card; the libraries are built once."""

    def variables(gpu="h100-80gb", **options):
        options.setdefault("context_bytes", 500 * MiB)
        return dict(virtual_environment(None, find_gpu(gpu), **options).variables)

    return variables


@pytest.fixture(scope="session")
def run_on(virtual_env):
    """Runs Python code on a virtual card and gives what it printed, stripped.

    `variables` are added to its environment; `fails=True` gives the whole finished
    process and expects nothing of it.
    """

    def run(gpu, code, *arguments, variables=(), timeout=120, fails=False, **options):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *arguments],
            env={**os.environ, **virtual_env(gpu, **options), **dict(variables)},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if fails:
            return done
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture(scope="session")
def run_bare(tmp_path_factory):
    """Runs code on the runtime and driver alone, by the CUDA version they play."""

    @functools.cache
    def runner(cuda_major):
        try:
            paths = bare.compile_bare(tmp_path_factory.mktemp("bare"), cuda_major)
        except VirtualDeviceError as error:
            pytest.skip(error.message)
        return functools.partial(bare.run, paths)

    return runner
