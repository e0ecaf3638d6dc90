"""Chances are those of counting every batch there is."""

from collections import Counter
from itertools import combinations
from math import comb, isclose

from hypothesis import given
from hypothesis import strategies as st

from memplan.batching.chances import (
    chance_of_each,
    chance_of_none,
    longest_of_a_batch,
)

SAMPLES = st.lists(st.integers(0, 5), min_size=1, max_size=9)


@given(st.integers(1, 60), st.data())
def test_none_of_the_marked_is_a_quotient_of_choices(count, data):
    """C(n - k, B) / C(n, B)."""
    marked = data.draw(st.integers(0, count))
    size = data.draw(st.integers(1, count))
    expected = comb(count - marked, size) / comb(count, size)
    assert isclose(chance_of_none(count, marked, size), expected, abs_tol=1e-12)


@given(SAMPLES, st.data())
def test_every_mark_is_counted_over_all_batches(marks, data):
    size = data.draw(st.integers(1, len(marks)))
    batches = list(combinations(marks, size))
    having = 0
    for batch in batches:
        union = 0
        for mark in batch:
            union |= mark
        having += union & 0b111 == 0b111
    found = chance_of_each(Counter(marks), 3, size)
    assert isclose(found, having / len(batches), abs_tol=1e-9)


@given(SAMPLES, st.sampled_from([1, 50, 90, 99, 100]), st.data())
def test_the_longest_of_a_batch_is_a_quantile_over_all_batches(lengths, percent, data):
    """The smallest x with 100 P(longest <= x) >= percent."""
    size = data.draw(st.integers(1, len(lengths)))
    longest = sorted(map(max, combinations(lengths, size)))
    rank = -(-len(longest) * percent // 100)
    found = longest_of_a_batch(sorted(lengths), size, percent)
    # Products of floats decide a tie either way.
    assert found in longest[max(rank - 1, 0) : rank + 1]
