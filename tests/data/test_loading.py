"""Batches follow from a seed and a number: not from workers, nor from a resume."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch

from memplan.data.loading import Loading, Order, batches
from memplan.data.records import BadRecordError, Policy
from memplan.errors import DataError


class Numbers:
    """Samples that are their index and a number by chance; some of them bad."""

    def __init__(self, count, bad=()):
        self.count = count
        self.bad = bad

    def __len__(self):
        return self.count

    def draw(self, index, random):
        if index in self.bad:
            raise BadRecordError(f"numbers, record {index}", "value", "is bad")
        return index, random.random()


def stacked(samples):
    return {"index": [i for i, _ in samples], "chance": [c for _, c in samples]}


def first(count, samples, loading, **place):
    return list(islice(batches(samples, stacked, loading, **place), count))


def test_an_epoch_has_every_sample_once():
    seen = first(5, Numbers(20), Loading(batch_size=4))
    assert sorted(i for batch in seen for i in batch.content["index"]) == [*range(20)]


def test_epochs_have_orders_of_their_own():
    epochs = first(2, Numbers(20), Loading(batch_size=20))
    assert epochs[0].content["index"] != epochs[1].content["index"]


def test_without_shuffling_the_order_is_the_dataset_s():
    seen = first(2, Numbers(5), Loading(batch_size=2, shuffles=False))
    assert [batch.content["index"] for batch in seen] == [[0, 1], [2, 3]]


@given(start=st.integers(0, 30), size=st.integers(1, 5), seed=st.integers(0, 9))
def test_a_later_start_sees_what_an_unbroken_run_sees(start, size, seed):
    loading = Loading(batch_size=size, seed=seed)
    unbroken = first(start + 3, Numbers(11), loading)
    assert first(3, Numbers(11), loading, start=start) == unbroken[start:]


@given(size=st.integers(1, 4), ranks=st.integers(1, 5))
def test_ranks_share_an_epoch_without_overlap(size, ranks):
    orders = [Order(40, Loading(batch_size=size), 0, r, ranks) for r in range(ranks)]
    seen = [
        index
        for order in orders
        for batch in islice(order, order.batches_per_epoch)
        for index, _ in batch
    ]
    assert len(seen) == len(set(seen)) == 40 // (size * ranks) * size * ranks


@pytest.mark.slow
def test_workers_change_nothing():
    alone = first(6, Numbers(11), Loading(batch_size=3))
    shared = first(6, Numbers(11), Loading(batch_size=3, num_workers=2))
    assert alone == shared


def test_a_loader_takes_nothing_from_the_generator_of_the_run():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first(3, Numbers(6), Loading(batch_size=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_bad_record_is_passed_over_and_told():
    loading = Loading(batch_size=2, shuffles=False, policy=Policy.SKIP)
    (batch,) = first(1, Numbers(4, bad={1}), loading)
    assert batch.content["index"] == [0, 2]
    assert batch.skipped == ("value: is bad",)


def test_a_bad_record_is_refused():
    with pytest.raises(BadRecordError, match="record 1, field value: is bad"):
        first(1, Numbers(4, bad={1}), Loading(batch_size=2, shuffles=False))


def test_records_that_are_all_bad_end_the_run():
    loading = Loading(batch_size=2, policy=Policy.SKIP)
    with pytest.raises(DataError, match=r"None of 3 samples .*value: is bad"):
        first(1, Numbers(3, bad={0, 1, 2}), loading)


def test_a_dataset_smaller_than_a_batch_is_refused():
    with pytest.raises(DataError, match="3 samples are fewer than one batch of 8"):
        first(1, Numbers(3), Loading(batch_size=4), num_ranks=2)
