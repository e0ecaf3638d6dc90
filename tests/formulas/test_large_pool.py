"""The pool of large blocks gives out what PyTorch's caching allocator would."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from memplan.formulas.events import Repeat, most_at_once
from memplan.formulas.large_pool import LargePool, Player
from memplan.units import MiB

KiB = 1024


def taken(pool, *sizes):
    return [pool.take(size) for size in sizes]


def test_what_is_left_at_the_end_of_a_segment_goes_to_the_last_block():
    """17 blocks of 1.125 MiB fill 20 MiB but for 0.875."""
    blocks = taken(LargePool(), *[1152 * KiB] * 17)
    assert [block.num_bytes for block in blocks] == [1152 * KiB] * 16 + [2 * MiB]


def test_more_than_a_mebibyte_left_over_is_split_off():
    """8 blocks of 2.25 MiB leave a gap of 2 MiB, which the next smaller one gets."""
    pool = LargePool()
    blocks = taken(pool, *[2304 * KiB] * 8)
    assert {block.num_bytes for block in blocks} == {2304 * KiB}
    assert pool.take(1152 * KiB).num_bytes == 2 * MiB
    assert pool.reserved_bytes == 20 * MiB


def test_the_smallest_free_block_that_is_large_enough_is_taken():
    pool = LargePool()
    large, _, small, _ = taken(pool, 30 * MiB, 2 * MiB, 24 * MiB, 2 * MiB)
    pool.give_back(large)
    pool.give_back(small)
    assert pool.take(22 * MiB).address == small.address


def test_a_request_from_ten_mebibytes_on_gets_a_segment_of_its_own():
    pool = LargePool()
    assert pool.take(10 * MiB + 512).num_bytes == 10 * MiB + 512
    assert pool.reserved_bytes == 12 * MiB
    assert pool.take(13 * MiB).num_bytes == 14 * MiB


def test_free_neighbours_are_joined():
    pool = LargePool()
    for block in taken(pool, 5 * MiB, 6 * MiB, 7 * MiB):
        pool.give_back(block)
    assert pool.take(19 * MiB + 512).num_bytes == 20 * MiB
    assert pool.reserved_bytes == 20 * MiB


def test_slack_is_what_blocks_have_beyond_fresh_ones():
    pool = LargePool()
    blocks = taken(pool, *[1152 * KiB] * 17)
    pool.give_back(blocks[-1])
    slack = pool.slack()
    assert (slack.at_peak_bytes, slack.at_end_bytes) == (896 * KiB, 0)


def test_a_block_that_fits_is_less_than_a_fresh_one():
    """11.5 MiB get 12 in a segment of their own, and not in a larger one."""
    pool = LargePool()
    pool.give_back(pool.take(40 * MiB))
    pool.take(11 * MiB + 512 * KiB)
    assert pool.slack().at_end_bytes == -512 * KiB


@given(st.lists(st.integers(MiB + 1, 64 * MiB), max_size=60), st.randoms())
def test_blocks_never_overlap_and_all_come_back(sizes, random):
    pool, alive = LargePool(), []
    for size in sizes:
        block = pool.take(size)
        alive.append((block, size))
        if random.random() < 0.5:
            pool.give_back(alive.pop(random.randrange(len(alive)))[0])
        for block, size in alive:
            assert size <= block.num_bytes <= size + MiB + 511
        ends = sorted((b.address, b.address + b.num_bytes) for b, _ in alive)
        assert all(end <= start for (_, end), (start, _) in pairwise(ends))
    for block, _ in alive:
        pool.give_back(block)
    assert pool.slack().at_end_bytes == 0
    reserved = pool.reserved_bytes
    assert all(pool.take(size) for size in sizes[:1])
    assert pool.reserved_bytes == reserved


def test_a_layer_takes_over_what_the_one_before_made():
    """Each makes its output (2), keeps 3, and frees its input (1)."""
    pool = LargePool()
    layers = Repeat(4, [(3, 4 * MiB), (2, 2 * MiB), (1, -1)], taken=1, made=2)
    player = Player(pool)
    player.play([(1, 2 * MiB), layers])
    assert pool.slack().at_end_bytes == 0
    backward = Repeat(4, [(3, -1)], taken=5, made=6)
    player.play([backward, (2, -1)])
    assert pool.take(20 * MiB).num_bytes == 20 * MiB
    assert pool.reserved_bytes == 20 * MiB


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_the_most_blocks_at_once_are_linear_in_the_layers(count, kept, freed, frees):
    """Counted as if every layer stood there by itself."""
    freed = min(freed, kept)
    body = [(7 + n, 2 * MiB) for n in range(kept)] + [(7, -freed)] * bool(freed)
    repeat = Repeat(count, [*body, (0, 2 * MiB)], 1, 99, frees)
    level = highest = 3
    for number in range(count):
        highest = max(highest, level + kept, level + kept - freed + 1)
        level += kept - freed - (frees and number > 0)
    start = [(n, 2 * MiB) for n in (1, 2, 3)]
    most, left = most_at_once([*start, repeat])
    assert left in (level, level - frees)
    assert most >= highest - frees * (count - 1)
    if not frees:
        assert most == highest
