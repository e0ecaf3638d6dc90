"""What an entry of the catalogue of tricks says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from memplan.estimating.changes import Fields
from memplan.plan import TrainingPlan

Exactness = Literal["exact", "rounding", "different optimisation", "different model"]
"""What becomes of the results. exact: the same numbers; rounding: the same sums in
another order or precision; different optimisation: other steps are made; different
model: something else is trained or fed."""

Technique = Literal[
    "gradient accumulation",
    "gradient checkpointing",
    "mixed precision",
    "batch size",
    "optimizer choice",
    "DataLoader",
    "ZeRO and FSDP",
    "CPU offload",
    "attention",
    "LoRA and quantization",
    "frozen parts",
    "loss",
    "activation offload",
    "torch.compile",
    "allocator",
    "images",
    "model",
]
"""The rows of the classic table, and what came after it."""

EXACTNESSES: tuple[Exactness, ...] = get_args(Exactness)
"""What changes results least first."""
TECHNIQUES: tuple[Technique, ...] = get_args(Technique)
NO_TRAINING = "nothing is trained"
ALREADY = "the plan has it already"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trick:
    """One way to make a run smaller. The next one is one more of these."""

    name: str
    """What `--tricks` takes: `checkpointing-full`."""
    title: str
    """A few words for a table."""
    technique: Technique
    exactness: Exactness
    cost: str
    """What it takes in return, in one sentence."""
    source: str
    """Where that is from: a paper, a file of a library, a page of documentation."""
    changes: Callable[[TrainingPlan], Fields | str]
    """The fields of a plan that it sets; or why it does not suit the plan."""
    suits_generation: bool = False
    """Whether it does something where nothing is trained."""


def sets(**change: object) -> Callable[[TrainingPlan], Fields | str]:
    """The same fields, whatever the plan."""
    return lambda plan: dict(change)


def change_of(trick: Trick, plan: TrainingPlan) -> Fields | str:
    """What a trick would change of a plan, and nothing else; or why it would not."""
    if plan.generates and not trick.suits_generation:
        return NO_TRAINING
    found = trick.changes(plan)
    if isinstance(found, str):
        return found
    changed = {k: v for k, v in found.items() if getattr(plan, k) != v}
    return changed or ALREADY
