"""Batches are those that the real samplers make, and keep what they promise."""

from array import array
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.batching.batches import (
    BatchingRule,
    epochs_of,
    length_grouped,
    prepare,
    shape_of,
    torch_permutation,
)
from memplan.batching.dataset import Sizes
from memplan.errors import MemplanError, PlanError
from memplan.plan import TrainingPlan

LENGTHS = st.lists(st.integers(0, 300), min_size=1, max_size=60)
SAMPLINGS = st.sampled_from(["random", "sequential", "group_by_length"])


def sizes_of(lengths, **others):
    columns = {"seq_len": lengths, **others}
    return Sizes(
        source="data.jsonl",
        columns={name: array("q", values) for name, values in columns.items()},
        rows=array("q", range(1, len(lengths) + 1)),
    )


def plan_of(size=2, ranks=1, steps=1, **fields):
    return TrainingPlan(
        model="gpt2",
        per_device_train_batch_size=size,
        num_gpus=ranks,
        gradient_accumulation_steps=steps,
        **fields,
    )


def epoch_of(lengths, rule=None, plan=None):
    """The batches of the first epoch."""
    drawn = epochs_of(sizes_of(lengths), rule or BatchingRule(), plan or plan_of())
    _, batches = next(drawn)
    return [list(batch) for batch in batches]


@pytest.mark.parametrize("count", [1, 2, 97, 5000])
@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1, 2**40 + 7])
def test_a_permutation_is_torch_s(count, seed):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(count, generator=generator).tolist()
    assert list(torch_permutation(count, seed)) == drawn


@pytest.mark.parametrize(("count", "size"), [(1, 8), (30, 8), (1000, 4), (1003, 16)])
def test_grouping_by_length_is_that_of_transformers(count, size):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.trainer_pt_utils")
    lengths = [(i * 7919) % 513 for i in range(count)]
    sampler = theirs.LengthGroupedSampler(
        size, lengths=lengths, generator=torch.Generator().manual_seed(42)
    )
    assert list(length_grouped(lengths, size, 42)) == list(sampler)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 5, 8, 24, 29])
def test_random_batches_are_those_of_the_trainer(count, ranks, drop_last):
    """Batch i is of rank i modulo their number, in the order of accelerate."""
    torch = pytest.importorskip("torch")
    loading = pytest.importorskip("accelerate.data_loader")
    rule = BatchingRule(epochs=2, drop_last=drop_last)
    plan = plan_of(4, ranks)
    drawn = [
        [list(batch) for batch in batches]
        for _, batches in epochs_of(sizes_of([1] * count), rule, plan)
    ]
    for rank in range(ranks):
        torch.manual_seed(42)
        loader = loading.prepare_data_loader(
            torch.utils.data.DataLoader(
                range(count), batch_size=4, shuffle=True, drop_last=drop_last
            ),
            num_processes=ranks,
            process_index=rank,
            put_on_device=False,
            use_seedable_sampler=True,
        )
        for epoch, batches in enumerate(drawn):
            loader.set_epoch(epoch)
            assert [batch.tolist() for batch in loader] == batches[rank::ranks]


@given(LENGTHS, SAMPLINGS, st.integers(1, 9))
def test_one_rank_sees_every_sample_once(lengths, sampling, size):
    batches = epoch_of(lengths, BatchingRule(sampling=sampling), plan_of(size))
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in batches[:-1])


@given(LENGTHS, st.integers(1, 5), st.integers(1, 4))
def test_ranks_have_as_many_batches_all_full(lengths, size, ranks):
    batches = epoch_of(lengths, BatchingRule(), plan_of(size, ranks))
    if ranks > 1:
        assert len(batches) % ranks == 0
        assert {len(batch) for batch in batches} == {size}
    assert set(chain.from_iterable(batches)) == set(range(len(lengths)))


@given(LENGTHS, SAMPLINGS, st.integers(300, 900), st.sampled_from([None, 8]))
def test_no_batch_is_beyond_its_budget_of_tokens(lengths, sampling, budget, multiple):
    """Samples x the longest <= budget, and no batch could take the next one too."""
    rule = BatchingRule(
        sampling=sampling, max_tokens_per_batch=budget, pad_to_multiple_of=multiple
    )
    if max(lengths) > budget // (multiple or 1) * (multiple or 1):
        return
    sizes = sizes_of(lengths)
    batches = epoch_of(lengths, rule)
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    for batch, after in zip(batches, [*batches[1:], None], strict=True):
        size, longest = shape_of(batch, sizes, rule)
        assert size * longest <= budget
        if after is not None:
            more = shape_of([*batch, after[0]], sizes, rule)
            assert more[0] * more[1] > budget


