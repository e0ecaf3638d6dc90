"""Single changes that would have made a run fit."""

from dataclasses import replace

import pytest

from memplan import TrainingPlan, estimate
from memplan.hardware import find_gpu
from memplan.remedies import cards_that_hold, changes_that_fit
from memplan.units import GiB

PLAN = TrainingPlan(
    model="llama-2-7b",
    gpu="a100-80gb",
    per_device_train_batch_size=8,
    num_gpus=8,
    zero_stage=1,
    precision="bf16-pure",
)


def test_cards_are_the_smallest_with_room_for_the_bytes_and_the_headroom():
    remedies = cards_that_hold(30 * GiB, find_gpu("rtx-4090"), 0.05)
    cards = [find_gpu(remedy.change.removeprefix("--gpu ")) for remedy in remedies]
    assert [card.total_bytes for card in cards] == sorted(c.total_bytes for c in cards)
    assert all(card.total_bytes * 0.95 >= 30 * GiB for card in cards)
    assert all(remedy.basis == "rehearsed" for remedy in remedies)
    assert cards_that_hold(1000 * GiB, find_gpu("rtx-4090"), 0.05) == ()


def test_each_change_fits_by_its_own_estimate_shifted_by_what_this_one_was_off():
    off_by = GiB
    needed = estimate(PLAN).peak.device_bytes + off_by
    remedies = {r.change: r for r in changes_that_fit(PLAN, needed)}
    full = remedies["--activation-checkpointing full"]
    changed = estimate(replace(PLAN, activation_checkpointing="full"))
    assert full.device_bytes == changed.peak.device_bytes + off_by
    assert {remedy.basis for remedy in remedies.values()} == {"estimated"}


def test_a_change_that_does_not_fit_is_not_listed():
    assert changes_that_fit(PLAN, 10_000 * GiB) == ()


@pytest.mark.parametrize(
    "plan",
    [
        replace(PLAN, activation_checkpointing="full", zero_stage=3),
        replace(PLAN, trainable="lora", optim="adamw-8bit"),
        TrainingPlan(model="gpt2", precision="fp32"),
    ],
)
def test_no_change_is_what_the_plan_is_already(plan):
    needed = estimate(plan).peak.device_bytes
    changes = [remedy.change for remedy in changes_that_fit(plan, needed)]
    assert len(changes) == len(set(changes))
    for change in changes:
        name, value = change.split()[:2] if " " in change else (change, "True")
        field = name.removeprefix("--").replace("-", "_")
        assert str(getattr(plan, field)) != value


def test_a_model_without_a_formula_has_no_estimated_change(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "unheard-of"}')
    assert changes_that_fit(TrainingPlan(model=str(file)), GiB) == ()
