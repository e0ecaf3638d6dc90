"""Phi-1, Phi-1.5 and Phi-2."""

from memplan.models.family import Family
from memplan.models.phi.config import PhiConfig, check
from memplan.models.phi.formula import forward

FAMILY = Family(
    name="phi",
    config_class=PhiConfig,
    forward=forward,
    inputs=("tokens",),
    max_seq_len=lambda config: config.max_position_embeddings,
    kv_bytes_per_token=lambda config, item_bytes: (
        2 * config.num_hidden_layers * config.kv_heads * config.head_size * item_bytes
    ),
    lora_targets=("q_proj", "v_proj", "fc1", "fc2"),
    check=check,
)
