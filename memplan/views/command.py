"""A plan as the command line that makes it."""

import shlex
from dataclasses import fields

from memplan.changes import words_of
from memplan.plan import TrainingPlan


def command_of(plan: TrainingPlan, verb: str = "estimate") -> str:
    """The shortest command of that verb whose plan is this one."""
    words = ["memplan", verb]
    if plan.model is not None:
        words.append(plan.model)
    for item in fields(plan):
        value = getattr(plan, item.name)
        if item.name == "model" or (value == item.default and item.name != "gpu"):
            continue
        words += words_of(item.name, value)
    return shlex.join(words)
