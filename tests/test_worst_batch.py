"""The worst batch: laws that hold of any data, and small data looked at whole."""

import json
from array import array
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplan.batching.batches import BatchingRule
from memplan.batching.dataset import Columns, Sizes, histogram, read_sizes
from memplan.batching.worst import as_dict
from memplan.errors import MemplanError, PlanError
from memplan.estimate import estimate, needed_bytes
from memplan.plan import TrainingPlan
from memplan.worst_batch import worst_batch

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=12)
SAMPLINGS = st.sampled_from(["random", "sequential", "group_by_length"])
PLAN = TrainingPlan(model="llama-2-7b", per_device_train_batch_size=3)
WITH_PICTURES = TrainingPlan(model="openflamingo-9b", per_device_train_batch_size=2)
quick = settings(max_examples=15, deadline=None)


def sizes_of(lengths, **others):
    columns = {"seq_len": lengths, **others}
    return Sizes(
        source="data.jsonl",
        columns={name: array("q", values) for name, values in columns.items()},
        rows=array("q", range(1, len(lengths) + 1)),
    )


def sequential(**fields):
    return BatchingRule(sampling="sequential", **fields)


# ---- laws ----


@quick
@given(LENGTHS, SAMPLINGS, st.integers(1, 4))
def test_what_is_drawn_is_no_worse_than_what_is_possible(lengths, sampling, size):
    plan = replace(PLAN, per_device_train_batch_size=size)
    found = worst_batch(plan, sizes_of(lengths), BatchingRule(sampling=sampling))
    assert found.report.peak.device_bytes >= found.worst.device_bytes
    if found.possible is not None:
        assert found.possible.device_bytes == found.report.peak.device_bytes
    assert found.worst.cause.without_bytes <= found.worst.device_bytes


@quick
@given(LENGTHS, SAMPLINGS)
def test_percentiles_grow_up_to_the_worst(lengths, sampling):
    rule = BatchingRule(sampling=sampling, epochs=2)
    found = worst_batch(PLAN, sizes_of(lengths), rule)
    needs = [one.device_bytes for one in found.percentiles]
    assert needs == sorted(needs)
    assert needs[-1] <= found.worst.device_bytes


@quick
@given(LENGTHS, st.randoms(use_true_random=False))
def test_the_order_of_the_file_changes_no_bound(lengths, random):
    """And with whole batches of one size, nor the worst: the longest is in one."""
    shuffled = random.sample(lengths, len(lengths))
    one, other = (worst_batch(PLAN, sizes_of(some)) for some in (lengths, shuffled))
    assert one.report == other.report
    assert one.data.longest_of_a_batch == other.data.longest_of_a_batch
    if len(lengths) % 3 == 0:
        assert one.worst.device_bytes == other.worst.device_bytes
        assert one.worst.device_bytes == one.possible.device_bytes


@quick
@given(st.integers(1, 60), st.integers(1, 4), SAMPLINGS)
def test_samples_alike_are_the_plan_s_own_estimate(length, num_batches, sampling):
    sizes = sizes_of([length] * (3 * num_batches))
    found = worst_batch(PLAN, sizes, BatchingRule(sampling=sampling))
    need = needed_bytes(replace(PLAN, seq_len=length))
    assert found.num_shapes == 1
    assert {one.device_bytes for one in found.percentiles} == {need}
    assert found.worst.device_bytes == found.worst.cause.without_bytes == need
    assert found.report == estimate(replace(PLAN, seq_len=length))


@quick
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3)), min_size=1, max_size=9)
)
def test_batches_in_order_are_the_maxima_of_their_samples(samples):
    """Every batch counted by hand: as long as the longest, as many pictures as most."""
    lengths, pictures = map(list, zip(*samples, strict=True))
    found = worst_batch(
        WITH_PICTURES, sizes_of(lengths, images_per_sample=pictures), sequential()
    )
    needs = [
        needed_bytes(
            replace(
                WITH_PICTURES,
                per_device_train_batch_size=len(batch),
                seq_len=max(length for length, _ in batch),
                images_per_sample=max(1, *(count for _, count in batch)),
            )
        )
        for batch in (samples[i : i + 2] for i in range(0, len(samples), 2))
    ]
    assert found.worst.device_bytes == max(needs)
    assert needs[found.worst.batch - 1] == max(needs)
    assert found.possible is None


# ---- what is found ----


