"""The whole way on the virtual card: a run, its capture, a record, and predictions.

Everything here says rehearsed: there is no card, and nothing is called measured.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from memplan import TrainingPlan, from_json
from memplan.captures.reading import read_report
from memplan.errors import VirtualDeviceError
from memplan.validation.records import Record, write_record
from memplan.virtual.compiler import find_compiler
from memplan.virtual.wheels import find_torch

pytestmark = pytest.mark.slow

PLAN = TrainingPlan(model="gpt2", gpu="t4", seq_len=256)
WORDS = ("gpt2", "--gpu", "t4", "--seq-len", "256")


@pytest.fixture(scope="module")
def memplan():
    """The command line as processes; skipped where nothing can be rehearsed."""
    try:
        find_compiler()
        find_torch()
    except VirtualDeviceError as error:
        pytest.skip(error.message)
    environ = {k: v for k, v in os.environ.items() if "ALLOC_CONF" not in k}

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "memplan", *map(str, words)],
            capture_output=True,
            text=True,
            env={**environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "80", "NO_COLOR": "1"},
            timeout=300,
        )

    return run


@pytest.fixture(scope="module")
def run(memplan, tmp_path_factory):
    """A capture of a rehearsed run."""
    file = tmp_path_factory.mktemp("run") / "run.mplan"
    done = memplan("rehearse", *WORDS, "-o", file)
    assert done.returncode == 0, done.stderr
    return file


@pytest.fixture(scope="module")
def records(run, tmp_path_factory):
    """That run as the campaign would keep it."""
    folder = tmp_path_factory.mktemp("records")
    record = Record(
        entry="gpt2.short",
        plan=PLAN,
        ended="finished",
        report=read_report(run),
        measured_at="2026-11-23",
    )
    write_record(record, folder / "t4" / "gpt2.short.json")
    return folder


def test_an_estimate_is_held_against_a_capture(memplan, run, tmp_path):
    estimated = tmp_path / "estimate.json"
    memplan("estimate", *WORDS, "-o", estimated)
    done = memplan("diff", estimated, run, "--fail-over", "1%")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("allocated peak: estimated ")
    data = json.loads(memplan("diff", estimated, run, "--json").stdout)
    assert data["is_of_one_plan"]
    assert {t["name"]: t["difference_bytes"] for t in data["components"]}[
        "weights"
    ] == 0


def test_a_run_differs_from_itself_in_nothing(memplan, run):
    done = memplan("diff", run, run, "--fail-over", "0", "--format", "quiet")
    assert (done.returncode, done.stdout) == (0, "0\n")


def test_a_rehearsed_record_is_refused_as_a_measurement(memplan, records):
    done = memplan("validate", records, "--fail-over", "5%")
    assert done.returncode == 2
    assert "says rehearsed, which is no measurement" in done.stdout.replace("\n  ", " ")


def test_predictions_are_near_and_rehearsals_are_kept(memplan, records, tmp_path):
    words = ("validate", records, "--against", "rehearsed", "--rehearse", "--json")
    done = memplan(*words, "--keep", tmp_path, "--fail-over", "1%")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["reference"] == "rehearsed"
    errors = {case["engine"]: case["errors"] for case in data["cases"]}
    assert abs(errors["estimated"]["allocated"]) < 0.01
    # The same plan, on the same card, with the same versions.
    assert errors["rehearsed"] == dict.fromkeys(errors["rehearsed"], 0)
    [kept] = tmp_path.iterdir()
    assert from_json(kept.read_text()).source == "rehearsed"
    made_at = kept.stat().st_mtime_ns
    again = json.loads(memplan(*words, "--keep", tmp_path).stdout)
    assert again["errors"]["rehearsed"] == data["errors"]["rehearsed"]
    assert kept.stat().st_mtime_ns == made_at


def test_out_of_memory_that_is_foretold_is_right(memplan, run, tmp_path):
    """On a card so small that the run cannot have been."""
    plan = replace(PLAN, gpu_memory_bytes=1 << 30)
    done = memplan("rehearse", *WORDS, "--gpu-memory", 1 << 30, "--json")
    assert done.returncode == 1
    record = Record(
        entry="gpt2.small-card",
        plan=plan,
        ended="out_of_memory",
        report=from_json(done.stdout),
        measured_at="2026-11-23",
    )
    write_record(record, tmp_path / "gpt2.json")
    done = memplan("validate", tmp_path, "--against", "rehearsed", "--json")
    assert [case["verdict"] for case in json.loads(done.stdout)["cases"]] == [
        "foretold"
    ]
