"""Steps into times and rates: medians, tenths, and what only a plan knows."""

import pytest

from memplan.hardware import custom_gpu, find_gpu
from memplan.plan import TrainingPlan
from memplan.running.timing import timing_of

CARD = find_gpu("h100-80gb")
SEEN = {
    "step_ms": [100.0, 110.0, 90.0, 100.0, 400.0],
    "stall_ms": [0.0, 1.0, 2.0, 3.0, 40.0],
    "warmup_steps": 2,
    "flops_per_step": 40 * 10**12,
}
PLAN = TrainingPlan(
    model="gpt2",
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    seq_len=512,
)


def test_a_slow_step_moves_the_spread_and_not_the_median():
    timing = timing_of(SEEN, PLAN, CARD)
    assert (timing.num_steps, timing.median_ms) == (5, 100.0)
    assert timing.low_ms == pytest.approx(94.0)
    assert timing.high_ms == pytest.approx(284.0)
    assert timing.data_stall_ms == 2.0


def test_samples_are_those_of_all_micro_batches_and_tokens_of_their_sequences():
    timing = timing_of(SEEN, PLAN, CARD)
    assert timing.samples_per_s == pytest.approx(80)
    assert timing.tokens_per_s == pytest.approx(80 * 512)


def test_a_model_without_tokens_has_samples_alone():
    timing = timing_of(SEEN, TrainingPlan(model="vit-base-patch16-224"), CARD)
    assert timing.samples_per_s == pytest.approx(10)
    assert timing.tokens_per_s is None


@pytest.mark.parametrize(
    ("precision", "key"),
    [
        ("fp32", "fp32"),
        ("tf32", "tf32"),
        ("bf16-mixed", "bf16"),
        ("bf16-pure", "bf16"),
        ("fp16-mixed", "fp16"),
        ("fp16-master", "fp16"),
    ],
)
def test_the_fraction_is_of_the_rate_in_the_plans_precision(precision, key):
    plan = TrainingPlan(model="gpt2", precision=precision)
    timing = timing_of(SEEN, plan, CARD)
    assert timing.flops_per_s == pytest.approx(400e12)
    assert timing.fraction_of_peak == pytest.approx(400e12 / CARD.peak_flops[key])


def test_a_card_whose_rate_is_not_known_has_no_fraction():
    timing = timing_of(SEEN, PLAN, custom_gpu(None, 2**34))
    assert timing.flops_per_s == pytest.approx(400e12)
    assert timing.fraction_of_peak is None


def test_a_program_has_times_and_operations_but_no_samples_and_no_fraction():
    timing = timing_of({**SEEN, "stall_ms": []}, None, CARD)
    assert timing.median_ms == 100.0
    assert timing.flops_per_s is not None
    assert timing.samples_per_s is timing.tokens_per_s is None
    assert timing.fraction_of_peak is timing.data_stall_ms is None


def test_one_step_is_its_own_spread():
    timing = timing_of({**SEEN, "step_ms": [7.0]}, PLAN, CARD)
    assert (timing.low_ms, timing.median_ms, timing.high_ms) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize("seen", [None, {**SEEN, "step_ms": []}])
def test_no_timed_step_is_no_timing(seen):
    assert timing_of(seen, PLAN, CARD) is None
