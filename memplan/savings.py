"""What a generation could save, and at what price: single tricks, each on its own.

Of a generation the weights are most of the memory, and what makes them smaller stores
them less exactly: other answers come out, and scores with them. Such a trick is never
shown without saying so.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from memplan.errors import MemplanError
from memplan.plan import TrainingPlan
from memplan.report import Saving

Need = Callable[[TrainingPlan], int]
"""Bytes that a plan takes on the device."""


def savings_of(plan: TrainingPlan, device_bytes: int, need: Need) -> tuple[Saving, ...]:
    """The tricks that a plan uses, then those it could use; none where it trains."""
    if not plan.generates or plan.model is None:
        return ()
    savings = []
    for change, changes_answers, is_used in _tricks(plan):
        try:
            other_bytes = need(replace(plan, **change))
        except MemplanError:  # the trick does not go with the rest of the plan
            continue
        saved = other_bytes - device_bytes if is_used else device_bytes - other_bytes
        if saved > 0:
            savings.append(
                Saving(
                    trick=_flag(plan if is_used else change, next(iter(change))),
                    saved_bytes=saved,
                    device_bytes=device_bytes if is_used else other_bytes,
                    changes_answers=changes_answers,
                    is_used=is_used,
                )
            )
    return tuple(savings)


def _tricks(plan: TrainingPlan) -> Iterator[tuple[dict[str, Any], bool, bool]]:
    """What to change in the plan, whether answers change, whether the plan has it."""
    if plan.quantization != "none":
        yield {"quantization": "none"}, True, True
    if plan.precision not in ("fp32", "tf32"):
        yield {"precision": "fp32"}, True, True
    if plan.precision != "bf16-pure":
        yield {"precision": "bf16-pure"}, True, False
    if plan.quantization == "none":
        yield {"quantization": "int8"}, True, False
    if plan.quantization != "nf4":
        yield {"quantization": "nf4"}, True, False
    if plan.per_device_train_batch_size > 1:
        yield {"per_device_train_batch_size": 1}, False, False


def _flag(source: Any, name: str) -> str:
    value = source[name] if isinstance(source, dict) else getattr(source, name)
    return f"--{name.replace('_', '-')} {value}"
