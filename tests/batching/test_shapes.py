"""Many shapes, few estimates: nothing is under-estimated, and the worst is exact."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.batching import shapes
from memplan.batching.shapes import Needs, groups_of, largest_of, percentile
from memplan.errors import PlanError
from memplan.estimate import needed_bytes
from memplan.plan import TrainingPlan

SHAPES = st.sets(
    st.tuples(st.integers(1, 4), st.integers(0, 200), st.integers(0, 5)),
    min_size=1,
    max_size=40,
)
PLAN = TrainingPlan(model="openflamingo-9b")
FIELDS = ("seq_len", "images_per_sample")


class Counted(Needs):
    """A need that grows in every number, and how often it was asked for."""

    def __init__(self):
        super().__init__(PLAN, FIELDS)
        self.asked = Counter()

    def of(self, shape):
        self.asked[shape] += 1
        size, tokens, pictures = shape
        return size * (tokens + 50 * pictures)


@pytest.fixture(autouse=True)
def few_estimates(monkeypatch):
    monkeypatch.setattr(shapes, "MOST_ESTIMATES", 8)


@given(SHAPES)
def test_groups_are_few_and_have_each_shape_once(some):
    groups = groups_of(some)
    assert len(groups) <= shapes.MOST_ESTIMATES
    assert Counter(shape for group in groups for shape in group) == Counter(some)


@given(SHAPES)
def test_a_group_is_estimated_by_what_none_of_it_exceeds(some):
    needs = Counted()
    for shape, need in needs.of_each(some).items():
        assert need >= needs.of(shape)
    for group in groups_of(some):
        largest = largest_of(group)
        assert all(a >= b for s in group for a, b in zip(largest, s, strict=True))


@given(SHAPES)
def test_the_highest_is_exact_where_more_takes_more(some):
    needs = Counted()
    assert needs.of(needs.highest(some)) == max(map(needs.of, some))


def test_the_highest_asks_few(monkeypatch):
    monkeypatch.setattr(shapes, "MOST_ESTIMATES", 32)
    needs = Counted()
    needs.highest([(4, tokens, 1) for tokens in range(3200)])
    assert len(needs.asked) <= 32 + 100


@given(SHAPES, st.data())
def test_percentiles_grow_and_hold_so_many_batches(some, data):
    """Nearest rank: at least so many percent take no more."""
    needs = Counted().of_each(some)
    counts = {shape: data.draw(st.integers(1, 9)) for shape in some}
    found = [needs[percentile(needs, counts, percent)] for percent in (1, 50, 99, 100)]
    assert found == sorted(found)
    assert found[-1] == max(needs.values())
    for percent, most in zip((1, 50, 99, 100), found, strict=True):
        within = sum(n for shape, n in counts.items() if needs[shape] <= most)
        below = sum(n for shape, n in counts.items() if needs[shape] < most)
        assert 100 * below < percent * sum(counts.values()) <= 100 * within


def test_a_shape_is_a_plan():
    needs = Needs(PLAN, ("seq_len", "images_per_sample", "image_size"))
    plan = needs.plan_of((3, 0, 0, 0))
    assert plan.per_device_train_batch_size == 3
    assert (plan.seq_len, plan.images_per_sample, plan.image_size) == (1, 1, None)
    plain = Needs(PLAN, FIELDS)
    assert plain.of((2, 64, 1)) == needed_bytes(plain.plan_of((2, 64, 1)))


def test_a_batch_without_pictures_has_room_for_one():
    """A prompt of Llava holds its pictures; a batch of short texts is none."""
    needs = Needs(TrainingPlan(model="llava-1.5-7b"), FIELDS)
    assert needs.plan_of((2, 40, 0)).seq_len == 576
    assert needs.of((2, 40, 0)) == needs.of((2, 576, 1))
    assert needs.plan_of((2, 900, 0)).seq_len == 900


def test_a_batch_without_estimate_is_named():
    with pytest.raises(PlanError, match=r"seq_len 9999, .* longer than openflamingo"):
        Needs(PLAN, FIELDS).of((2, 9999, 1))
