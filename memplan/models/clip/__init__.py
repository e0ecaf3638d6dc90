"""CLIP, trained with its contrastive loss."""

from memplan.models.clip.config import ClipConfig, check
from memplan.models.clip.formula import batch_bytes, forward
from memplan.models.family import Family

FAMILY = Family(
    name="clip",
    config_class=ClipConfig,
    forward=forward,
    inputs=("tokens", "images"),
    max_seq_len=lambda config: config.text_config.max_position_embeddings,
    lora_targets=("q_proj", "v_proj"),
    default_image_size=lambda config: config.vision_config.image_size,
    check=check,
    batch_bytes=batch_bytes,
)
