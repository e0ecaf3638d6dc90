"""A quarter of the sampled pairs at most is annotated; testing looks at all."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplan.models.pe_net.pairs import all_pairs, choose_predicates, sample_pairs

boxes_and_annotated = st.integers(2, 12).flatmap(
    lambda count: st.tuples(
        st.just(count),
        st.dictionaries(st.sampled_from(all_pairs(count)), st.integers(1, 50)),
    )
)


def test_all_ordered_pairs_of_eighty_boxes_are_6320():
    assert len(all_pairs(80)) == 80 * 79 == 6320


def test_of_512_pairs_128_are_annotated_where_there_are_more():
    annotated = dict.fromkeys(all_pairs(80)[:200], 7)
    pairs, predicates = sample_pairs(80, annotated, 512, Random(0))
    assert len(pairs) == 512
    assert predicates == 128 * [7] + 384 * [0]


def test_fewer_annotated_pairs_leave_more_room():
    annotated = dict.fromkeys(all_pairs(80)[:10], 7)
    _, predicates = sample_pairs(80, annotated, 512, Random(0))
    assert predicates == 10 * [7] + 502 * [0]


@settings(deadline=None)
@given(boxes_and_annotated, st.integers(4, 100), st.integers(0, 1000))
def test_a_sample_keeps_to_its_limits(drawn, num_pairs, seed):
    count, annotated = drawn
    pairs, predicates = sample_pairs(count, annotated, num_pairs, Random(seed))
    positive = [p for p, found in zip(pairs, predicates, strict=True) if found]
    assert len(set(pairs)) == len(pairs) <= num_pairs
    assert len(positive) == min(len(annotated), num_pairs // 4)
    assert set(pairs) <= set(all_pairs(count))
    assert all(
        annotated.get(pair, 0) == predicate
        for pair, predicate in zip(pairs, predicates, strict=True)
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_decides_the_sample(seed):
    annotated = dict.fromkeys(all_pairs(9)[:30], 3)
    first, second = (sample_pairs(9, annotated, 16, Random(seed)) for _ in range(2))
    assert first == second


def test_of_several_predicates_one_is_taken_as_often_as_it_is_said():
    said = [(0, 1, 4), (0, 1, 4), (0, 1, 9), (1, 0, 2)]
    random = Random(0)
    chosen = [choose_predicates(said, random) for _ in range(600)]
    assert {found[1, 0] for found in chosen} == {2}
    fours = sum(found[0, 1] == 4 for found in chosen)
    assert fours == pytest.approx(400, abs=60)
