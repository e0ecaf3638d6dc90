"""Qwen2-VL and Qwen2.5-VL: towers over pictures of any size, and a Qwen2."""

import json

import pytest
from built_models import counted_parameters, real_parameters

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError, PlanError
from memplan.models import model_of_config
from memplan.models.qwen_vl.vision import window_lengths

LANGUAGE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
}
OLD = {
    "model_type": "qwen2_vl",
    "image_token_id": 5,
    **LANGUAGE,
    "vision_config": {
        "depth": 4,
        "embed_dim": 64,
        "hidden_size": 128,
        "num_heads": 4,
    },
}
NEW = {
    "model_type": "qwen2_5_vl",
    "image_token_id": 5,
    **LANGUAGE,
    "vision_config": {
        "depth": 4,
        "hidden_size": 64,
        "intermediate_size": 96,
        "out_hidden_size": 128,
        "num_heads": 4,
        "fullatt_block_indexes": [1, 3],
    },
}


@pytest.fixture
def plan(tmp_path):
    def make(config, **options):
        file = tmp_path / "config.json"
        file.write_text(json.dumps(config))
        options = {"seq_len": 1024, **options}
        return TrainingPlan(model=str(file), torch="2.14", **options)

    return make


def nested(config):
    """The same with the language model's fields in a text_config."""
    rest = {key: value for key, value in config.items() if key not in LANGUAGE}
    return {**rest, "text_config": LANGUAGE}


@pytest.mark.parametrize(
    "config",
    [
        OLD,
        NEW,
        nested(NEW),
        {**OLD, "tie_word_embeddings": True},
        {**nested(OLD), "tie_word_embeddings": True},
        {**NEW, "vision_config": {**NEW["vision_config"], "depth": 5}},
    ],
    ids=str,
)
def test_every_parameter_is_that_of_transformers(config):
    fields = {"seq_len": 1024}
    assert counted_parameters(config, **fields) == real_parameters(config)


def test_a_flat_configuration_is_that_with_a_text_config(plan):
    assert estimate(plan(NEW)).peak == estimate(plan(nested(NEW))).peak


def test_a_picture_takes_a_place_for_each_28_by_28_pixels(plan):
    assert estimate(plan(OLD, image_size=280, seq_len=100))
    with pytest.raises(PlanError, match="1 pictures of 100 tokens"):
        estimate(plan(OLD, image_size=280, seq_len=99))


@pytest.mark.parametrize(("size", "nearest"), [(300, 308), (20, 28), (290, 280)])
def test_a_size_that_the_processor_would_change_is_refused(plan, size, nearest):
    with pytest.raises(PlanError, match="no multiple of the 28") as refused:
        estimate(plan(NEW, image_size=size))
    assert f"--image-size {nearest}" in refused.value.hint


@pytest.mark.parametrize(
    ("grid", "lengths"),
    [
        (8, (64,)),
        (16, (64,) * 4),
        (10, (64, 16, 16, 4)),
        (2, (4,)),
    ],
)
def test_windows_tile_a_picture(grid, lengths):
    """Of 112 pixels a side; what is left over at an edge is a smaller one."""
    config = model_of_config("new", NEW, "a test").config
    assert window_lengths(config, grid) == lengths
    assert sum(lengths) == grid**2


def saved(plan):
    """Bytes saved for backward when the loss is computed, step 1."""
    phases = estimate(plan).phases
    return next(p for p in phases if p.phase == "loss").end_allocated_bytes


def test_windows_save_fewer_scores_than_pictures(plan):
    """Where attention is eager: each layer saves scores of its windows alone."""
    everywhere = {**NEW["vision_config"], "fullatt_block_indexes": [0, 1, 2, 3]}
    options = {"image_size": 448, "attn_implementation": "eager", "precision": "fp32"}
    less = saved(plan(NEW, **options))
    more = saved(plan({**NEW, "vision_config": everywhere}, **options))
    num_patches = 32**2
    assert more - less >= 2 * 4 * 4 * (num_patches**2 - num_patches * 64)


def test_every_sample_is_rotated_by_its_own_angles(plan):
    """Where pictures stand in it: tables of one sample more for one more sample."""
    sizes = [
        saved(plan(OLD, per_device_train_batch_size=size, trainable="^model.language"))
        for size in (2, 3, 4)
    ]
    assert sizes[2] - sizes[1] == pytest.approx(sizes[1] - sizes[0], rel=0.02)


def test_a_frozen_tower_keeps_no_activations(plan):
    options = {"per_device_train_batch_size": 4, "image_size": 448}
    whole = saved(plan(OLD, **options))
    frozen = saved(plan(OLD, trainable="^model.language_model,^lm_head", **options))
    num_patches = 4 * 32**2
    assert whole - frozen > 4 * 2 * 4 * num_patches * 64


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**OLD, "num_attention_heads": 7}, "7 heads"),
        ({**OLD, "vision_config": {**OLD["vision_config"], "num_heads": 3}}, "3 heads"),
        ({**NEW, "hidden_size": 64}, "returns 128"),
        (
            {**NEW, "vision_config": {**NEW["vision_config"], "hidden_act": "mish"}},
            "'mish'",
        ),
        (
            {**NEW, "vision_config": {**NEW["vision_config"], "window_size": 20}},
            "window of 20",
        ),
        ({**NEW, "text_config": 7}, "wrong"),
    ],
    ids=str,
)
def test_what_is_not_covered_is_refused(plan, config, message):
    with pytest.raises(ModelConfigError, match=message):
        estimate(plan(config))
