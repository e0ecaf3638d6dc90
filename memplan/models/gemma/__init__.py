"""Gemma, Gemma 2, and the language model of Gemma 3."""

from memplan.models.family import Family
from memplan.models.gemma.config import GemmaConfig, check
from memplan.models.gemma.formula import forward

FAMILY = Family(
    name="gemma",
    config_class=GemmaConfig,
    forward=forward,
    inputs=("tokens",),
    max_seq_len=lambda config: config.max_position_embeddings,
    kv_bytes_per_token=lambda config, item_bytes: (
        2
        * config.num_hidden_layers
        * config.num_key_value_heads
        * config.head_dim
        * item_bytes
    ),
    lora_targets=("q_proj", "v_proj"),
    check=check,
)
