"""Parts that are not trained, and what they are stored in.

Which parts can be left out of training is the model's own matter: each named set of its
preset that trains less than the plan does is a trick, `train-<set>`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from memplan.errors import MemplanError
from memplan.estimate import estimate
from memplan.estimating.changes import Fields
from memplan.formulas.weights import STORED_DTYPE
from memplan.models import Model, find_model
from memplan.models.trainable import trainable_patterns
from memplan.plan import TrainingPlan
from memplan.tricks.trick import ALREADY, Trick

LOW_BITS = ("bf16", "fp16")
NO_SETS = "frozen-towers"


def tricks_of(plan: TrainingPlan) -> tuple[Trick, ...]:
    """Those of the plan's model."""
    if plan.model is None:
        return (FROZEN_BASE,)
    model = find_model(plan.model, plan.revision)
    sets = tuple(_trained_set(name, model) for name in model.trainable_sets)
    return (*(sets or (_WITHOUT_SETS,)), FROZEN_BASE)


def _trained_set(name: str, model: Model) -> Trick:
    return Trick(
        name=f"train-{name}",
        title=f"train {name.replace('_', ' ')} alone",
        technique="frozen parts",
        exactness="different model",
        cost="The rest stays as it was before: it learns nothing of the new data.",
        source=f"the set {name} of the preset {model.name}",
        changes=_trains(name, model),
    )


def _trains(name: str, model: Model) -> Callable[[TrainingPlan], Fields | str]:
    def changes(plan: TrainingPlan) -> Fields | str:
        trained = plan.trainable
        if trained == name or (
            trained == "default" and model.default_trainable == name
        ):
            return ALREADY
        change: Fields = {"trainable": name, "lora_targets": ()}
        now, then = _num_trained(plan), _num_trained(replace(plan, **change))
        if now is not None and then is not None and then >= now:
            return "it trains no less than the plan does"
        return change

    return changes


@lru_cache(maxsize=256)  # each step of a comparison asks again
def _num_trained(plan: TrainingPlan) -> int | None:
    """Parameters that a plan trains; None where it has no estimate."""
    try:
        return estimate(plan).model.trainable_parameters
    except MemplanError:
        return None


def _base_in_bf16(plan: TrainingPlan) -> Fields | str:
    if plan.model is None:
        return "a parameter count has no frozen parts"
    model = find_model(plan.model, plan.revision)
    if trainable_patterns(plan, model) == ("",):
        return "nothing is frozen"
    stored = plan.frozen_dtype or model.frozen_dtype or STORED_DTYPE[plan.precision]
    return ALREADY if stored in LOW_BITS else {"frozen_dtype": "bf16"}


FROZEN_BASE = Trick(
    name="frozen-bf16",
    title="frozen parts in bf16",
    technique="frozen parts",
    exactness="rounding",
    cost="None under autocast, which casts them for products anyway; sums and norms "
    "see rounded weights.",
    source="Alayrac et al., arXiv 2204.14198: frozen parameters are stored and applied "
    "in bf16",
    changes=_base_in_bf16,
)
_WITHOUT_SETS = Trick(
    name=NO_SETS,
    title="train parts alone",
    technique="frozen parts",
    exactness="different model",
    cost="The rest stays as it was before: it learns nothing of the new data.",
    source="docs/tricks.md: --trainable takes regular expressions of parameter names",
    changes=lambda plan: (
        "the model has no named sets of parts: --trainable takes regular expressions"
    ),
)
