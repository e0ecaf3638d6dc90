"""The search finds what looking at every value finds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.searching.fitting import WINDOW, Range, find_edge, stride_of


def looked_at_one_by_one(look, values):
    every = range(values.least, values.most + 1)
    on_the_way = [v for v in every if (v - values.start) % values.stride == 0]
    return max((v for v in on_the_way if look(v) == "fits"), default=None)


@given(data=st.data())
def test_it_is_the_largest_of_all(data):
    """Refused below a and above b, fits up to c: max {v <= c, a <= v <= b}."""
    stride = data.draw(st.sampled_from([1, 14, 28]))
    start = stride * data.draw(st.integers(1, 40))
    least = data.draw(st.integers(0, 1))
    most = data.draw(st.integers(start, 2000))
    lowest = data.draw(st.integers(0, start))
    highest = data.draw(st.integers(start, 3000))
    last = data.draw(st.integers(-5, 2500))

    def look(value):
        if not max(lowest, least) <= value <= highest:
            return "refused"
        return "fits" if value <= last else "breaks"

    values = Range(start=start, stride=stride, least=least, most=most)
    edge = find_edge(look, values)
    assert edge.largest == looked_at_one_by_one(look, values)
    if edge.largest is not None:
        assert edge.beyond is None or look(edge.beyond) != "fits"
        assert edge.beyond == edge.largest + stride or edge.largest + stride > most
    else:
        assert look(edge.beyond) == "breaks"
        assert edge.beyond - stride < least or look(edge.beyond - stride) == "refused"


@given(last=st.integers(20, 500), odd=st.integers(1, 7), start=st.integers(1, 600))
def test_ripples_do_not_end_it(last, odd, start):
    """Values that are no multiple of eight want as much as a few more would."""

    def look(value):
        return "fits" if value + (odd if value % 8 else 0) <= last else "breaks"

    values = Range(start=start, stride=1, least=1, most=1000)
    edge = find_edge(look, values)
    assert edge.largest == looked_at_one_by_one(look, values)
    below = range(max(edge.largest - WINDOW, 1), edge.largest)
    assert edge.skipped == tuple(v for v in below if look(v) == "breaks")


def test_few_values_are_looked_at():
    """Doubling, halving, and a window on both sides."""
    seen = set()

    def look(value):
        seen.add(value)
        return "fits" if value <= 123_456 else "breaks"

    edge = find_edge(look, Range(start=1, stride=1, least=1, most=2**20))
    assert (edge.largest, edge.beyond, edge.skipped) == (123_456, 123_457, ())
    assert len(seen) <= 2 * 17 + 2 * WINDOW


@pytest.mark.parametrize(
    ("permitted", "start", "stride"),
    [
        (lambda v: True, 8, 1),
        (lambda v: v % 28 == 0, 224, 28),
        (lambda v: v <= 1024, 1024, 1),
        (lambda v: v == 336, 336, None),
    ],
)
def test_strides_are_found(permitted, start, stride):
    def look(value):
        return "fits" if permitted(value) else "refused"

    assert stride_of(look, start, 1, 2**20) == stride


def test_all_that_may_be_looked_at_can_fit():
    edge = find_edge(lambda v: "fits", Range(start=3, stride=1, least=1, most=100))
    assert (edge.largest, edge.beyond) == (100, None)
