"""SigLIP: two towers, a pool by attention, and a loss over all pairs of a batch."""

import json

import pytest
from built_models import counted_parameters, real_parameters

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError, PlanError

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}
SMALL = {"model_type": "siglip", "text_config": TEXT, "vision_config": VISION}
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
}


@pytest.fixture
def plan(tmp_path):
    def make(text=None, vision=None, **options):
        config = {
            "model_type": "siglip",
            "text_config": {**TEXT, **(text or {})},
            "vision_config": {**VISION, **(vision or {})},
        }
        file = tmp_path / "config.json"
        file.write_text(json.dumps(config))
        return TrainingPlan(model=str(file), torch="2.14", **options)

    return make


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        {"model_type": "siglip"},
        {
            "model_type": "siglip",
            "text_config": SO400M,
            "vision_config": {**SO400M, "image_size": 384, "patch_size": 14},
        },
    ],
    ids=["small", "base", "so400m"],
)
def test_every_parameter_is_that_of_transformers(config):
    assert counted_parameters(config) == real_parameters(config)


def test_a_picture_has_no_class_token(plan):
    less = estimate(plan()).model.parameters
    more = estimate(plan(vision={"image_size": 80})).model.parameters
    assert more - less == (25 - 16) * 64


def test_a_longer_text_than_64_tokens_is_refused(plan):
    with pytest.raises(PlanError, match="longer than"):
        estimate(plan(seq_len=65))


def test_frozen_vision_keeps_no_activations(plan):
    whole = estimate(plan(per_device_train_batch_size=64))
    text_only = estimate(plan(per_device_train_batch_size=64, trainable="^text_model"))
    saved = whole.components.activations - text_only.components.activations
    assert saved > 3 * 2 * 4 * 64 * 16 * 64


def test_resized_positions_are_no_parameters(plan):
    same, resized = (
        estimate(plan(image_size=size, per_device_train_batch_size=64))
        for size in (64, 80)
    )
    assert resized.model == same.model
    assert resized.components.activations > same.components.activations


@pytest.mark.parametrize(
    ("text", "vision", "message"),
    [
        ({"num_attention_heads": 5}, {}, "text_config is no multiple of 5 heads"),
        ({}, {"hidden_act": "mish"}, "'mish' of vision_config"),
        ({}, {"patch_size": 65}, "has no patch of 65"),
        ({"projection_size": 32}, {}, "Texts of 32 and pictures of 64"),
        ({}, {"vision_use_head": False}, "no head"),
    ],
)
def test_what_cannot_be_built_is_refused(plan, text, vision, message):
    with pytest.raises(ModelConfigError, match=message):
        estimate(plan(text, vision))
