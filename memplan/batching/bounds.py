"""The largest batch that chance can make of a dataset, and how often it does."""

from collections import Counter
from collections.abc import Iterable, Mapping

from memplan.batching.batches import LENGTHS, BatchingRule, Shape, padded
from memplan.batching.chances import chance_of_each, longest_of_a_batch
from memplan.batching.dataset import Sizes
from memplan.plan import TrainingPlan
from memplan.units import round_up


def largest_batches(
    sizes: Sizes, rule: BatchingRule, plan: TrainingPlan
) -> list[Shape]:
    """No batch is larger than each of these; none: what is drawn is all there is.

    A batch of several samples may have the largest of all in every size. What is
    batched alone, or in order, comes as it is in every epoch.
    """
    if not rule.is_drawn:
        return []
    if rule.max_tokens_per_batch is not None:
        return _within(rule.max_tokens_per_batch, sizes, rule)
    size = plan.per_device_train_batch_size
    if size == 1 and not rule.drop_last:
        return []
    if plan.data_parallel == 1:
        size = min(size, len(sizes))
    return [largest_batch(sizes, rule, size)]


def largest_batch(
    sizes: Sizes,
    rule: BatchingRule,
    size: int,
    changed: Mapping[str, int] | None = None,
) -> Shape:
    """So many samples with the largest of all in every size, or what is said of it."""
    largest = {name: max(values) for name, values in sizes.columns.items()}
    return padded((size, *{**largest, **(changed or {})}.values()), sizes, rule)


def expected_per_epoch(shape: Shape, sizes: Sizes, rule: BatchingRule) -> float | None:
    """How many batches of an epoch are at least this large; None: not in closed form.

    The chance that an epoch has one is not larger than that.
    """
    if rule.sampling != "random" or rule.max_tokens_per_batch is not None:
        return None
    size, *padded_to = shape
    multiple = rule.pad_to_multiple_of or 1
    below = [
        value - (multiple if name in LENGTHS else 1)
        for name, value in zip(sizes.columns, padded_to, strict=True)
    ]
    marks = Counter(
        sum((v > b) << i for i, (v, b) in enumerate(zip(values, below, strict=True)))
        for values in zip(*sizes.columns.values(), strict=True)
    )
    chance = chance_of_each(marks, len(below), size)
    return chance * (len(sizes) // size)


def padded_lengths(
    sizes: Sizes, rule: BatchingRule, plan: TrainingPlan, percents: Iterable[int]
) -> dict[int, int]:
    """So many percent of all random batches are padded to this length at most.

    Of batches drawn at random and of as many samples each; empty of others.
    """
    is_other = rule.sampling != "random" or rule.max_tokens_per_batch is not None
    if is_other or "seq_len" not in sizes.columns:
        return {}
    lengths = sorted(sizes.columns["seq_len"])
    size = min(plan.per_device_train_batch_size, len(lengths))
    multiple = rule.pad_to_multiple_of or 1
    return {
        percent: round_up(longest_of_a_batch(lengths, size, percent), multiple)
        for percent in percents
    }


def _within(budget: int, sizes: Sizes, rule: BatchingRule) -> list[Shape]:
    """For each length, as many samples as the budget allows and there are."""
    multiple = rule.pad_to_multiple_of or 1
    counts = Counter(sizes.columns["seq_len"])
    largest, num_samples = list[Shape](), 0
    for length in sorted(counts):
        num_samples += counts[length]
        size = min(budget // max(round_up(length, multiple), 1), num_samples)
        largest.append(largest_batch(sizes, rule, size, {"seq_len": length}))
    return largest
