"""What a generation could save, and at what price: single tricks, each on its own.

Of a generation the weights are most of the memory, and what makes them smaller stores
them less exactly: other answers come out, and scores with them. Such a trick is never
shown without saying so.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from memplan.errors import MemplanError
from memplan.estimating.changes import CHANGES_ANSWERS, Fields, as_flags, less_exact
from memplan.plan import TrainingPlan
from memplan.report import Saving

Need = Callable[[TrainingPlan], int]
"""Bytes that a plan takes on the device."""


def savings_of(plan: TrainingPlan, device_bytes: int, need: Need) -> tuple[Saving, ...]:
    """The tricks that a plan uses, then those it could use; none where it trains."""
    if not plan.generates or plan.model is None:
        return ()
    savings = []
    for change, is_used in _tricks(plan):
        field, value = next(iter(change.items()))
        try:
            other_bytes = need(replace(plan, **change))
        except MemplanError:  # the trick does not go with the rest of the plan
            continue
        saved = other_bytes - device_bytes if is_used else device_bytes - other_bytes
        if saved > 0:
            savings.append(
                Saving(
                    trick=as_flags({field: getattr(plan, field) if is_used else value}),
                    saved_bytes=saved,
                    device_bytes=device_bytes if is_used else other_bytes,
                    changes_answers=field in CHANGES_ANSWERS,
                    is_used=is_used,
                )
            )
    return tuple(savings)


def _tricks(plan: TrainingPlan) -> Iterator[tuple[Fields, bool]]:
    """What to change in the plan, and whether that gives up what it has."""
    if plan.quantization != "none":
        yield {"quantization": "none"}, True
    if plan.precision not in ("fp32", "tf32"):
        yield {"precision": "fp32"}, True
    for change in less_exact(plan):
        yield change, False
    if plan.per_device_train_batch_size > 1:
        yield {"per_device_train_batch_size": 1}, False
