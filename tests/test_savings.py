"""Tricks of an evaluation are shown with what they save, and with their price."""

import pytest

from memplan import TrainingPlan, estimate


def savings(**fields):
    plan = TrainingPlan(
        **{"model": "openflamingo-3b", "workload": "mme", "torch": "2.14"} | fields
    )
    report = estimate(plan)
    return report, {saving.trick: saving for saving in report.savings}


def test_what_stores_weights_less_exactly_changes_answers():
    _, found = savings(per_device_train_batch_size=8, precision="fp32")
    assert {trick: saving.changes_answers for trick, saving in found.items()} == {
        "--precision bf16-pure": True,
        "--quantization int8": True,
        "--quantization nf4": True,
        "--per-device-train-batch-size 1": False,
    }
    assert not any(saving.is_used for saving in found.values())


def test_a_saving_is_the_difference_of_two_estimates():
    report, found = savings()
    other, _ = savings(quantization="nf4")
    saving = found["--quantization nf4"]
    assert saving.device_bytes == other.peak.device_bytes
    assert saving.saved_bytes == report.peak.device_bytes - other.peak.device_bytes


def test_a_trick_that_is_used_is_shown_with_what_it_saves():
    plain, _ = savings()
    report, found = savings(quantization="int8")
    used = found["--quantization int8"]
    assert used.is_used
    assert used.changes_answers
    assert used.device_bytes == report.peak.device_bytes
    assert used.saved_bytes == plain.peak.device_bytes - report.peak.device_bytes


def test_lower_precision_that_is_used_is_held_against_fp32():
    exact, _ = savings(precision="fp32")
    report, found = savings(precision="bf16-pure")
    saved = exact.peak.device_bytes - report.peak.device_bytes
    assert found["--precision bf16-pure"].saved_bytes == saved


def test_fewer_bits_save_more():
    _, found = savings()
    int8, nf4 = (found[f"--quantization {name}"] for name in ("int8", "nf4"))
    assert 0 < int8.saved_bytes < nf4.saved_bytes


@pytest.mark.parametrize("fields", [{"workload": "train"}, {"model": "gpt2"}])
def test_training_has_its_own_remedies(fields):
    report, _ = savings(**{"workload": "train"} | fields)
    assert report.savings == ()
