"""Rehearsed comparisons: kept one by one, killed half-way, and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memplan.comparing.engines import Measurements, Rehearsals
from memplan.comparing.files import from_json
from memplan.plan import TrainingPlan
from memplan.runner.training.refusals import check
from memplan.running.apart import Apart, StoppedError

pytestmark = pytest.mark.slow

TRICKS = "accumulation,checkpointing-full,adamw-fused"
PATIENCE_S = 240


@pytest.fixture
def model(tmp_path, card_variables):
    """GPT-2 with two small layers; tests are skipped where no card can be played."""
    config = {
        "model_type": "gpt2",
        "n_layer": 2,
        "n_embd": 64,
        "n_head": 2,
        "vocab_size": 503,
        "n_positions": 64,
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    check(TrainingPlan(model=str(file)))
    return file


def words(model):
    return [
        *(sys.executable, "-m", "memplan", "compare", str(model), "--json"),
        *("--batch-size", "4", "--tricks", TRICKS, "--by", "rehearse", "--jobs", "1"),
    ]


def processes_of(folder):
    """Those that have this folder's name in their command or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and entry.name != str(os.getpid()):
            try:
                text = (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in text:
                found.append(int(entry.name))
    return found


def wait_until(is_so):
    ends = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.2)


def test_a_killed_comparison_leaves_nothing_behind_and_goes_on(model, tmp_path):
    cache = tmp_path / "cache"
    environment = {**os.environ, "MEMPLAN_CACHE": str(cache)}
    with (tmp_path / "said").open("w") as said:
        first = subprocess.Popen(
            words(model), env=environment, stdout=said, stderr=said
        )
    kept = cache / "rehearsals"
    wait_until(lambda: len(list(kept.glob("*.json"))) >= 2 or first.poll() is not None)
    assert first.poll() is None, (tmp_path / "said").read_text()
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_until(lambda: not processes_of(cache))
    before = {file: file.stat().st_mtime_ns for file in kept.glob("*.json")}

    second = subprocess.run(
        words(model), env=environment, capture_output=True, text=True
    )
    assert second.returncode == 0, second.stderr
    found = from_json(second.stdout)
    assert {variant.tricks[0] for variant in found.alone} == set(TRICKS.split(","))
    assert {v.report.source for v in (*found.alone, *found.greedy)} == {"rehearsed"}
    assert all(
        variant.command.startswith("memplan rehearse") for variant in found.alone
    )
    for file, changed_at in before.items():
        assert file.stat().st_mtime_ns == changed_at

    made = set(kept.glob("*.json"))
    third = subprocess.run(
        words(model), env=environment, capture_output=True, text=True
    )
    assert third.stdout == second.stdout
    assert set(kept.glob("*.json")) == made  # nothing was rehearsed a third time


def test_what_does_not_fit_says_what_it_needs_and_tries_nothing(model, tmp_path):
    plan = TrainingPlan(
        model=str(model), gpu="rtx-4090", gpu_memory_bytes=520 * 2**20, seq_len=64
    )
    [(_, report)] = Rehearsals(jobs=1, folder=tmp_path / "kept").look([plan])
    assert not report.fits
    if report.out_of_memory is not None:
        assert report.out_of_memory.needed_bytes
        assert not report.out_of_memory.were_changes_tried


def test_what_cannot_be_rehearsed_is_a_reason(model, tmp_path):
    plan = TrainingPlan(model=str(model), num_gpus=2, tensor_parallel=2)
    [(_, reason)] = Rehearsals(jobs=1, folder=tmp_path / "kept").look([plan])
    assert reason.startswith("Tensor parallelism is not run")


def test_commands_end_when_asked_to():
    apart = Apart()
    done = apart.run([sys.executable, "-c", "print(3)"], os.environ)
    assert (done.returncode, done.stdout) == (0, "3\n")
    apart.stop()
    with pytest.raises(StoppedError):
        apart.run([sys.executable, "-c", "print(3)"], os.environ)


def test_a_measurement_is_kept(model, tmp_path, card_variables, monkeypatch):
    """On a card that is played: it says so, and is kept all the same."""
    for name, value in card_variables.items():
        monkeypatch.setenv(name, value)
    plan = TrainingPlan(model=str(model), per_device_train_batch_size=2)
    engine = Measurements(tmp_path / "cache" / "rehearsals")
    [(_, report)] = engine.look([plan])
    assert report.peak.device_bytes > 0, report
    kept = list((tmp_path / "cache" / "measurements").glob("*.json"))
    assert len(kept) == 1
    [(_, again)] = engine.look([plan])
    assert again == report
