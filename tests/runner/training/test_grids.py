"""What is told of a model from the host is what it would compute itself."""

from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from memplan import TrainingPlan
from memplan.errors import PlanError
from memplan.models import model_of_config
from memplan.runner.training.batch import make_batch
from memplan.runner.training.grids import tell_grids
from memplan.runner.training.model import build_model
from memplan.runner.training.parallel import name_units

LANGUAGE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "image_token_id": 5,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
}
QWEN2_VL = {
    "model_type": "qwen2_vl",
    **LANGUAGE,
    "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 4},
}
QWEN2_5_VL = {
    "model_type": "qwen2_5_vl",
    **LANGUAGE,
    "vision_config": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 64,
        "num_heads": 4,
        "fullatt_block_indexes": [1],
    },
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
SIGLIP = {
    "model_type": "siglip",
    "text_config": {**TOWER, "vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1},
    "vision_config": {**TOWER, "image_size": 32},
}


def built(config):
    model = model_of_config("small", config, "a test")
    return model, build_model(model, torch.float32, None)


@pytest.mark.parametrize("config", [QWEN2_VL, QWEN2_5_VL], ids=["2", "2.5"])
def test_a_model_that_is_told_its_grids_computes_the_same(one_thread, config):
    torch.manual_seed(0)
    model, module = built(config)
    plan = TrainingPlan(
        model="small",
        per_device_train_batch_size=2,
        seq_len=80,
        images_per_sample=2,
        image_size=168,  # a window and a half on each side
    )
    batch = make_batch(plan, model, module, torch.float32)
    alone = module(**batch).loss
    tell_grids(module, batch)
    assert torch.equal(module(**batch).loss, alone)


def units_of(module):
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=SimpleNamespace()))
    name_units(accelerator, module)
    return accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap


def test_the_input_embeddings_are_in_no_unit_of_layers():
    names = units_of(built(SIGLIP)[1])
    assert "SiglipEncoderLayer" in names
    assert "SiglipTextEmbeddings" not in names


def test_units_are_of_parts_that_are_there():
    llava = {
        "model_type": "llava",
        "vision_config": {**TOWER, "model_type": "clip_vision_model", "patch_size": 32},
        "text_config": {**TOWER, "model_type": "llama", "vocab_size": 100},
    }
    names = units_of(built(llava)[1])
    assert names == ["CLIPEncoderLayer", "CLIPVisionEmbeddings", "LlamaDecoderLayer"]


def test_a_model_that_names_no_embeddings_is_refused():
    clip = {"model_type": "clip", "text_config": TOWER, "vision_config": TOWER}
    with pytest.raises(PlanError, match="CLIPModel does not name them"):
        units_of(built(clip)[1])
