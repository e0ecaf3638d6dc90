"""A plan as the command line that makes it."""

import shlex

from memplan.estimating.changes import command_words
from memplan.plan import TrainingPlan


def command_of(plan: TrainingPlan, verb: str = "estimate") -> str:
    """The shortest command of that verb whose plan is this one."""
    return shlex.join(command_words(plan, verb))
