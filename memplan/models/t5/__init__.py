"""T5 and FLAN-T5, version 1.0 and 1.1."""

from memplan.models.family import Family
from memplan.models.t5.config import T5Config, check
from memplan.models.t5.formula import batch_bytes, forward

FAMILY = Family(
    name="t5",
    config_class=T5Config,
    forward=forward,
    inputs=("tokens", "target_tokens"),
    max_seq_len=lambda config: None,  # relative positions have no last one
    kv_bytes_per_token=lambda config, item_bytes: (
        2 * config.decoder_layers * config.inner_size * item_bytes
    ),
    never_quantized=("lm_head", "wo"),
    lora_targets=("q", "v"),
    check=check,
    batch_bytes=batch_bytes,
)
