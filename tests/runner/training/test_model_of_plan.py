"""The model that is trained is the one whose parameters the estimate counts."""

import json

import pytest

from memplan import TrainingPlan, estimate
from memplan.models import find_model
from memplan.models.catalogue import preset_names, read_preset

torch = pytest.importorskip("torch", reason="building a model needs torch")
pytest.importorskip("transformers", reason="the models are those of transformers")

from memplan.runner.training.model import build_config, build_model, set_ties  # noqa: E402
from memplan.runner.training.refusals import has_scalars  # noqa: E402
from memplan.runner.training.trainable import add_adapters  # noqa: E402


def on_meta(model):
    with torch.device("meta"):
        built = build_model(model, torch.float32, None)
    set_ties(model, built)
    return built


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_built_with_the_parameters_it_states(name):
    model = find_model(name)
    built = on_meta(model)
    expected = read_preset(name)["parameters"]["total"]
    assert sum(p.numel() for p in built.parameters()) == expected
    assert has_scalars(model) == any(p.dim() == 0 for p in built.parameters())


@pytest.mark.parametrize("name", ["openflamingo-tiny", "flamingo-tiny"])
def test_a_familys_own_targets_may_be_of_other_models_of_it(name):
    plan = TrainingPlan(model=name, trainable="lora", lora_rank=4)
    model = find_model(name)
    adapted = add_adapters(plan, model, on_meta(model))
    trained = [p for p in adapted.parameters() if p.requires_grad]
    size = estimate(plan).model
    assert sum(p.numel() for p in trained) == size.trainable_parameters > 0


def test_a_config_json_is_read_by_the_library_itself(tmp_path):
    file = tmp_path / "config.json"
    fields = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "rope_theta": 1e6,
    }
    file.write_text(json.dumps(fields))
    config = build_config(find_model(str(file)))
    assert config.rope_parameters["rope_theta"] == 1e6
    assert not config.use_cache


@pytest.mark.parametrize(
    ("model_type", "key"),
    [("mistral", "sliding_window"), ("gemma2", "final_logit_softcapping")],
)
def test_a_null_switches_off_what_it_says(tmp_path, model_type, key):
    file = tmp_path / "config.json"
    fields = {
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 100,
        "pad_token_id": None,
        key: None,
    }
    file.write_text(json.dumps(fields))
    assert getattr(build_config(find_model(str(file))), key) is None


def test_bert_is_built_as_the_class_its_config_names(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps(
            {
                "model_type": "bert",
                "num_hidden_layers": 1,
                "architectures": ["BertForSequenceClassification"],
                "num_labels": 5,
            }
        )
    )
    built = on_meta(find_model(str(file)))
    assert type(built).__name__ == "BertForSequenceClassification"
    assert built.classifier.out_features == 5


def test_a_model_in_a_dtype_has_its_weights_in_it():
    with torch.device("meta"):
        built = build_model(find_model("gpt2"), torch.bfloat16, None)
    assert {p.dtype for p in built.parameters()} == {torch.bfloat16}
