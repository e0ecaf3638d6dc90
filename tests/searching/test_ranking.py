"""Who is best, and who loses to another in every respect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recommendations import choice

from memplan.searching.ranking import dominator_of, ranked, samples_per_s, usd

POINTS = st.tuples(st.integers(1, 6), st.one_of(st.none(), st.integers(1, 6)))


def choices_of(points):
    return [
        choice(number, 10.0 * speed, None if usd is None else 1.0 * usd)
        for number, (speed, usd) in enumerate(points, 1)
    ]


@given(st.lists(POINTS, max_size=8))
def test_the_front_is_what_nothing_dominates(points):
    """Tried pair by pair: as fast and as cheap, and better in one of both."""
    choices = ranked(choices_of(points), "throughput", has_budget=False)
    for one in choices:
        beaten = [
            other
            for other in choices
            if other.price is not None
            and samples_per_s(other) >= samples_per_s(one)
            and usd(other) <= usd(one)
            and (samples_per_s(other), usd(other)) != (samples_per_s(one), usd(one))
        ]
        assert one.is_on_front == (one.price is not None and not beaten)
        if one.price is not None:
            assert (dominator_of(one, choices) is not None) == bool(beaten)


@given(st.lists(POINTS, min_size=1, max_size=8))
def test_along_the_front_what_is_faster_costs_more(points):
    choices = ranked(choices_of(points), "throughput", has_budget=False)
    front = [(samples_per_s(c), usd(c)) for c in choices if c.is_on_front]
    assert front == sorted(front, reverse=True)
    assert [price for _, price in front] == sorted((p for _, p in front), reverse=True)


@pytest.mark.parametrize(
    ("rank_by", "has_budget", "order"),
    [
        ("throughput", False, [8, 4, 2, 1]),
        ("throughput", True, [4, 2, 1, 8]),
        ("price", False, [2, 4, 8, 1]),
    ],
)
def test_orders(rank_by, has_budget, order):
    """Without a price, without a speed: last where that is asked for."""
    choices = [
        choice(1, None, 1.0),
        choice(2, 5.0, 1.0),
        choice(4, 8.0, 2.0),
        choice(8, 20.0, None),
    ]
    found = ranked(choices, rank_by, has_budget=has_budget)
    assert [one.num_gpus for one in found] == order
