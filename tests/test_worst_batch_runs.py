"""The worst batch of a real Trainer: the step that is named is the one that peaks."""

import json
import sys
from pathlib import Path

import pytest

from memplan import TrainingPlan, rehearse_program
from memplan.batching.dataset import read_sizes
from memplan.errors import VirtualDeviceError
from memplan.virtual.compiler import find_compiler
from memplan.virtual.wheels import find_torch
from memplan.worst_batch import worst_batch

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "programs" / "uneven_lengths.py"
LENGTHS = [16 + 97 * i % 211 for i in range(30)]
LENGTHS[13] = 700


def test_the_step_that_is_named_is_the_one_that_peaks(tmp_path):
    transformers = pytest.importorskip("transformers")
    try:
        find_compiler()
        find_torch()
    except VirtualDeviceError as error:
        pytest.skip(error.message)
    transformers.LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    ).save_pretrained(tmp_path)
    file = tmp_path / "lengths.jsonl"
    file.write_text("".join(json.dumps({"length": n}) + "\n" for n in LENGTHS))
    plan = TrainingPlan(
        model=str(tmp_path), per_device_train_batch_size=3, gpu="a100-80gb"
    )
    found = worst_batch(plan, read_sizes(file))
    assert found.worst.cause.row == 14

    report = rehearse_program(
        [sys.executable, str(PROGRAM), str(tmp_path), str(file), "3"],
        gpu="a100-80gb",
        steps=found.num_batches,
    )
    peaks = dict[int, int]()
    for phase in report.phases:
        peak = max(peaks.get(phase.step, 0), phase.peak_allocated_bytes)
        peaks[phase.step] = peak
    assert found.worst.step == max(peaks, key=peaks.__getitem__)
    band = found.report.band
    assert band.low_bytes <= peaks[found.worst.step] <= band.high_bytes
