"""Vision Transformers, trained as image classifiers."""

from memplan.models.family import Family
from memplan.models.vit.config import ViTConfig, check
from memplan.models.vit.formula import batch_bytes, forward

FAMILY = Family(
    name="vit",
    config_class=ViTConfig,
    forward=forward,
    inputs=("images",),
    max_seq_len=lambda config: None,
    lora_targets=("q_proj", "v_proj"),
    default_image_size=lambda config: max(config.image_sides),
    check=check,
    batch_bytes=batch_bytes,
)
