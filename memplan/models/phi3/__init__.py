"""Phi-3, Phi-3.5 and Phi-4: the dense language models."""

from memplan.models.family import Family
from memplan.models.phi3.config import Phi3Config, check
from memplan.models.phi3.formula import forward

FAMILY = Family(
    name="phi3",
    config_class=Phi3Config,
    forward=forward,
    inputs=("tokens",),
    max_seq_len=lambda config: config.max_position_embeddings,
    kv_bytes_per_token=lambda config, item_bytes: (
        2 * config.num_hidden_layers * config.kv_heads * config.head_size * item_bytes
    ),
    lora_targets=("qkv_proj", "o_proj"),  # PEFT has no default for it
    check=check,
)
