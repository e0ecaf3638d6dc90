"""CLIP: two towers, two projections, and a loss over all pairs of a batch."""

import json

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError, PlanError

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "max_position_embeddings": 77,
}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}


@pytest.fixture
def plan(tmp_path):
    def make(text=None, vision=None, **options):
        config = {
            "model_type": "clip",
            "projection_dim": 48,
            "text_config": {**TEXT, **(text or {})},
            "vision_config": {**VISION, **(vision or {})},
        }
        file = tmp_path / "config.json"
        file.write_text(json.dumps(config))
        return TrainingPlan(model=str(file), torch="2.14", **options)

    return make


def layer(D, F):
    return 4 * (D * D + D) + (D * F + F) + (F * D + D) + 2 * 2 * D


def test_parameters_are_both_towers_both_projections_and_the_scale(plan):
    text = (1000 + 77) * 32 + 2 * layer(32, 128) + 2 * 32
    vision = 64 * 3 * 16 * 16 + 64 + 17 * 64 + 3 * layer(64, 256) + 2 * 2 * 64
    total = text + vision + 32 * 48 + 64 * 48 + 1
    assert estimate(plan()).model.parameters == total


def test_the_default_sequence_is_the_longest_that_the_text_tower_takes(plan):
    assert estimate(plan()).peak == estimate(plan(seq_len=77)).peak


def test_a_longer_text_than_77_tokens_is_refused(plan):
    with pytest.raises(PlanError, match="longer than"):
        estimate(plan(seq_len=78))


def test_frozen_vision_keeps_no_activations(plan):
    whole = estimate(plan(per_device_train_batch_size=64))
    text_only = estimate(
        plan(per_device_train_batch_size=64, trainable="^text_,^logit_scale")
    )
    patches = 64 * 17 * 64
    # At the least, a frozen tower of 3 layers saves no norm inputs in fp32 any more.
    saved = whole.components.activations - text_only.components.activations
    assert saved > 3 * 2 * 4 * patches


def test_the_default_size_of_a_clip_is_openais_base_model(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "clip"}))
    plan = TrainingPlan(model=str(file), torch="2.14")
    assert estimate(plan).model.parameters == 151_277_313


@pytest.mark.parametrize(
    ("text", "vision", "message"),
    [
        ({"num_attention_heads": 5}, {}, "text_config is no multiple of 5 heads"),
        ({}, {"hidden_act": "mish"}, "'mish' of vision_config"),
        ({}, {"patch_size": 65}, "has no patch of 65"),
    ],
)
def test_what_cannot_be_built_is_refused(plan, text, vision, message):
    with pytest.raises(ModelConfigError, match=message):
        estimate(plan(text, vision))


def test_resized_positions_are_an_embedding_to_the_optimizer(plan):
    # An embedding keeps both moments in fp32, however its table is used.
    vision = {"hidden_size": 256, "num_attention_heads": 4}
    same, resized = (
        estimate(plan(vision=vision, optim="adamw_8bit", image_size=size))
        for size in (64, 80)
    )
    assert 17 * 256 > 4096
    assert resized.components.optimizer_states == same.components.optimizer_states
