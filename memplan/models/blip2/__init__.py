"""BLIP-2 with a T5 language model."""

from memplan.models.blip2.config import Blip2Config, check
from memplan.models.blip2.formula import batch_bytes, forward
from memplan.models.family import Family

FAMILY = Family(
    name="blip2",
    config_class=Blip2Config,
    forward=forward,
    inputs=("tokens", "target_tokens", "images"),
    max_seq_len=lambda config: None,  # T5's relative positions have no last one
    kv_bytes_per_token=lambda config, item_bytes: (
        2 * config.text.decoder_layers * config.text.inner_size * item_bytes
    ),
    image_tokens=lambda config, size: config.num_query_tokens,
    never_quantized=("lm_head", "wo", "qformer"),
    lora_targets=("q", "v"),
    default_image_size=lambda config: config.vision_config.image_size,
    check=check,
    batch_bytes=batch_bytes,
)
