"""Which parameters a plan trains: the same for every engine."""

import re

from memplan.errors import PlanError
from memplan.models.catalogue import Model
from memplan.plan import TrainingPlan


def trainable_patterns(plan: TrainingPlan, model: Model) -> tuple[str, ...]:
    """Regular expressions of the parameters that train; LoRA's adapters do besides.

    Raises:
        PlanError: what trains cannot be read, or cannot train.
    """
    name = model.default_trainable if plan.trainable == "default" else plan.trainable
    if plan.generates or name == "lora":
        return ()
    if name == "all" and plan.quantization != "none":
        raise PlanError(
            f"Weights stored in {plan.quantization} cannot be trained.",
            hint="Add --trainable lora.",
        )
    if name == "all":
        return ("",)
    if name in model.trainable_sets:
        return tuple(model.trainable_sets[name])
    patterns = tuple(part.strip() for part in name.split(",") if part.strip())
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise PlanError(
                f"{pattern!r} is neither a trainable set of {model.name} nor a regular "
                f"expression: {error}.",
                hint=_known_sets(model),
            ) from error
    return patterns


def _known_sets(model: Model) -> str:
    names = ["all", "lora", *model.trainable_sets]
    return f"Known sets: {', '.join(names)}."
