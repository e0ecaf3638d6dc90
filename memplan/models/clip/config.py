"""CLIP: a text and a vision transformer, and the space they share."""

from dataclasses import dataclass, field
from typing import Protocol

from memplan.errors import ModelConfigError
from memplan.formulas.layers import ACTIVATIONS


class TowerConfig(Protocol):
    """What decides the sizes of a layer, in a tower of CLIP's kind."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def hidden_act(self) -> str: ...
    @property
    def attention_dropout(self) -> float: ...


class PictureConfig(Protocol):
    """The pictures a tower takes."""

    @property
    def image_size(self) -> int: ...
    @property
    def patch_size(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """`text_config` of a config.json, as far as it decides sizes."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    attention_dropout: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """`vision_config` of a config.json, as far as it decides sizes."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    attention_dropout: float = 0.0
    projection_dim: int = 512
    """Of a tower that brings its own projection; CLIP's is beside it."""

    @property
    def num_positions(self) -> int:
        """Patches of a picture of `image_size`, and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    text_config: TextConfig = field(default_factory=TextConfig)
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    projection_dim: int = 512


def check(config: ClipConfig) -> None:
    """What cannot be built.

    Raises:
        ModelConfigError: the configuration is that.
    """
    check_tower("text_config", config.text_config)
    check_tower("vision_config", config.vision_config)
    check_image("vision_config", config.vision_config)


def check_tower(name: str, tower: TowerConfig) -> None:
    """Heads and activation of one tower."""
    if tower.hidden_size % tower.num_attention_heads:
        raise ModelConfigError(
            f"hidden_size {tower.hidden_size} of {name} is no multiple of "
            f"{tower.num_attention_heads} heads.",
            hint="Correct num_attention_heads in its config.json.",
        )
    if tower.hidden_act not in ACTIVATIONS:
        raise ModelConfigError(
            f"The activation {tower.hidden_act!r} of {name} is not covered.",
            hint=f"Covered: {', '.join(ACTIVATIONS)}.",
        )


def check_image(name: str, tower: PictureConfig) -> None:
    """A picture has at least one patch."""
    if not 1 <= tower.patch_size <= tower.image_size:
        raise ModelConfigError(
            f"A picture of {tower.image_size} pixels has no patch of "
            f"{tower.patch_size} in {name}.",
            hint="Correct image_size or patch_size in its config.json.",
        )
