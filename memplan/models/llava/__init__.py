"""LLaVA: pictures through a vision tower and a projector, into a language model."""

from memplan.models.family import Family
from memplan.models.llava.config import LlavaConfig, check, complete
from memplan.models.llava.formula import batch_bytes, forward

FAMILY = Family(
    name="llava",
    config_class=LlavaConfig,
    forward=forward,
    inputs=("tokens", "images"),
    max_seq_len=lambda config: config.text_config.max_position_embeddings,
    image_tokens=lambda config, size: config.num_image_tokens,
    lora_targets=("q_proj", "v_proj"),
    default_image_size=lambda config: config.vision_config.image_size,
    has_fixed_image_size=True,
    complete=complete,
    check=check,
    batch_bytes=batch_bytes,
)
