"""A plan and its tricks: laws of what is found, by any engine."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplan.compare import compare
from memplan.comparing.comparison import Comparison, need_of
from memplan.comparing.files import from_json, to_json
from memplan.comparing.greedy import chain
from memplan.comparing.peaks import note_on
from memplan.comparing.steps import Tricked, in_place, with_all
from memplan.comparing.table import CLASSIC
from memplan.errors import MemplanError
from memplan.estimate import estimate
from memplan.plan import TrainingPlan
from memplan.tricks.catalogue import find_tricks

FEW = settings(max_examples=12, deadline=None, derandomize=True, database=None)
SOME = (
    "accumulation",
    "accumulation-2",
    "batch-half",
    "checkpointing-full",
    "checkpointing-selective",
    "bf16-mixed",
    "bf16-pure",
    "adamw-fused",
    "adamw-8bit",
    "zero-2",
    "zero-3",
    "offload-fsdp2",
    "lora",
    "expandable-segments",
    "loss-chunks",
)
PLANS = st.builds(
    TrainingPlan,
    model=st.sampled_from(["gpt2", "opt-350m", "openflamingo-tiny"]),
    per_device_train_batch_size=st.integers(1, 8),
    precision=st.sampled_from(["fp32", "bf16-mixed"]),
    num_gpus=st.sampled_from([1, 4]),
    gpu=st.sampled_from(["rtx-4090", "h100-80gb"]),
)


@FEW
@given(PLANS, st.lists(st.sampled_from(SOME), min_size=1, max_size=6, unique=True))
def test_laws(plan, names):
    found = compare(plan, tricks=names)
    _all_that_was_asked_is_there(found, names)
    _alone_is_the_changed_plan(found)
    _the_chain_never_rises(found)
    assert found.baseline.need_bytes == estimate(plan).peak.device_bytes
    assert from_json(to_json(found)) == found


def _all_that_was_asked_is_there(found: Comparison, names):
    looked_at = [variant.tricks[0] for variant in found.alone]
    left_out = [one.name for one in found.left_out]
    assert sorted(looked_at + left_out) == sorted(names)
    assert {entry.name for entry in found.entries} == set(looked_at)
    assert all(one.reason for one in found.left_out)


def _alone_is_the_changed_plan(found: Comparison):
    needs = [variant.need_bytes for variant in found.alone]
    assert needs == sorted(needs)
    for variant in found.alone:
        tricked = with_all(found.plan, find_tricks(found.plan, variant.tricks))
        assert estimate(tricked.plan) == variant.report


def _the_chain_never_rises(found: Comparison):
    steps = [found.baseline, *found.greedy]
    for before, after in pairwise(steps):
        assert after.need_bytes < before.need_bytes
        assert after.tricks[-1] not in before.tricks
    fitting = [step.report.fits for step in steps]
    expected = fitting.index(True) if True in fitting else None
    assert found.fits_after == expected


def test_the_first_of_the_chain_saves_about_as_much_as_any():
    plan = TrainingPlan(model="gpt2", per_device_train_batch_size=8)
    found = compare(plan, tricks=["optimizer-choice", "gradient-checkpointing"])
    least = found.alone[0].need_bytes
    assert found.greedy[0].need_bytes <= least + 0.01 * found.baseline.need_bytes


def test_every_classic_row_is_there_with_its_own_figures():
    plan = TrainingPlan(model="gpt2", per_device_train_batch_size=8)
    found = compare(plan, tricks=["checkpointing-full", "zero-2", "lora"])
    rows = {row.technique: row for row in found.table}
    assert list(rows)[: len(CLASSIC)] == list(CLASSIC)
    [full] = [v for v in found.alone if v.tricks == ("checkpointing-full",)]
    row = rows["gradient checkpointing"]
    assert row.saved_bytes == found.baseline.need_bytes - full.need_bytes
    assert (row.memory, row.speed) == ("yes", "costs")
    assert row.speed_change_fraction < -0.1
    assert rows["ZeRO and FSDP"].best is None
    assert "one GPU" in rows["ZeRO and FSDP"].note
    assert rows["batch size"].note == "not asked for"


def test_a_trick_beside_the_peak_says_where_the_peak_stays():
    plan = TrainingPlan(model="gpt2", per_device_train_batch_size=32, seq_len=1024)
    found = compare(plan, tricks=["adamw-fused"])
    [variant] = found.alone
    assert variant.need_bytes == found.baseline.need_bytes
    assert variant.note.startswith("peak stays in ")
    assert "optimizer peaks" in variant.note
    assert not found.greedy


def test_a_peak_that_moves_is_named():
    plan = TrainingPlan(model="llama-2-7b", gpu="a100-80gb")
    before = estimate(plan)
    after = estimate(replace(plan, trainable="lora"))
    assert note_on(before, after) == "peak moves from optimizer to backward"
    assert note_on(before, before) == ""


def test_what_contradicts_is_replaced():
    plan = TrainingPlan(model="gpt2", num_gpus=4)
    tricks = {t.name: t for t in find_tricks(plan)}
    sharded = with_all(plan, [tricks["deepspeed-2"], tricks["checkpointing-full"]])
    after = in_place(plan, sharded, tricks["zero-3"])
    assert after.names == ("checkpointing-full", "zero-3")
    assert (after.plan.zero_stage, after.plan.sharding) == (3, "fsdp2")
    with pytest.raises(MemplanError, match="the plan has it already"):
        in_place(plan, after, tricks["zero-3"])


def test_the_engine_has_the_last_word():
    """By estimate the trick saves much; the engine sees nothing of it."""
    plan = TrainingPlan(model="gpt2", per_device_train_batch_size=16)
    tricks = find_tricks(plan, ["checkpointing-full", "accumulation"])
    base = estimate(plan)
    reports = {t: estimate(with_all(plan, [t]).plan) for t in tricks}
    both = with_all(plan, tricks).plan

    def look(asked):
        return base if asked == both else estimate(asked)

    taken = list(chain(base, plan, reports, {}, look))
    assert [len(tricked.names) for tricked, _ in taken] == [1]
    assert not list(chain(base, plan, reports, {}, lambda asked: base))
    assert not list(chain(base, plan, reports, {}, lambda asked: "it failed"))


def test_what_has_no_closed_form_is_ordered_by_what_it_saved_alone():
    plan = TrainingPlan(model="gpt2", per_device_train_batch_size=16)
    tricks = find_tricks(plan, ["loss-chunks", "adamw-8bit"])
    base = estimate(plan)
    half = replace(base, peak=replace(base.peak, device_bytes=need_of(base) // 2))
    third = replace(base, peak=replace(base.peak, device_bytes=need_of(base) // 3))
    reports = {
        trick: half
        if trick.name == "loss-chunks"
        else estimate(with_all(plan, [trick]).plan)
        for trick in tricks
    }

    def look(asked):
        return third if asked.optim == "adamw-8bit" else half

    taken = list(chain(base, plan, reports, {}, look))
    assert taken[0][0].names == ("loss-chunks",)
    assert taken[1][0].names == ("loss-chunks", "adamw-8bit")


def test_a_parameter_count_has_no_tricks():
    with pytest.raises(MemplanError, match="parameter count"):
        compare(TrainingPlan(parameters=10**9))


def test_a_plan_that_cannot_be_looked_at_is_an_error():
    with pytest.raises(MemplanError, match="longer than gpt2 allows"):
        compare(TrainingPlan(model="gpt2", seq_len=5000), tricks=["sgd"])


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "comparison"}', "{}"])
def test_other_files_are_no_comparisons(text):
    with pytest.raises(MemplanError, match="not a memplan comparison"):
        from_json(text)


def test_nothing_taken_is_the_plan_itself():
    assert Tricked(plan=TrainingPlan(model="gpt2")).names == ()


def test_what_gpus_exchange_is_not_counted_so_sharding_has_no_speed():
    plan = TrainingPlan(model="gpt2", num_gpus=4)
    comparison = compare(plan, tricks=["zero-3", "sgd"])
    speeds = {variant.tricks: variant.speed for variant in comparison.alone}
    assert speeds["zero-3",] is None
    assert speeds["sgd",] is not None
    sharded = compare(replace(plan, zero_stage=3), tricks=["sgd"])
    assert all(v.speed is not None for v in (sharded.baseline, *sharded.alone))


def test_the_gentlest_fits_alone_and_changes_least():
    plan = TrainingPlan(
        model="pe-net-vg150", gpu="rtx-4090", per_device_train_batch_size=16
    )
    found = compare(plan, tricks=["accumulation", "pe-net-distance", "batch-half"])
    # Both round alone; the rewritten distance is the faster. Halving the batch is not.
    assert found.gentlest == "pe-net-distance"
    assert compare(replace(plan, gpu="h100-80gb"), tricks=["sgd"]).gentlest is None
    assert compare(plan, tricks=["sgd"]).gentlest is None


def test_pages_of_states_have_no_counted_speed():
    plan = TrainingPlan(model="gpt2")
    (variant,) = compare(plan, tricks=["adamw-paged"]).alone
    assert variant.speed is None
