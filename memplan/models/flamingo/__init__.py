"""Flamingo and OpenFlamingo: pictures between the layers of a frozen language model."""

from memplan.models.family import Family
from memplan.models.flamingo.config import FlamingoConfig, check
from memplan.models.flamingo.formula import batch_bytes, forward

FAMILY = Family(
    name="flamingo",
    config_class=FlamingoConfig,
    forward=forward,
    inputs=("tokens", "images"),
    max_seq_len=lambda config: config.text_config.max_position_embeddings,
    kv_bytes_per_token=lambda config, item_bytes: (
        2
        * config.text_config.num_hidden_layers
        * config.text_config.hidden_size
        * item_bytes
    ),
    # Heads stay whole, and int8 takes no [B, T, N, D], which the resampler reads.
    never_quantized=("embed_out", "lm_head", "perceiver"),
    lora_targets=("Wqkv", "query_key_value", "query", "value"),
    default_image_size=lambda config: config.image_size,
    check=check,
    batch_bytes=batch_bytes,
)
