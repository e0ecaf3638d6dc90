"""The same function, written so that it takes less."""

from memplan.estimating.changes import Fields
from memplan.models import find_model
from memplan.plan import TrainingPlan
from memplan.tricks.trick import ALREADY, Trick

PUBLISHED, REWRITTEN = "pe-net-vg150", "pe-net-algebraic"


def _distance(plan: TrainingPlan) -> Fields | str:
    """Presets alone are named here: a configuration of one's own says it itself."""
    if plan.model is None:
        return "it is for PE-Net"
    model = find_model(plan.model, plan.revision)
    if model.family.name != "pe_net":
        return "it is for PE-Net"
    if model.config.distance == "algebraic":
        return ALREADY
    if plan.model != PUBLISHED:
        return 'distance = "algebraic" in its configuration does it'
    return {"model": REWRITTEN}


TRICKS = (
    Trick(
        name="pe-net-distance",
        title="PE-Net's distance rewritten",
        technique="model",
        exactness="rounding",
        cost="None: |r|^2 - 2 r.c + |c|^2 is faster too; in fp32, as published.",
        source="docs/pe-net.md; roi_relation_predictors.py of VL-Group/PENET has "
        "|r - c|^2",
        changes=_distance,
        suits_generation=True,
    ),
)
