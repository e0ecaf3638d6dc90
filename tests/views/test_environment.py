"""`memplan env` as text and as data, for machines that are made up."""

from pathlib import Path

import pytest

from memplan.errors import VirtualDeviceError
from memplan.views.environment import as_data, as_text
from memplan.virtual import Support
from memplan.virtual.libraries import LIBRARIES
from memplan.virtual.wheels import RealLibrary, TorchBuild

VERSIONS = {"memplan": "0.1.0", "python": "3.11.7", "torch": "2.14.1"}
CUDNN = next(library for library in LIBRARIES if library.name == "libcudnn")


def a_build(torch="2.14.1+cu130", cudnn="9.24.0.43"):
    real = RealLibrary(
        library=CUDNN, soname="libcudnn.so.9", path=Path("/x"), version=cudnn
    )
    return TorchBuild(
        interpreter="/train/bin/python",
        python="3.12.1",
        machine="x86_64",
        torch=torch,
        cuda="13.0",
        libraries=(real,),
        driver_header=None,
    )


def a_machine(**changes):
    there = {
        "build": a_build(),
        "compiler": "cc",
        "cache": Path("/home/me/.cache/memplan/virtual"),
        "cache_problem": None,
        "is_built": False,
        "errors": (),
    }
    return Support(**{**there, **changes})


MACHINES = {
    "all is there": a_machine(),
    "built, without a compiler": a_machine(compiler=None, is_built=True),
    "nothing is there": a_machine(
        build=None,
        compiler=None,
        errors=(
            VirtualDeviceError(
                "/train/bin/python has no torch.", hint="pip install torch."
            ),
            VirtualDeviceError("There is no C compiler.", hint="apt install gcc."),
        ),
    ),
    "a cache that is a file": a_machine(cache_problem="/home/me is not a folder"),
    "newer torch, older cudnn": a_machine(
        build=a_build(torch="2.15.0+cu130", cudnn="9.7.1.26")
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_as_text(name, snapshot):
    assert as_text(VERSIONS, MACHINES[name]) == snapshot


@pytest.mark.parametrize("name", MACHINES)
def test_as_data(name, snapshot):
    assert as_data(VERSIONS, MACHINES[name]) == snapshot
