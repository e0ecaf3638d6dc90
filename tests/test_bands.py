"""Bands: what class a plan is in, quantiles by rank, and that bands hold elsewhere."""

import tomllib
from dataclasses import replace
from importlib import import_module

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import outcomes
from record_files import plan_of

from memplan import estimate
from memplan.estimating.accuracy import (
    ALLOCATED_FRACTION,
    DEFAULT_SETTING,
    RESERVED_FRACTION,
    accuracy_of,
    classes_of,
    rank_outside,
    setting_of,
)
from memplan.units import GiB
from memplan.validation.bands import (
    Outcome,
    bands_as_toml,
    figures_of,
    left_out,
    spread_of,
)

MODULE = import_module("memplan.estimating.accuracy")
GROWING = "expandable_segments:True"
FEW = settings(max_examples=50, deadline=None, derandomize=True, database=None)


def outcome(ratio=1.0, reserved=1.1, **changes):
    size_bytes = changes.pop("size_bytes", 10 * GiB)
    return Outcome(
        name="one",
        plan=plan_of(**changes),
        estimated_bytes=size_bytes,
        allocated_bytes=round(ratio * size_bytes),
        reserved_bytes=round(reserved * size_bytes),
    )


@pytest.fixture
def figures(monkeypatch):
    """Other figures in the place of the shipped ones."""

    def use(found):
        text = bands_as_toml(found, ["2.14.1"], "2026-11-23")
        seen = accuracy_of(tomllib.loads(text))
        monkeypatch.setattr(MODULE, "accuracy", lambda: seen)
        return seen

    return use


# ---- classes ----


@pytest.mark.parametrize(
    ("changes", "size_bytes", "first"),
    [
        ({}, 10 * GiB, "plans without adapters, not sharded"),
        ({"trainable": "lora"}, 10 * GiB, "plans of adapters, not sharded"),
        ({"trainable": "lora"}, GiB, "plans below 2 GiB, not sharded"),
        ({"num_gpus": 8}, 10 * GiB, "plans without adapters, not sharded"),
        ({"num_gpus": 8, "zero_stage": 1}, GiB, "plans sharded by FSDP2"),
        (
            {"num_gpus": 8, "zero_stage": 3, "sharding": "deepspeed"},
            10 * GiB,
            "plans sharded by DeepSpeed",
        ),
        ({"workload": "generate"}, GiB, "plans that generate"),
    ],
)
def test_a_plan_is_in_a_class_of_its_kind(changes, size_bytes, first):
    assert classes_of(plan_of(**changes), size_bytes)[0] == first


@pytest.mark.parametrize(
    ("alloc_conf", "setting"),
    [
        (None, DEFAULT_SETTING),
        ("expandable_segments:False", DEFAULT_SETTING),
        (" expandable_segments : True ", GROWING),
        (
            "max_split_size_mb:64,expandable_segments:True",
            "expandable_segments:True,max_split_size_mb:64",
        ),
    ],
)
def test_settings_that_are_the_defaults_are_none(alloc_conf, setting):
    assert setting_of(alloc_conf) == setting


# ---- quantiles ----


@pytest.mark.parametrize(
    ("num_plans", "fraction", "rank"),
    [(98, 0.98, 0), (99, 0.98, 1), (199, 0.98, 2), (38, 0.95, 0), (39, 0.95, 1)],
)
def test_a_rank_is_a_whole_part_of_one_plan_more(num_plans, fraction, rank):
    assert rank_outside(num_plans, fraction) == rank


@FEW
@given(st.lists(st.floats(0.5, 2), min_size=40, max_size=200, unique=True))
def test_no_more_than_the_tail_lies_outside_of_a_band_made_of_the_others(values):
    """Whatever the values are distributed like."""
    above = 0
    for index, value in enumerate(values):
        others = values[:index] + values[index + 1 :]
        if not rank_outside(len(others), ALLOCATED_FRACTION):
            return
        above += value > spread_of([("all", others)], ALLOCATED_FRACTION).high
    assert above <= (1 - ALLOCATED_FRACTION) / 2 * len(values) + 1e-6


def test_a_class_of_too_few_takes_a_wider_one_and_its_own_extremes():
    own, wider = [0.5, 1.0], [1.0 + index / 1000 for index in range(50)] + [0.5, 1.0]
    spread = spread_of([("few", own), ("many", wider)], ALLOCATED_FRACTION)
    assert (spread.of, spread.num_plans, spread.low) == ("many", 52, 0.5)
    assert spread.high == sorted(wider)[-1]
    assert spread.median == 0.75


def test_the_widest_class_answers_with_its_extremes():
    spread = spread_of([("few", [0.9, 1.2, 1.0])], ALLOCATED_FRACTION)
    assert (spread.of, spread.low, spread.high) == ("few", 0.9, 1.2)


