"""SigLIP, trained with its sigmoid loss."""

from memplan.models.family import Family
from memplan.models.siglip.config import SiglipConfig, check
from memplan.models.siglip.formula import batch_bytes, forward

FAMILY = Family(
    name="siglip",
    config_class=SiglipConfig,
    forward=forward,
    inputs=("tokens", "images"),
    max_seq_len=lambda config: config.text_config.max_position_embeddings,
    lora_targets=("q_proj", "v_proj"),
    default_image_size=lambda config: config.vision_config.image_size,
    check=check,
    batch_bytes=batch_bytes,
)
