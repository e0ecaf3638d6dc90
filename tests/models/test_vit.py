"""The Vision Transformer: parameters by hand, pictures of any size."""

import json

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError, PlanError

TINY = {
    "model_type": "vit",
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
    "num_labels": 10,
}


@pytest.fixture
def plan(tmp_path):
    def make(config=None, **options):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**TINY, **(config or {})}))
        return TrainingPlan(model=str(file), gpu="a100-80gb", torch="2.14", **options)

    return make


def test_parameters_are_patches_positions_layers_and_head(plan):
    D, F, N = 64, 256, 16
    patches = D * 3 * 16 * 16 + D
    tokens = D + (N + 1) * D
    layer = 4 * (D * D + D) + (D * F + F) + (F * D + D) + 2 * 2 * D
    head = D * 10 + 10
    total = patches + tokens + 2 * layer + 2 * D + head
    assert estimate(plan()).model.parameters == total


def test_query_key_and_value_can_go_without_bias(plan):
    whole = estimate(plan()).model.parameters
    without = estimate(plan({"qkv_bias": False})).model.parameters
    assert whole - without == 2 * 3 * 64


def test_a_larger_picture_keeps_the_parameters_and_takes_more(plan):
    usual, larger = estimate(plan()), estimate(plan(image_size=128))
    assert larger.model.parameters == usual.model.parameters
    assert larger.peak.allocated_bytes > usual.peak.allocated_bytes


def test_the_size_the_model_has_is_the_default(plan):
    assert estimate(plan()).peak == estimate(plan(image_size=64)).peak


def test_pictures_and_labels_lie_on_the_device(plan):
    one, two = (
        estimate(plan(per_device_train_batch_size=n, optim="sgd")) for n in (1, 2)
    )
    picture = 4 * 3 * 64 * 64
    more = [b.end_allocated_bytes - a.end_allocated_bytes for a, b in _ends(one, two)]
    assert more == [pytest.approx(picture, abs=512)]


def _ends(one, two):
    """The backward phase of the second step, in both: batch and gradients are left."""
    return [
        (a, b)
        for a, b in zip(one.phases, two.phases, strict=True)
        if (a.step, a.phase) == (2, "backward")
    ]


def test_a_picture_smaller_than_a_patch_is_refused(plan):
    with pytest.raises(PlanError, match="8 x 8 pixels have no patch of 16 x 16"):
        estimate(plan(image_size=8))


def test_tokens_and_targets_are_refused(plan):
    with pytest.raises(PlanError, match="takes no target tokens"):
        estimate(plan(target_seq_len=16))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_attention_heads": 3}, "no multiple of 3 heads"),
        ({"hidden_act": "mish"}, "'mish' is not covered"),
        ({"patch_size": 128}, "has no patch"),
        ({"architectures": ["ViTForMaskedImageModeling"]}, "is not covered"),
        ({"problem_type": "multi_label_classification"}, "several labels"),
    ],
)
def test_what_cannot_be_built_is_refused(plan, config, message):
    with pytest.raises(ModelConfigError, match=message):
        estimate(plan(config))


def test_a_bare_vit_model_is_fine_tuned_as_a_classifier(plan):
    assert (
        estimate(plan({"architectures": ["ViTModel"]})).model == estimate(plan()).model
    )


def test_only_the_head_trains_where_the_plan_says_so():
    plan = TrainingPlan(model="vit-base-patch16-224", trainable="head", torch="2.14")
    assert estimate(plan).model.trainable_parameters == 768 * 1000 + 1000
