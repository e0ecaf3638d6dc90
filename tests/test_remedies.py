"""Single changes that would have made a run fit."""

from dataclasses import replace

import pytest

from memplan import TrainingPlan, estimate
from memplan.hardware import find_gpu
from memplan.running.remedies import cards_that_hold, likely_changes
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
    assert all(remedy.basis == "carried over" for remedy in remedies)
    assert cards_that_hold(1000 * GiB, find_gpu("rtx-4090"), 0.05) == ()


def test_a_card_for_which_pytorch_has_no_kernels_is_no_remedy():
    rest = (find_gpu("rtx-4090"), 0.05, (7, 5))
    changes = {remedy.change for remedy in cards_that_hold(28 * GiB, *rest)}
    assert changes
    assert not any("v100" in change for change in changes)
    assert any("v100" in r.change for r in cards_that_hold(28 * GiB, *rest[:2]))


def test_a_change_is_likely_by_its_estimate_shifted_by_what_this_one_was_off():
    needed = estimate(PLAN).peak.device_bytes
    changed = replace(PLAN, activation_checkpointing="full")
    room = find_gpu(PLAN.gpu).total_bytes - estimate(changed).peak.device_bytes
    for off_by, is_likely in ((room, True), (room + 1, False)):
        flags = [change.flags for change in likely_changes(PLAN, needed + off_by)]
        assert ("--activation-checkpointing full" in flags) == is_likely


def test_batches_are_halved_until_they_cannot_be():
    kind = "per_device_train_batch_size"
    halved = [c for c in likely_changes(PLAN, 80 * GiB) if c.kind == kind]
    sizes = [
        (
            change.plan.per_device_train_batch_size,
            change.plan.gradient_accumulation_steps,
        )
        for change in halved
    ]
    assert sizes == [(4, 2), (2, 4), (1, 8)]
    flags = "--per-device-train-batch-size 4 --gradient-accumulation-steps 2"
    assert halved[0].flags == flags


def test_a_change_that_is_far_from_fitting_is_not_likely():
    assert [*likely_changes(PLAN, 10_000 * GiB)] == []


@pytest.mark.parametrize(
    "plan",
    [
        replace(PLAN, activation_checkpointing="full", zero_stage=3),
        replace(PLAN, trainable="lora", optim="adamw-8bit"),
        TrainingPlan(model="gpt2", precision="fp32"),
    ],
)
def test_every_change_changes_the_plan(plan):
    needed = estimate(plan).peak.device_bytes
    changes = [change.plan for change in likely_changes(plan, needed)]
    assert changes
    assert plan not in changes
    assert all(changes.count(change) == 1 for change in changes)


def test_a_model_without_a_formula_has_no_likely_change(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "unheard-of"}')
    assert [*likely_changes(TrainingPlan(model=str(file)), GiB)] == []


def test_a_generation_is_made_to_fit_without_recipes_of_training():
    plan = TrainingPlan(
        model="openflamingo-9b", workload="mme", per_device_train_batch_size=4
    )
    changes = list(likely_changes(plan, 40 * GiB))
    assert {change.flags: change.changes_answers for change in changes} == {
        "--per-device-train-batch-size 2": False,
        "--per-device-train-batch-size 1": False,
        "--precision bf16-pure": True,
        "--quantization int8": True,
        "--quantization nf4": True,
    }


def test_training_with_less_precision_is_no_other_answer():
    changes = likely_changes(replace(PLAN, precision="fp32"), 100 * GiB)
    assert not any(change.changes_answers for change in changes)
