"""Which weights DeepSpeed's stage 3 has gathered when."""

from hypothesis import given
from hypothesis import strategies as st

from memplan.formulas.deepspeed_prefetch import (
    MAX_LIVE_ELEMENTS,
    PREFETCH_ELEMENTS,
    Recorder,
    Schedule,
    live_elements,
)
from memplan.formulas.gathering import Layer
from memplan.formulas.parameters import Parameter, Stored
from memplan.formulas.tape import Tape
from memplan.formulas.weights import Storing

MILLION = 10**6


def weight(name, num_elements, trains=True):
    stored = Stored("bf16", trains, 2 * num_elements)
    return Parameter(name, (num_elements,), 1, stored)


def test_what_is_gathered_together_is_there_twice_while_it_is_in_use():
    """From the copies of all to the use of the last, and never while it waits."""
    calls = [[0], [1], [1], [0]]
    sizes = [20 * MILLION, 20 * MILLION]
    assert live_elements(calls, sizes) == [
        80 * MILLION,
        *[40 * MILLION] * 2,
        20 * MILLION,
    ]


def test_a_weight_gathered_by_itself_is_there_once():
    assert live_elements([[0], [0]], [60 * MILLION]) == [60 * MILLION] * 2


def test_a_bucket_takes_weights_until_it_is_full():
    """Of three weights; the next one is gathered as it begins to be used."""
    sizes = [20 * MILLION] * 6
    first, second, third, fourth, *_ = live_elements([[n] for n in range(6)], sizes)
    assert first == 60 * MILLION + 2 * 60 * MILLION
    assert second == first - 20 * MILLION
    assert third == 20 * MILLION + 60 * MILLION
    assert fourth == 60 * MILLION + 60 * MILLION


def test_what_is_needed_again_soon_stays():
    there = live_elements([[0], [1], [2], [2], [1], [0]], [60 * MILLION] * 3)
    assert there == [120 * MILLION, *[180 * MILLION] * 3, 120 * MILLION, 60 * MILLION]


SIZES = st.lists(st.integers(1, 4 * PREFETCH_ELEMENTS), min_size=1, max_size=40)


@given(SIZES)
def test_no_more_is_live_than_the_limit_a_weight_and_two_buckets(sizes):
    there = live_elements(
        [[number] for number in (*range(len(sizes)), *reversed(range(len(sizes))))],
        sizes,
    )
    largest = max(sizes)
    bucket = PREFETCH_ELEMENTS + largest
    assert max(there) <= min(
        2 * sum(sizes), MAX_LIVE_ELEMENTS + 2 * largest + 2 * bucket
    )


@given(SIZES)
def test_what_a_module_needs_is_there_when_it_runs(sizes):
    there = live_elements([[number] for number in range(len(sizes))], sizes)
    assert all(size <= live for size, live in zip(sizes, there, strict=True))


def test_a_schedule_goes_backward_no_further_than_to_the_first_trained_weight():
    layer = Layer((weight("layers.*.w.weight", MILLION),), True, False)
    recorder = Recorder()
    tape = Tape(Storing(dtype="bf16", trainable=("",), frozen_dtype="bf16"))
    recorder.use_weight(tape, weight("table.weight", MILLION, trains=False))
    recorder.leave_layers(tape, layer, 3)
    table, layers = Schedule(recorder.order, recomputes=False).runs
    assert (len(table.forward), table.backward) == (1, [])
    assert [len(calls) for calls in layers.backward] == [1, 1, 1]


def test_a_recomputed_layer_calls_its_modules_twice_in_backward():
    layer = Layer((weight("layers.*.w.weight", MILLION),), True, False)
    (layers,) = Schedule([(layer, 2)], recomputes=True).runs
    assert [len(calls) for calls in layers.backward] == [2, 2]