def test_a_sample_beyond_the_budget_is_named():
    with pytest.raises(PlanError, match=r"data.jsonl, row 2: 600 tokens") as raised:
        epoch_of(
            [5, 600], BatchingRule(sampling="sequential", max_tokens_per_batch=100)
        )
    assert raised.value.hint == "Cut samples with --seq-len 100."


def test_a_batch_is_padded_to_its_longest():
    sizes = sizes_of([10, 33, 7], images_per_sample=[3, 1, 0])
    assert shape_of([0, 1], sizes, BatchingRule()) == (2, 33, 3)
    assert shape_of([0, 1], sizes, BatchingRule(pad_to_multiple_of=16)) == (2, 48, 3)


def test_longer_samples_are_truncated_or_left_out():
    sizes, plan = sizes_of([10, 50, 20, 99]), plan_of(seq_len=20)
    cut = prepare(sizes, BatchingRule(), plan)
    assert list(cut.sizes.columns["seq_len"]) == [10, 20, 20, 20]
    assert (cut.num_truncated, cut.num_dropped) == (2, 0)
    left = prepare(sizes, BatchingRule(drop_longer=True), plan)
    assert list(left.sizes.columns["seq_len"]) == [10, 20]
    assert list(left.sizes.rows) == [1, 3]
    assert (left.num_truncated, left.num_dropped) == (0, 2)


@given(LENGTHS, st.integers(1, 200))
def test_packed_rows_hold_all_tokens_and_no_more_than_they_may(lengths, seq_len):
    """wrapped: ceil(tokens / seq_len) rows; bfd: each sample whole, so cut to a row."""
    sizes, plan = sizes_of(lengths), plan_of(seq_len=seq_len)
    wrapped = prepare(sizes, BatchingRule(packing="wrapped"), plan).sizes
    assert set(wrapped.columns["seq_len"]) == {seq_len}
    assert len(wrapped) == max(-(-sum(lengths) // seq_len), 1)
    packed = prepare(sizes, BatchingRule(packing="bfd"), plan).sizes
    rows = packed.columns["seq_len"]
    assert sum(rows) == sum(min(length, seq_len) for length in lengths)
    assert max(rows) <= seq_len
    assert len(rows) <= len(lengths)
    # Of two rows that are not half full the second would have gone into the first.
    assert sum(2 * row <= seq_len and row > 0 for row in rows) <= 1


def test_best_fit_takes_the_fullest_row_with_room():
    """6 and 5 open rows of 10; 4 fills the first, 3 and 2 the second."""
    packed = prepare(
        sizes_of([2, 3, 4, 5, 6]), BatchingRule(packing="bfd"), plan_of(seq_len=10)
    )
    assert Counter(packed.sizes.columns["seq_len"]) == {10: 2}


@pytest.mark.parametrize(
    ("rule", "fields", "said"),
    [
        ({"packing": "bfd"}, {}, "go by the length of a row"),
        ({"drop_longer": True}, {}, "go by the length of a row"),
        ({"drop_longer": True}, {"seq_len": 1}, "Every sample"),
        ({"packing": "best"}, {}, "no packing named 'best'"),
        ({"sampling": "shuffle"}, {}, "no sampling named 'shuffle'"),
        ({"epochs": 0}, {}, "epochs must be 1 or more"),
        ({"pad_to_multiple_of": -8}, {}, "pad_to_multiple_of must be 1"),
        (
            {"packing": "bfd", "max_tokens_per_batch": 9},
            {"seq_len": 9},
            "number of rows",
        ),
    ],
)
def test_rules_that_contradict_themselves_are_refused(rule, fields, said):
    with pytest.raises(MemplanError, match=said):
        prepare(sizes_of([5, 7]), BatchingRule(**rule), plan_of(**fields))


def test_batches_beyond_measure_are_refused():
    with pytest.raises(PlanError, match="beyond measure"):
        prepare(sizes_of([5]), BatchingRule(), plan_of(10**9, 8))


def test_what_goes_by_length_needs_lengths():
    sizes = Sizes(
        source="d", columns={"images_per_sample": array("q", [1])}, rows=array("q", [1])
    )
    for rule in (
        BatchingRule(sampling="group_by_length"),
        BatchingRule(max_tokens_per_batch=5),
    ):
        with pytest.raises(PlanError, match="needs lengths"):
            prepare(sizes, rule, plan_of())


def test_pictures_are_not_packed():
    sizes = sizes_of([5, 7], images_per_sample=[1, 2])
    with pytest.raises(PlanError, match="images_per_sample"):
        prepare(sizes, BatchingRule(packing="bfd"), plan_of(seq_len=8))
