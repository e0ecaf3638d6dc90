"""Qwen2-VL and Qwen2.5-VL: pictures of any size, and a token for four patches."""

from memplan.models.family import Family
from memplan.models.qwen_vl.config import QwenVlConfig, check, complete, image_tokens
from memplan.models.qwen_vl.formula import batch_bytes, forward

FAMILY = Family(
    name="qwen_vl",
    config_class=QwenVlConfig,
    forward=forward,
    inputs=("tokens", "images"),
    max_seq_len=lambda config: config.text_config.max_position_embeddings,
    image_tokens=image_tokens,
    lora_targets=("q_proj", "v_proj"),
    default_image_size=lambda config: 16 * config.pixels_per_token,
    image_multiple=lambda config: config.pixels_per_token,
    complete=complete,
    check=check,
    batch_bytes=batch_bytes,
)