def test_what_is_too_little_to_be_tested_is_not():
    few = [outcome(1 + index / 1000, alloc_conf=GROWING) for index in range(20)]
    many = [outcome(1 + index / 1000) for index in range(150)]
    tested = left_out(few + many)
    assert list(tested) == [DEFAULT_SETTING]
    assert tested[DEFAULT_SETTING].num_plans == 150
    assert tested[DEFAULT_SETTING].allocated_within_fraction >= ALLOCATED_FRACTION


# ---- what an estimate says ----


def test_an_estimate_has_the_band_of_its_class(figures):
    ratios = [1 + index / 1000 for index in range(-20, 80)]
    figures([outcome(ratio, reserved=ratio + 0.1) for ratio in ratios])
    report = estimate(plan_of(per_device_train_batch_size=8))
    allocated = report.peak.allocated_bytes
    assert report.band.low_bytes == pytest.approx(0.981 * allocated, rel=1e-6)
    assert report.band.high_bytes == pytest.approx(1.078 * allocated, rel=1e-6)
    assert report.band.basis.startswith(
        "95% of 100 plans without adapters, not sharded, rehearsed on a virtual CUDA "
        "device (torch 2.14.1); "
    )
    reserved = report.reserved
    assert reserved.likely_bytes == pytest.approx(1.1295 * allocated, rel=1e-3)
    assert reserved.low_bytes == pytest.approx(1.080 * allocated, rel=1e-3)
    assert reserved.high_bytes == pytest.approx(1.179 * allocated, rel=1e-3)
    assert reserved.basis.startswith("98% of 100 plans without adapters")


def test_a_band_of_few_plans_says_so(figures):
    many = [outcome(1 + index / 1000) for index in range(100)]
    few = [outcome(0.9, trainable="lora"), outcome(1.0, trainable="lora")]
    figures(many + few)
    plan = plan_of(trainable="lora", per_device_train_batch_size=64, seq_len=1024)
    basis = estimate(plan).band.basis
    assert basis.startswith(
        "the worst of 2 plans of adapters, not sharded, too few to tell, and 95% of "
        "102 plans not sharded, rehearsed"
    )


def test_settings_that_nothing_was_rehearsed_with_are_not_known(figures):
    figures([outcome()])
    report = estimate(plan_of(alloc_conf="max_split_size_mb:64"))
    assert report.reserved is None
    assert "with max_split_size_mb:64" in report.unsupported[0]
    assert report.device.allocator.endswith("max_split_size_mb:64")
    assert report.band.basis == estimate(plan_of()).band.basis


def test_figures_are_kept_apart_by_setting(figures):
    found = [outcome(reserved=1.2), outcome(reserved=1.01, alloc_conf=GROWING)]
    figures(found)
    by_default = estimate(plan_of(per_device_train_batch_size=8))
    growing = estimate(plan_of(per_device_train_batch_size=8, alloc_conf=GROWING))
    assert growing.reserved.high_bytes < by_default.reserved.high_bytes
    assert growing.reserved.basis.endswith(f", with {GROWING}")


def test_it_fits_narrowly_where_what_is_likely_reserved_does_not(figures):
    figures([outcome(reserved=1.5)])
    report = estimate(plan_of(per_device_train_batch_size=8))
    budget = report.headroom_bytes + report.peak.device_bytes
    assert report.fits
    assert not report.fits_narrowly
    size_bytes = report.device.total_bytes * (report.peak.device_bytes + GiB) // budget
    plan = plan_of(per_device_train_batch_size=8, gpu_memory_bytes=size_bytes)
    narrow = estimate(plan)
    assert narrow.fits
    assert narrow.fits_narrowly
    assert not replace(narrow, reserved=None).fits_narrowly


# ---- the shipped figures ----


def test_bands_hold_for_plans_that_they_are_not_made_of():
    """Each kept run against the band of all the others; only ever gets better.

    A band promises a chance, so that one plan more or less may lie outside.
    """
    found, _ = outcomes()
    for tested in left_out(found).values():
        one = 1 / tested.num_plans
        assert tested.allocated_within_fraction >= ALLOCATED_FRACTION - one
        assert tested.reserved_above_fraction <= (1 - RESERVED_FRACTION) / 2


def test_every_class_of_the_kept_runs_has_figures():
    found, _ = outcomes()
    shipped = MODULE.accuracy()
    for setting, by_class in figures_of(found).items():
        assert set(by_class) == set(shipped.classes[setting])


def test_the_shipped_bands_are_those_of_the_kept_runs():
    """`scripts/accuracy` was run when plans or runs came."""
    found, _ = outcomes()
    for setting, by_class in figures_of(found).items():
        for name, today in by_class.items():
            shipped = MODULE.accuracy().classes[setting][name]
            assert shipped.num_plans == today.num_plans, name
