"""Plans and changes of them as flags, and which of them other answers come of."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from memplan.plan import TrainingPlan

Fields = dict[str, Any]
"""Of a plan, and what they are set to."""

_FLAGS = {
    "gpu_memory_bytes": "--gpu-memory",
    "context_bytes": "--context-memory",
    "headroom_fraction": "--headroom",
}
CHANGES_ANSWERS = ("precision", "quantization")
"""Fields of a plan that decide how exactly weights are stored."""


def as_flags(change: Fields) -> str:
    """What to type for a change."""
    return " ".join(word for item in change.items() for word in words_of(*item))


def words_of(field: str, value: Any) -> list[str]:
    """The words that set one field of a plan on the command line."""
    if field == "model":  # it has no flag: it comes first
        return [str(value)]
    flag = _FLAGS.get(field, f"--{field.replace('_', '-')}")
    if value is True:
        return [flag]
    if value is False:
        return [flag.replace("--", "--no-", 1)]
    if isinstance(value, tuple):
        return [flag, ",".join(value)]
    return [flag, str(value)]


def command_words(plan: TrainingPlan, verb: str) -> list[str]:
    """The shortest command of that verb whose plan is this one, word by word."""
    words = ["memplan", verb]
    if plan.model is not None:
        words.append(plan.model)
    for item in fields(plan):
        value = getattr(plan, item.name)
        if item.name == "model" or (value == item.default and item.name != "gpu"):
            continue
        words += words_of(item.name, value)
    return words


def less_exact(plan: TrainingPlan) -> Iterator[Fields]:
    """Ways to store the weights of a generation in less, which it does not use yet."""
    if plan.precision != "bf16-pure":
        yield {"precision": "bf16-pure"}
    if plan.quantization == "none":
        yield {"quantization": "int8"}
    if plan.quantization != "nf4":
        yield {"quantization": "nf4"}
