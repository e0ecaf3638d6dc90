"""Fewer pictures in a sample, and smaller ones."""

from collections.abc import Callable

from memplan.estimating.changes import Fields
from memplan.formulas.setting import Batch
from memplan.models import find_model
from memplan.models.batch import batch_of
from memplan.plan import TrainingPlan
from memplan.tricks.trick import Trick

LEAST_SIDE = 32
MULTIPLE = 28
"""Halves of the usual sizes (224, 336, 448) that patches of 14 and 28 divide."""
PIXELS = "transformers documentation, Qwen2-VL: min_pixels and max_pixels"


def _of_pictures(
    change: Callable[[Batch], Fields | str],
) -> Callable[[TrainingPlan], Fields | str]:
    """A change of what the micro-batch holds, where it holds pictures."""

    def changes(plan: TrainingPlan) -> Fields | str:
        if plan.model is None:
            return "a parameter count takes no images"
        model = find_model(plan.model, plan.revision)
        if "images" not in model.family.inputs:
            return "the model takes no images"
        if plan.workload == "mme":
            return "MME's questions have one image each"
        return change(batch_of(plan, model))

    return changes


def _fewer(batch: Batch) -> Fields | str:
    if batch.images_per_sample == 1:
        return "a sample has one image"
    return {"images_per_sample": batch.images_per_sample // 2}


def _one(batch: Batch) -> Fields | str:
    if batch.images_per_sample == 1:
        return "a sample has one image"
    return {"images_per_sample": 1}


def _smaller(batch: Batch) -> Fields | str:
    half = batch.image_size // 2
    side = half // MULTIPLE * MULTIPLE or half
    if side < LEAST_SIDE:
        return f"images have {batch.image_size} pixels a side"
    return {"image_size": side}


TRICKS = (
    Trick(
        name="images-half",
        title="half the images a sample",
        technique="images",
        exactness="different model",
        cost="The model sees less of each sample.",
        source="the samples' own: Flamingo kept 5 of a page (arXiv 2204.14198)",
        changes=_of_pictures(_fewer),
        suits_generation=True,
    ),
    Trick(
        name="images-1",
        title="one image a sample",
        technique="images",
        exactness="different model",
        cost="The model sees one picture at a time, and learns nothing between them.",
        source="the samples' own: pairs of image and text (arXiv 2204.14198)",
        changes=_of_pictures(_one),
        suits_generation=True,
    ),
    Trick(
        name="images-small",
        title="images of half the side",
        technique="images",
        exactness="different model",
        cost="A quarter of the pixels: small print and small things are lost.",
        source=PIXELS,
        changes=_of_pictures(_smaller),
        suits_generation=True,
    ),
)
