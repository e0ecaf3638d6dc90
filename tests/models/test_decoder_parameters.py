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
LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "vocab_size": 32064,
}
NEOX = {"model_type": "gpt_neox", **LLAMA}
OPT = {
    "model_type": "opt",
    "hidden_size": 64,
    "ffn_dim": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "vocab_size": 128,
}
MPT = {"model_type": "mpt", "d_model": 64, "n_heads": 4, "n_layers": 8}
CONFIGS = {
    "gemma": {"model_type": "gemma", **GEMMA},
    "gemma-biased": {"model_type": "gemma", **GEMMA, "attention_bias": True},
    "gemma-untied": {"model_type": "gemma", **GEMMA, "tie_word_embeddings": False},
    "gemma-2": {"model_type": "gemma2", **GEMMA},
    "gemma-3": {"model_type": "gemma3_text", **GEMMA, "sliding_window": 4},
    "phi": {"model_type": "phi", **LLAMA},
    "phi-grouped": {"model_type": "phi", **LLAMA, "num_key_value_heads": 2},
    "phi-3": {"model_type": "phi3", **LLAMA},
    "phi-3-grouped": {"model_type": "phi3", **LLAMA, "num_key_value_heads": 2},
    "neox": NEOX,
    "neox-tied": {**NEOX, "tie_word_embeddings": True, "attention_bias": False},
    "neox-serial": {**NEOX, "use_parallel_residual": False, "rotary_pct": 1.0},
    "opt": OPT,
    "opt-projected": {**OPT, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
    "opt-plain": {**OPT, "enable_bias": False, "layer_norm_elementwise_affine": False},
    "mpt": {**MPT, "vocab_size": 128},
    "mpt-untied": {**MPT, "vocab_size": 128, "tie_word_embeddings": False},
}
PRESETS = (
    "gemma-2b",
    "gemma-2-9b",
    "gemma-3-1b",
    "gpt-neox-20b",
    "mpt-7b",
    "opt-1.3b",
    "opt-350m",
    "phi-2",
    "phi-3-medium-4k",
    "phi-3-mini-4k",
    "pythia-1.4b",
)


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
