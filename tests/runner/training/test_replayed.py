"""Kept runs, replayed through the whole of a rehearsal: the same peaks, phase by phase.

The kept figures came from a training program of its own over another virtual device.
"""

import json
from pathlib import Path

import pytest

from memplan import TrainingPlan
from memplan.errors import VirtualDeviceError
from memplan.units import GiB
from memplan.virtual.compiler import find_compiler
from memplan.virtual.wheels import find_torch

KEPT = Path(__file__).parents[2] / "rehearsed"
NAMES = {
    "gpt2-bf16-mixed-a100": "transformers",
    "t5-small-bf16-mixed": "transformers",
    "vit-base-fp16-mixed-t4": "transformers",
    "llama-selective-bf16-mixed-h100": "transformers",
    "llama-small-adamw-8bit": "bitsandbytes",
    "llama-1b-lora-nf4-bf16-mixed-checkpointing": "bitsandbytes",
    "llama-tied-fsdp2-sgd": "transformers",
    "llama-400m-fsdp2-offload": "transformers",
    "llama-400m-ddp": "transformers",
    "llama-400m-deepspeed-1-accumulation": "deepspeed",
    "openflamingo-3b-bf16-mixed-pages": "transformers",
    "pe-net-fp32-rtx-3090": "torchvision",
}
"""Kept runs, and the library that they rest on."""
TOLERANCE_FRACTION = 0.002
"""Whether a block is split depends on what was free: the rest of it, up to 1 MiB."""
WIDER_FRACTIONS = {
    # Every layer's quantized weights came from blocks that loading had left free.
    "llama-1b-lora-nf4-bf16-mixed-checkpointing": 0.004,
    # That run's module was written for it, and held 40 MB more for a moment.
    "pe-net-fp32-rtx-3090": 0.004,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_kept_run_is_met_phase_by_phase(name, tmp_path):
    pytest.importorskip(NAMES[name])
    try:
        find_compiler()
        find_torch()
    except VirtualDeviceError as error:
        pytest.skip(error.message)
    from memplan.rehearse import rehearse

    kept = json.loads((KEPT / f"{name}.json").read_text())
    report = rehearse(plan_of(kept, tmp_path))
    last = max(phase.step for phase in report.phases)
    for phase in ("forward", "backward"):
        expected = highest(
            (p["peak_allocated_bytes"], p["phase"])
            for p in kept["phases"]
            if p["step"] == 2
        )
        found = highest(
            (p.peak_allocated_bytes, p.phase) for p in report.phases if p.step == last
        )
        tolerance = WIDER_FRACTIONS.get(name, TOLERANCE_FRACTION)
        assert found[phase] == pytest.approx(expected[phase], rel=tolerance)


def plan_of(kept, folder):
    """The plan of a kept run, on a card that is large enough for any."""
    fields = {key: value for key, value in kept["plan"].items() if key != "torch"}
    if "lora_targets" in fields:
        fields["lora_targets"] = tuple(fields["lora_targets"])
    if "config" in kept:
        file = folder / "config.json"
        file.write_text(json.dumps(kept["config"]))
        fields["model"] = str(file)
    return TrainingPlan(**fields, gpu_memory_bytes=200 * GiB)


def highest(peaks):
    """The highest peak of each phase; a loss computed in the model is its forward."""
    found = {}
    for peak_bytes, phase in peaks:
        name = "forward" if phase == "loss" else phase
        found[name] = max(found.get(name, 0), peak_bytes)
    return found
