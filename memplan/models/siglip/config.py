"""SigLIP: a text and a vision transformer whose outputs share a space.

Sizes that a config.json leaves out are those of transformers' `SiglipTextConfig` and
`SiglipVisionConfig`, which are the published base model's.
"""

from dataclasses import dataclass, field

from memplan.errors import ModelConfigError
from memplan.models.clip.config import check_image, check_tower


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """`text_config` of a config.json, as far as it decides sizes."""

    vocab_size: int = 32000
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 64
    hidden_act: str = "gelu_pytorch_tanh"
    attention_dropout: float = 0.0
    projection_size: int | None = None

    @property
    def output_size(self) -> int:
        """Width of a text in the space it shares with pictures."""
        return self.projection_size or self.hidden_size


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """`vision_config` of a config.json, as far as it decides sizes."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 16
    hidden_act: str = "gelu_pytorch_tanh"
    attention_dropout: float = 0.0
    vision_use_head: bool = True
    """Whether the patches are pooled by attention; a language model reads them all."""

    @property
    def num_positions(self) -> int:
        """Patches of a picture of `image_size`: there is no class token."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SiglipConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    text_config: TextConfig = field(default_factory=TextConfig)
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    architectures: tuple[str, ...] | None = None


def check(config: SiglipConfig) -> None:
    """What cannot be built, and what is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    text, vision = config.text_config, config.vision_config
    check_tower("text_config", text)
    check_tower("vision_config", vision)
    check_image("vision_config", vision)
    if not vision.vision_use_head:
        raise ModelConfigError(
            "A SigLIP whose vision tower has no head gives no embedding of a picture.",
            hint='Set "vision_use_head" in vision_config to true.',
        )
    if text.output_size != vision.hidden_size:
        raise ModelConfigError(
            f"Texts of {text.output_size} and pictures of {vision.hidden_size} cannot "
            "be compared.",
            hint="Correct projection_size in text_config.",
        )
    if "SiglipForImageClassification" in (config.architectures or ()):
        raise ModelConfigError(
            "Training a SiglipForImageClassification is not covered.",
            hint='Set "architectures" in its config.json to ["SiglipModel"].',
        )
