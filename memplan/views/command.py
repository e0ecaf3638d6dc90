"""A plan as the command line that makes it."""

import shlex
from dataclasses import fields

from memplan.plan import TrainingPlan

_FLAGS = {
    "gpu_memory_bytes": "--gpu-memory",
    "context_bytes": "--context-memory",
    "headroom_fraction": "--headroom",
}


def command_of(plan: TrainingPlan, verb: str = "estimate") -> str:
    """The shortest command of that verb whose plan is this one."""
    words = ["memplan", verb]
    if plan.model is not None:
        words.append(plan.model)
    for item in fields(plan):
        value = getattr(plan, item.name)
        if item.name == "model" or (value == item.default and item.name != "gpu"):
            continue
        flag = _FLAGS.get(item.name, f"--{item.name.replace('_', '-')}")
        if value is True:
            words.append(flag)
        elif isinstance(value, tuple):
            words += [flag, ",".join(value)]
        else:
            words += [flag, str(value)]
    return shlex.join(words)
