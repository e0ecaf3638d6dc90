"""The closed form against runs of the real PyTorch on a virtual CUDA device.

Each file under `rehearsed/` is what one run printed: the plan, the versions, and the
allocator's peaks phase by phase. It is never edited by hand.
"""

import json
from pathlib import Path

import pytest

from memplan import TrainingPlan, estimate

FILES = sorted((Path(__file__).parent / "rehearsed").glob("*.json"))
TOLERANCE_FRACTION = 0.01


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_steady_peak_is_within_one_percent_of_the_rehearsed_one(file, tmp_path):
    rehearsed, report = replay(file, tmp_path)
    is_adapted = rehearsed["plan"].get("trainable") == "lora"
    # A run counts the parameters before adapters are put beside them.
    num_adapters = rehearsed["trainable_parameters"] if is_adapted else 0
    assert report.model.parameters == rehearsed["parameters"] + num_adapters
    assert report.model.trainable_parameters == rehearsed["trainable_parameters"]
    steady = [p for p in rehearsed["phases"] if p["step"] == 2]
    peak_bytes = max(p["peak_allocated_bytes"] for p in steady)
    assert report.peak.allocated_bytes == pytest.approx(
        peak_bytes, rel=TOLERANCE_FRACTION
    )


def replay(file, folder):
    """A kept run and today's estimate of its plan."""
    rehearsed = json.loads(file.read_text())
    plan = dict(rehearsed["plan"])
    if "lora_targets" in plan:
        plan["lora_targets"] = tuple(plan["lora_targets"])
    if "config" in rehearsed:
        config = folder / "config.json"
        config.write_text(json.dumps(rehearsed["config"]))
        plan["model"] = str(config)
    return rehearsed, estimate(TrainingPlan(**plan))
