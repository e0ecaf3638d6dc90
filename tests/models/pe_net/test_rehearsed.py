"""PE-Net on a virtual card: its hot spot, its way out, and its testing."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from memplan import TrainingPlan, estimate
from memplan.errors import VirtualDeviceError
from memplan.models.catalogue import read_preset
from memplan.units import GiB
from memplan.virtual.compiler import find_compiler
from memplan.virtual.wheels import find_torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def virtual_card():
    try:
        find_compiler()
        find_torch()
    except VirtualDeviceError as error:
        pytest.skip(error.message)


def peaks(**plan):
    """Rehearsed and estimated, in GiB."""
    from memplan.rehearse import rehearse

    asked = TrainingPlan(precision="fp32", gpu="h100-80gb", **plan)
    reports = rehearse(asked), estimate(asked)
    return [report.peak.allocated_bytes / GiB for report in reports]


@pytest.mark.parametrize(
    ("name", "expected"), [("pe-net-vg150", 16.3), ("pe-net-algebraic", 7.25)]
)
def test_a_published_batch_takes_its_memory(name, expected):
    rehearsed, estimated = peaks(
        model=name,
        optim="sgd_momentum",
        per_device_train_batch_size=8,
        max_grad_norm=5.0,
    )
    assert rehearsed == pytest.approx(expected, abs=0.05)
    assert estimated == pytest.approx(rehearsed, rel=0.01)


@pytest.mark.parametrize("mode", ["predcls", "sgcls", "sgdet"])
def test_testing_looks_at_all_pairs(mode, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(read_preset("pe-net-tiny")["config"] | {"mode": mode}))
    rehearsed, estimated = peaks(
        model=str(file), image_size=256, workload="generate", trainable="all"
    )
    assert estimated == pytest.approx(rehearsed, rel=0.01)
