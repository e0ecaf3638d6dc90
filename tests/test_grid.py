"""The grid: what is drawn, that it stays, and how far the closed form is from it."""

import json
import statistics
from collections import Counter

import pytest

from memplan.errors import MemplanError, ProfileError
from memplan.validation.grid import (
    LARGEST_BYTES,
    Planned,
    as_line,
    drawn,
    grid,
    growing,
    is_runnable,
    read_axes,
    rehearsed,
)
from memplan.validation.records import same_question
from memplan.validation.validate import validate

FEWEST_PLANS = 400
AXES = {
    "seed": 1,
    "axes": {
        "precision": ["fp32", "bf16-mixed", "bf16-pure"],
        "layout": [{}, {"num_gpus": 8, "zero_stage": 3}],
    },
    "never": [{"precision": "fp32", "num_gpus": 8}],
    "family": {
        "gpt2": {"plans": 12, "model": ["gpt2"], "seq_len": [128, 256]},
        "vit": {"plans": 4, "model": ["vit-base-patch16-224"]},
    },
}


def test_the_grid_has_enough_plans_of_every_family_of_its_axes():
    axes, plans = read_axes(), grid()
    counts = Counter(planned.family for planned in plans)
    assert counts == {name: own["plans"] for name, own in axes["family"].items()}
    assert len(plans) >= FEWEST_PLANS
    assert len({planned.name for planned in plans}) == len(plans)


def test_every_plan_of_the_grid_can_be_run():
    assert [planned.name for planned in grid() if not is_runnable(planned.plan)] == []


def test_the_same_seed_draws_the_same_whatever_other_families_are():
    alone = {**AXES, "family": {"gpt2": AXES["family"]["gpt2"]}}
    assert list(drawn(AXES, "gpt2")) == list(drawn(alone, "gpt2"))
    assert list(drawn({**AXES, "seed": 2}, "gpt2")) != list(drawn(AXES, "gpt2"))


def test_each_value_of_an_axis_comes_equally_often():
    counts = Counter(planned.plan.seq_len for planned in drawn(AXES, "gpt2"))
    # Only a plan that is never run moves from the value that it was drawn with.
    assert abs(counts[128] - counts[256]) <= 4


def test_what_nobody_runs_is_not_drawn():
    plans = [planned.plan for planned in drawn(AXES, "gpt2")]
    assert not [p for p in plans if p.precision == "fp32" and p.num_gpus == 8]
    assert {p.num_gpus for p in plans} == {1, 8}


def test_axes_that_leave_nothing_are_an_error():
    nothing = {**AXES, "never": [{"model": "gpt2"}]}
    with pytest.raises(ProfileError, match="can be run"):
        list(drawn(nothing, "gpt2"))


@pytest.mark.parametrize("planned", grid()[::50], ids=lambda planned: planned.name)
def test_a_line_says_the_whole_plan(planned):
    line = json.loads(as_line(planned))
    assert Planned(line.pop("name"), type(planned.plan)(**line)) == planned


def test_what_is_kept_is_of_the_plans_that_are_there():
    planned = (*grid(), *growing())
    plans = {(one.name, one.plan.alloc_conf): one.plan for one in planned}
    for _, record in rehearsed().records:
        assert same_question(record.plan, plans[record.entry, record.plan.alloc_conf])
        assert record.report.source == "rehearsed"
        assert record.report.peak.allocated_bytes <= LARGEST_BYTES
    names = [(file.name, record.entry) for file, record in rehearsed().records]
    assert len(set(names)) == len(names)


def test_the_closed_form_is_no_further_off_than_it_was():
    """The goal, but for the worst: it only ever gets smaller."""
    validation = validate(rehearsed(), against="rehearsed")
    errors = validation.errors("estimated", "allocated")
    assert validation.skipped == ()
    assert errors.median_fraction <= 0.005
    assert errors.ninety_fifth_fraction <= 0.02
    assert abs(errors.worst_fraction) <= 0.06
    assert errors.under_rate <= 0.02
    assert validation.phase_rate("estimated") >= 0.98


def test_a_plan_that_contradicts_itself_is_drawn_anew():
    axes = {**AXES, "axes": {"layout": [{"offload_optimizer": True}, {}]}}
    with pytest.raises(MemplanError):
        type(grid()[0].plan)(model="gpt2", offload_optimizer=True)
    assert not any(planned.plan.offload_optimizer for planned in drawn(axes, "gpt2"))
    assert statistics.mode(p.plan.num_gpus for p in drawn(axes, "gpt2")) == 1
