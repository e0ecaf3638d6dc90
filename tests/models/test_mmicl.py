"""MMICL: what each published stage trains, and what its pictures cost."""

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import PlanError
from memplan.formulas.tape import Tape
from memplan.formulas.weights import Storing
from memplan.models import find_model
from memplan.models.batch import batch_of
from memplan.models.mmicl.formula import batch_bytes

# Counted on the released code (model/utils.py, get_model), XL and XXL.
STAGES = [
    ("stage-1", 187_258_880, 188_833_792),
    ("stage-2-released-code", 202_901_504, 808_456_192),
    ("stage-2-qv", 404_228_096, 1_613_762_560),
    ("stage-2-cross-qv", 605_554_688, 2_419_068_928),
]
TEXT_BRANCH = 12 * (2 * 768 * 3072 + 3072 + 768 + 2 * 768) + (30522 + 512) * 768
"""Parameters of the Q-Former that read an instruction, which MMICL gives none."""


def mmicl(size="xl", **options):
    fields = {"precision": "bf16-pure", "torch": "2.14", **options}
    return TrainingPlan(model=f"mmicl-flan-t5-{size}", **fields)


@pytest.mark.parametrize(("stage", "xl", "xxl"), STAGES)
def test_a_stage_trains_what_was_counted_for_it(stage, xl, xxl):
    for size, counted in (("xl", xl), ("xxl", xxl)):
        report = estimate(mmicl(size, trainable=stage))
        assert report.model.trainable_parameters == counted


@pytest.mark.parametrize(
    ("size", "total"), [("xl", 4_022_968_320), ("xxl", 12_310_118_400)]
)
def test_the_backbone_is_instructblips(size, total):
    assert estimate(mmicl(size)).model.parameters == total


def test_the_papers_query_and_value_train_by_default():
    model = estimate(mmicl(trainable="stage-2-qv")).model
    assert estimate(mmicl()).model == model


def test_the_released_code_trains_half_of_what_the_paper_says():
    """Query of 48 layers; the projection is trained in both."""
    projection = 768 * 2048 + 2048
    paper = estimate(mmicl(trainable="stage-2-qv")).model.trainable_parameters
    released = estimate(mmicl(trainable="stage-2-released-code")).model
    assert released.trainable_parameters - projection == (paper - projection) // 2


def test_weights_that_no_instruction_passes_get_no_adam_states():
    report = estimate(mmicl(trainable="stage-1"))
    trained = report.model.trainable_parameters - TEXT_BRANCH
    assert report.components.optimizer_states == 2 * 2 * trained


def test_pictures_are_padded_tensors_of_bf16_beside_int64_tokens_and_masks():
    plan = mmicl(per_device_train_batch_size=3)
    model = find_model(plan.model)
    pixels = 2 * 3 * 8 * 3 * 224 * 224
    tokens = 8 * 3 * (512 + 512 + 128)
    assert (
        batch_bytes(model.config, batch_of(plan, model)) == pixels + tokens + 8 * 3 * 8
    )


def test_sixteen_pictures_fill_a_prompt_of_512_tokens():
    estimate(mmicl(images_per_sample=16, seq_len=512))
    with pytest.raises(PlanError, match="cannot hold 17 pictures of 32 tokens"):
        estimate(mmicl(images_per_sample=17, seq_len=512))


def test_of_another_picture_live_pixels_patches_and_queries():
    """The towers are frozen: in bf16 live what they return, until the loss is kept."""
    few = estimate(mmicl(images_per_sample=4)).peak.requested_bytes
    many = estimate(mmicl(images_per_sample=12)).peak.requested_bytes
    pixels = 2 * 3 * 224 * 224 + 8
    patches = 2 * (257 + 1) * 1408
    queries = 2 * 32 * (768 + 2048)
    assert (many - few) / 8 == pytest.approx(pixels + patches + queries, rel=0.01)


def test_the_tiny_one_has_the_same_modules_as_the_whole_one():
    tiny, whole = (
        parameter_names(find_model(name)) for name in ("mmicl-tiny", "mmicl-flan-t5-xl")
    )
    assert tiny == whole


def parameter_names(model):
    policy = Storing(dtype="bf16", trainable=("",), frozen_dtype="bf16")
    tape = Tape(policy=policy)
    plan = TrainingPlan(model=model.name, torch="2.14")
    model.family.forward(tape, model.config, batch_of(plan, model))
    return list(tape.parameters)
