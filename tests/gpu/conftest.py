"""What needs a CUDA card, and the plans and programs that are run on it.

Every test of this folder that uses `card` is skipped where there is none. To try the
tests themselves without a card, run them in the environment of a virtual one with
MEMPLAN_TESTS_ON_VIRTUAL_CARD set: what is called measured here is then rehearsed, and
holding it against a rehearsal shows only that the comparison works.
"""

import ctypes
import functools
import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from memplan import rehearse, rehearse_program
from memplan.errors import VirtualDeviceError
from memplan.virtual.compiler import find_compiler
from memplan.virtual.wheels import find_torch

ON_VIRTUAL_CARD = "MEMPLAN_TESTS_ON_VIRTUAL_CARD"
PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="session")
def card():
    """`measured` on a card, `rehearsed` on a virtual one that stands in for it."""
    torch = pytest.importorskip("torch", reason="a card is met with torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a driver that is too old, or absent
        is_there = torch.cuda.is_available()
    if not is_there:
        pytest.skip("there is no CUDA card here")
    if not hasattr(ctypes.CDLL(None), "vd_unsupported_calls"):
        return "measured"
    if os.environ.get(ON_VIRTUAL_CARD):
        return "rehearsed"
    pytest.skip("this card is a virtual one")


@pytest.fixture(scope="session")
def can_rehearse():
    """A compiler and the wheels of torch, for what is compared with a card."""
    try:
        find_compiler()
        find_torch()
    except VirtualDeviceError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def measured(card):
    """The report of a plan on the card; each plan is measured once."""
    from memplan.profile import profile

    return functools.cache(lambda plan: profile(plan, ranks=plan.num_gpus))


@pytest.fixture(scope="session")
def rehearsed(can_rehearse, measured):
    """The report of the same plan on a virtual card that is like the one at hand."""

    @functools.cache
    def on_its_like(plan):
        return rehearse(replace(plan, **card_of(measured(plan))))

    return on_its_like


@pytest.fixture(scope="session")
def programs_measured(card, tmp_path_factory):
    """The report and the snapshot of a program on the card."""
    from memplan.profile import profile_program

    return _with_snapshot(profile_program, tmp_path_factory.mktemp("measured"))


@pytest.fixture(scope="session")
def programs_rehearsed(can_rehearse, programs_measured, tmp_path_factory):
    """The same of a program on a virtual card that is like the one at hand."""
    run = _with_snapshot(rehearse_program, tmp_path_factory.mktemp("rehearsed"))

    def on_its_like(name):
        report, _ = programs_measured(name)
        return run(name, tuple(sorted(card_of(report).items())))

    return on_its_like


def card_of(report):
    """The fields of a plan that describe the card a report is about."""
    return {
        "gpu": report.device.gpu,
        "gpu_memory_bytes": report.device.total_bytes,
        "context_bytes": report.device.context_bytes,
    }


def _with_snapshot(run, folder):
    @functools.cache
    def of(name, options=()):
        import sys

        snapshot = folder / f"{name}.pickle"
        command = [sys.executable, str(PROGRAMS / f"{name}.py")]
        return run(command, snapshot=snapshot, **dict(options)), snapshot

    return of
