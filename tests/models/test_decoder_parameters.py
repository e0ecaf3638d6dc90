"""Parameters of decoder-only models are those of transformers, name by name."""

import pytest
from built_models import counted_parameters, real_parameters

from memplan.models.catalogue import read_preset

GEMMA = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 128,
}
CONFIGS = {
    "gemma": {"model_type": "gemma", **GEMMA},
    "gemma-biased": {"model_type": "gemma", **GEMMA, "attention_bias": True},
    "gemma-untied": {"model_type": "gemma", **GEMMA, "tie_word_embeddings": False},
    "gemma-2": {"model_type": "gemma2", **GEMMA},
    "gemma-3": {"model_type": "gemma3_text", **GEMMA, "sliding_window": 4},
}
PRESETS = ("gemma-2b", "gemma-2-9b", "gemma-3-1b")


CONFIGS |= {name: read_preset(name)["config"] for name in PRESETS}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_is_that_of_transformers(name):
    assert counted_parameters(CONFIGS[name]) == real_parameters(CONFIGS[name])


@pytest.mark.parametrize("every", ["full", "every-2", "every-5"])
@pytest.mark.parametrize("name", CONFIGS)
def test_checkpoints_change_no_parameter(name, every):
    plain = counted_parameters(CONFIGS[name])
    checkpointed = counted_parameters(CONFIGS[name], activation_checkpointing=every)
    assert checkpointed == plain