def test_the_cause_is_the_sample_whose_absence_helps_most():
    """Row 1 is the longest and row 3 has most pictures: the rest is what remains."""
    samples = [(90, 1), (8, 1), (9, 5)]
    lengths, pictures = map(list, zip(*samples, strict=True))
    plan = replace(WITH_PICTURES, per_device_train_batch_size=3)
    sizes = sizes_of(lengths, images_per_sample=pictures)
    cause = worst_batch(plan, sizes).worst.cause
    without = {}
    for row in (1, 2, 3):
        rest = [sample for i, sample in enumerate(samples, 1) if i != row]
        length, num_pictures = map(max, zip(*rest, strict=True))
        without[row] = needed_bytes(
            replace(plan, seq_len=length, images_per_sample=num_pictures)
        )
    assert cause.without_bytes == min(without.values()) == without[cause.row]
    assert cause.num_alike == 1


def test_a_place_is_a_step_a_micro_batch_and_a_rank():
    """Batch 11 of 12 on 2 ranks, 3 micro-batches a step: of rank 0, its sixth."""
    lengths = [5] * 20 + [50] + [5] * 3
    plan = replace(
        PLAN,
        per_device_train_batch_size=2,
        num_gpus=2,
        gradient_accumulation_steps=3,
    )
    worst = worst_batch(plan, sizes_of(lengths), sequential()).worst
    assert (worst.batch, worst.rank) == (11, 0)
    assert (worst.step, worst.micro_batch) == (2, 3)
    assert worst.cause.row == 21


def test_the_longest_and_the_most_pictures_seldom_meet():
    """P = (B - 1) / (n - 1) for two samples and n / B batches of B."""
    lengths, pictures = [5] * 99 + [50], [4] + [1] * 99
    sizes = sizes_of(lengths, images_per_sample=pictures)
    plan = replace(WITH_PICTURES, per_device_train_batch_size=4)
    found = worst_batch(plan, sizes)
    assert found.worst.device_bytes < found.possible.device_bytes
    assert found.possible.shape["seq_len"] == 50
    assert found.possible.shape["images_per_sample"] == 4
    assert found.possible.expected_per_epoch == pytest.approx(3 / 99)
    # Drawn often enough it comes.
    often = worst_batch(plan, sizes, BatchingRule(epochs=200))
    assert often.worst.device_bytes == found.possible.device_bytes


def test_the_longest_sample_is_in_one_batch_of_every_epoch():
    found = worst_batch(PLAN, sizes_of([7] * 29 + [40]))
    assert found.possible.expected_per_epoch == pytest.approx(1)
    assert found.worst.device_bytes == found.possible.device_bytes


def test_one_sample_a_batch_leaves_nothing_to_chance():
    plan = replace(PLAN, per_device_train_batch_size=1)
    found = worst_batch(plan, sizes_of([7, 9, 40]))
    assert found.possible is None
    assert found.worst.cause.without_bytes == needed_bytes(replace(plan, seq_len=9))


def test_a_budget_of_tokens_is_bounded_over_all_lengths():
    """Many short samples may take more than few long ones."""
    lengths = [10] * 30 + [60]
    rule = BatchingRule(max_tokens_per_batch=120)
    found = worst_batch(PLAN, sizes_of(lengths), rule)
    shapes = [(12, 10), (2, 60)]
    assert found.possible.device_bytes == max(
        needed_bytes(replace(PLAN, per_device_train_batch_size=size, seq_len=length))
        for size, length in shapes
    )
    assert found.worst.device_bytes <= found.possible.device_bytes
    assert found.possible.expected_per_epoch is None


def test_full_rows_are_all_the_plan():
    plan = replace(PLAN, seq_len=64)
    found = worst_batch(
        plan, sizes_of([7, 200, 900]), BatchingRule(packing="wrapped", drop_last=True)
    )
    assert found.report == estimate(plan)
    assert found.worst.cause is None
    assert found.num_shapes == 1


def test_pictures_are_as_large_as_the_model_takes_them():
    """Qwen2.5-VL merges 2 x 2 patches of 14: sides are multiples of 28."""
    plan = TrainingPlan(model="qwen2.5-vl-7b", trainable="lora")
    sizes = sizes_of([20, 60], images_per_sample=[0, 1], image_size=[0, 220])
    found = worst_batch(plan, sizes)
    # Text alone is counted with a picture of the model's own 448 pixels.
    assert found.report.plan.seq_len == 256
    # 8 x 8 tokens of the square, where 60 have room for the 7 x 7 below it.
    pictured = sizes_of([60], images_per_sample=[1], image_size=[220])
    found = worst_batch(plan, pictured)
    assert found.worst.shape["image_size"] == 220
    assert found.report.plan == replace(
        plan, seq_len=64, images_per_sample=1, image_size=224
    )
    too_short = sizes_of([40], images_per_sample=[1], image_size=[220])
    with pytest.raises(PlanError, match="cannot hold 1 pictures"):
        worst_batch(plan, too_short)


