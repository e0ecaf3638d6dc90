"""Llama, Mistral, Qwen2 and Qwen3."""

from memplan.models.family import Family
from memplan.models.llama.config import LlamaConfig, check, divide
from memplan.models.llama.formula import forward

FAMILY = Family(
    name="llama",
    config_class=LlamaConfig,
    forward=forward,
    inputs=("tokens",),
    max_seq_len=lambda config: config.max_position_embeddings,
    kv_bytes_per_token=lambda config, item_bytes: (
        2 * config.num_hidden_layers * config.kv_heads * config.head_size * item_bytes
    ),
    lora_targets=("q_proj", "v_proj"),
    check=check,
    divide=divide,
)
