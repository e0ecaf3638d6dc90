"""A few trained matrices beside a base that rests, in few bits if need be."""

from collections.abc import Callable

from memplan.estimating.changes import Fields
from memplan.models import find_model
from memplan.models.trainable import trainable_patterns
from memplan.plan import TrainingPlan
from memplan.tricks.trick import Trick

NO_MODEL = "a parameter count has no layers"


def _lora(plan: TrainingPlan) -> Fields | str:
    """PEFT has defaults for some architectures; others want their layers named."""
    if plan.model is None:
        return NO_MODEL
    family = find_model(plan.model, plan.revision).family
    if plan.trainable != "lora" and not family.lora_targets:
        return "PEFT has no default layers for it: --lora-targets names some"
    return {"trainable": "lora"}


def _stored_in(bits: str) -> Callable[[TrainingPlan], Fields | str]:
    """The frozen base in few bits; where nothing is frozen yet, with LoRA."""

    def changes(plan: TrainingPlan) -> Fields | str:
        if plan.model is None:
            return NO_MODEL
        model = find_model(plan.model, plan.revision)
        if plan.generates or trainable_patterns(plan, model) != ("",):
            return {"quantization": bits}
        adapters = _lora(plan)
        if isinstance(adapters, str):
            return adapters
        return {**adapters, "quantization": bits}

    return changes


TRICKS = (
    Trick(
        name="lora",
        title="LoRA",
        technique="LoRA and quantization",
        exactness="different model",
        cost="Only adapters of a low rank are trained.",
        source="Hu et al., arXiv 2106.09685; peft/tuners/lora",
        changes=_lora,
    ),
    Trick(
        name="nf4",
        title="base in nf4",
        technique="LoRA and quantization",
        exactness="different model",
        cost="The frozen base is rounded to 16 values a block, and unpacked for each "
        "use.",
        source="Dettmers et al., arXiv 2305.14314; bitsandbytes/nn/modules.py",
        changes=_stored_in("nf4"),
        suits_generation=True,
    ),
    Trick(
        name="int8",
        title="base in int8",
        technique="LoRA and quantization",
        exactness="different model",
        cost="The frozen base is rounded to 8 bits; products with outliers are made "
        "apart.",
        source="Dettmers et al., arXiv 2208.07339; bitsandbytes/nn/modules.py",
        changes=_stored_in("int8"),
        suits_generation=True,
    ),
)