def test_a_histogram_has_no_rows():
    found = worst_batch(PLAN, histogram("16:20,64:4"))
    assert found.worst.cause.row is None
    assert found.worst.cause.sizes == {"seq_len": 64}
    assert found.worst.cause.num_alike == 4
    with pytest.raises(PlanError, match="has no order"):
        worst_batch(PLAN, histogram("16:20"), sequential())


def test_the_cause_is_called_what_its_column_says(tmp_path):
    file = tmp_path / "data.jsonl"
    rows = [{"length": 5, "id": "a\x1b"}, {"length": 3, "id": "b"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = worst_batch(PLAN, read_sizes(file, Columns(id="id")))
    assert (found.worst.cause.row, found.worst.cause.id) == (1, "a\\x1b")


def test_hints_are_the_most_that_fits():
    """One token more, or the next divisor of a step's 12 samples, would not."""
    plan = replace(
        PLAN,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
        trainable="lora",
        gpu="rtx-4090",
        frozen_dtype="bf16",
    )
    sizes = sizes_of([60] * 20 + [1900])
    found = worst_batch(plan, sizes)
    assert not found.fits
    assert [hint.flags.split()[0] for hint in found.hints] == [
        "--seq-len",
        "--per-device-train-batch-size",
    ]
    limit = int(found.hints[0].flags.split()[1])
    assert found.hints[0].effect == "truncates 1 of 21 samples"
    for more, fits in ((0, True), (1, False)):
        cut = worst_batch(replace(plan, seq_len=limit + more), sizes)
        assert cut.fits is fits
        assert cut.data.num_truncated == 1
    fewer, steps = map(int, found.hints[1].flags.split()[1::2])
    assert (fewer, steps) == (1, 12)
    for size, steps, fits in ((1, 12, True), (2, 6, False)):
        smaller = replace(
            plan, per_device_train_batch_size=size, gradient_accumulation_steps=steps
        )
        assert worst_batch(smaller, sizes).fits is fits


def test_limits_are_said():
    changing = worst_batch(PLAN, sizes_of([5, 7, 9, 11]))
    assert any("fragmentation" in line for line in changing.unsupported)
    growing = replace(PLAN, alloc_conf="expandable_segments:True")
    assert not any(
        line.startswith("fragmentation")
        for line in worst_batch(growing, sizes_of([5, 7, 9, 11])).unsupported
    )
    seeded = worst_batch(PLAN, sizes_of([5]), BatchingRule(seed=7))
    assert "data_seed 7" in seeded.assumptions[0]
    grouped = BatchingRule(sampling="group_by_length")
    lines = worst_batch(PLAN, sizes_of([5]), grouped).assumptions
    assert "a run has another one" in lines[0]


def test_json_is_plain_data():
    found = worst_batch(PLAN, sizes_of([5, 7, 9]))
    data = json.loads(json.dumps(as_dict(found)))
    assert data["schema_version"] == 1
    assert data["worst"]["cause"]["row"] == 3
    assert data["fits"] is found.fits
    assert data["report"]["plan"]["seq_len"] == 9


@pytest.mark.parametrize(
    ("plan", "rule", "said"),
    [
        (TrainingPlan(parameters=7), {}, "training of a model"),
        (replace(PLAN, workload="generate", max_new_tokens=2), {}, "training of a"),
        (PLAN, {"drop_last": True}, "no batch where the last is dropped"),
        (replace(PLAN, model="no-such"), {}, "no model named"),
    ],
)
def test_what_cannot_be_looked_at_is_one_sentence(plan, rule, said):
    with pytest.raises(MemplanError, match=said):
        worst_batch(plan, sizes_of([5, 7]), BatchingRule(**rule))


def test_pictures_are_for_models_that_take_them():
    sizes = sizes_of([5, 7], images_per_sample=[1, 2])
    with pytest.raises(PlanError, match="llama-2-7b takes no images"):
        worst_batch(PLAN, sizes)


@pytest.mark.slow
def test_a_hundred_thousand_samples_take_seconds():
    lengths = [16 + i * 7919 % 1900 for i in range(100_000)]
    found = worst_batch(PLAN, sizes_of(lengths))
    assert found.num_batches == 33_334
    assert any("upper bounds" in line for line in found.assumptions)
