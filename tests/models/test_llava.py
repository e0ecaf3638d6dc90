"""LLaVA: a frozen tower, a projector, and features in the places of placeholders."""

import json

import pytest
from built_models import counted_parameters, real_parameters

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError, PlanError

CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}
SIGLIP = {**CLIP, "model_type": "siglip_vision_model"}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
}
SMALL = {
    "model_type": "llava",
    "image_token_index": 5,
    "text_config": LLAMA,
    "vision_config": CLIP,
}
PATCHES = 16


@pytest.fixture
def plan(tmp_path):
    def make(changes=None, **options):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**SMALL, **(changes or {})}))
        options = {"seq_len": 64, **options}
        return TrainingPlan(model=str(file), torch="2.14", **options)

    return make


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vision_config": SIGLIP, "vision_feature_select_strategy": "full"},
        {"vision_config": {**SIGLIP, "vision_use_head": False}},
        {"text_config": {**LLAMA, "model_type": "mistral", "num_key_value_heads": 2}},
        {"text_config": {**LLAMA, "model_type": "qwen2", "num_key_value_heads": 2}},
        {"text_config": {**LLAMA, "tie_word_embeddings": True}},
        {"multimodal_projector_bias": False, "vision_feature_layer": -1},
        {"text_config": {"model_type": "llama"}, "vision_config": None},
        {"text_config": {"model_type": "mistral"}},
        {"text_config": {"model_type": "qwen2"}, "vision_config": {"patch_size": 32}},
    ],
    ids=str,
)
def test_every_parameter_is_that_of_transformers(changes):
    config = {**SMALL, **changes}
    assert counted_parameters(config) == real_parameters(config)


def test_a_clip_tower_is_read_without_its_class_token(plan):
    assert estimate(plan(seq_len=PATCHES))
    with pytest.raises(PlanError, match="cannot hold 1 pictures of 16 tokens"):
        estimate(plan(seq_len=PATCHES - 1))
    with pytest.raises(PlanError, match="17 tokens"):
        estimate(plan({"vision_feature_select_strategy": "full"}, seq_len=PATCHES))


def test_pictures_take_places_in_the_prompt(plan):
    with pytest.raises(PlanError, match="cannot hold 5 pictures") as refused:
        estimate(plan(images_per_sample=5))
    assert "--seq-len 80" in refused.value.hint


def test_pictures_have_the_size_of_the_tower(plan):
    with pytest.raises(PlanError, match="64 pixels a side alone"):
        estimate(plan(image_size=80))


def saved(plan):
    """Bytes saved for backward when the loss is computed, step 1."""
    phases = estimate(plan).phases
    return next(p for p in phases if p.phase == "loss").end_allocated_bytes


def test_a_frozen_tower_keeps_no_activations(plan):
    options = {"per_device_train_batch_size": 16, "images_per_sample": 4}
    language = r"^model\.multi_modal_projector,^model\.language_model,^lm_head"
    frozen = saved(plan(trainable=language, **options))
    whole = saved(plan(**options))
    layers = 3 * 4 * 64 * (PATCHES + 1) * 64  # read, each at the least its input
    assert whole - frozen > layers


def test_a_projector_alone_has_the_states_of_two_matrices(plan):
    report = estimate(plan(trainable=r"^model\.multi_modal_projector"))
    assert report.model.trainable_parameters == 64 * 128 + 128 * 128 + 2 * 128


def test_a_projector_below_a_frozen_language_model_keeps_its_activations(plan):
    options = {"per_device_train_batch_size": 16, "precision": "fp32"}
    projector = saved(plan(trainable=r"^model\.multi_modal_projector", **options))
    head = saved(plan(trainable="^lm_head", **options))
    assert projector - head > 3 * 4 * 16 * 64 * 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": {**LLAMA, "model_type": "opt"}}, "language model 'opt'"),
        ({"vision_feature_layer": 5}, "no hidden states 5"),
        ({"vision_feature_layer": [-2, -5]}, "vision_feature_layer"),
        ({"projector_hidden_act": "mish"}, "'mish'"),
        ({"vision_config": {**CLIP, "model_type": "pixtral"}}, "model_type"),
        ({"vision_config": {**CLIP, "num_attention_heads": 5}}, "5 heads"),
        ({"text_config": {**LLAMA, "num_attention_heads": 7}}, "7 heads"),
        ({"text_config": 7}, "wrong"),
    ],
    ids=str,
)
def test_what_is_not_covered_is_refused(plan, changes, message):
    with pytest.raises(ModelConfigError, match=message):
        estimate(plan(changes))
