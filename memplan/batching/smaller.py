"""Changes of data and batch with which the worst batch fits, each as little as it can.

Grouping by length is not among them: the longest sample is in a batch all the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from memplan.batching.batches import BatchingRule, Shape
from memplan.batching.bounds import largest_batch
from memplan.batching.dataset import Sizes
from memplan.batching.shapes import Needs
from memplan.batching.worst import Hint
from memplan.errors import MemplanError
from memplan.estimating.changes import Fields, as_flags
from memplan.plan import TrainingPlan

Need = Callable[[int], int]
"""Bytes on the device with a number set to this."""


def hints_of(
    plan: TrainingPlan, sizes: Sizes, rule: BatchingRule, worst: Shape, budget: int
) -> Iterator[Hint]:
    """Shorter samples, or fewer in a batch; nothing of batches by a budget of tokens.

    Args:
        worst: the largest batch that is possible.
        budget: bytes of the device that it may take.
    """
    if rule.max_tokens_per_batch is not None:
        return
    if "seq_len" in sizes.columns and rule.packing == "none":
        yield from _shorter(plan, sizes, rule, worst, budget)
    yield from _fewer(plan, sizes, worst, budget)


def _shorter(
    plan: TrainingPlan, sizes: Sizes, rule: BatchingRule, worst: Shape, budget: int
) -> Iterator[Hint]:
    needs = Needs(plan, sizes.columns)
    lengths = sizes.columns["seq_len"]

    def need(limit: int) -> int:
        shape = largest_batch(sizes, rule, worst[0], {"seq_len": limit})
        return needs.of(shape)

    limit = _most_that_fits(max(lengths) - 1, need, budget)
    if limit:
        num_longer = sum(length > limit for length in lengths)
        what = "leaves out" if rule.drop_longer else "truncates"
        yield Hint(
            flags=as_flags({"seq_len": limit}),
            effect=f"{what} {num_longer} of {len(lengths)} samples",
            device_bytes=need(limit),
        )


def _fewer(
    plan: TrainingPlan, sizes: Sizes, worst: Shape, budget: int
) -> Iterator[Hint]:
    """As many samples in a step: only what divides them is looked at."""
    size, *values = worst
    num_samples = size * plan.gradient_accumulation_steps
    divisors = [n for n in range(1, size) if num_samples % n == 0]

    def change(fewer: int) -> Fields:
        return {
            "per_device_train_batch_size": fewer,
            "gradient_accumulation_steps": num_samples // fewer,
        }

    def need(place: int) -> int:
        fewer = divisors[place - 1]
        accumulating = replace(plan, **change(fewer))
        return Needs(accumulating, sizes.columns).of((fewer, *values))

    place = _most_that_fits(len(divisors), need, budget)
    if place:
        yield Hint(
            flags=as_flags(change(divisors[place - 1])),
            effect=f"{num_samples} samples a step and GPU as before",
            device_bytes=need(place),
        )


def _most_that_fits(most: int, need: Need, budget: int) -> int:
    """The largest number from 1 to `most` that fits; 0: none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        try:
            fits = need(middle) <= budget
        except MemplanError:  # too short for its pictures: so is all that is shorter
            fits = True
        low, high = (middle, high) if fits else (low, middle - 1)
    try:
        return low if low and need(low) <= budget else 0
    except MemplanError:
        return 0
