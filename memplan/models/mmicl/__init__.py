"""MMICL: interleaved pictures and text on an InstructBLIP backbone."""

from memplan.models.blip2.config import Blip2Config, check
from memplan.models.family import Family
from memplan.models.mmicl.formula import batch_bytes, forward

FAMILY = Family(
    name="mmicl",
    config_class=Blip2Config,
    forward=forward,
    inputs=("tokens", "target_tokens", "images"),
    max_seq_len=lambda config: None,  # T5's relative positions have no last one
    kv_bytes_per_token=lambda config, item_bytes: (
        2 * config.text.decoder_layers * config.text.inner_size * item_bytes
    ),
    image_tokens=lambda config, size: config.num_query_tokens,
    never_quantized=("lm_head", "wo"),
    lora_targets=("q", "v"),
    default_image_size=lambda config: config.vision_config.image_size,
    check=check,
    batch_bytes=batch_bytes,
)
