"""Vision Transformers that classify images."""

from collections.abc import Mapping
from dataclasses import dataclass

from memplan.errors import ModelConfigError
from memplan.formulas.layers import ACTIVATIONS

CLASSES = ("ViTForImageClassification", "ViTModel")
"""What a config.json may name: a bare ViTModel is fine-tuned as a classifier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViTConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    image_size: int | tuple[int, int] = 224
    patch_size: int | tuple[int, int] = 16
    num_channels: int = 3
    qkv_bias: bool = True
    architectures: tuple[str, ...] | None = None
    num_labels: int | None = None
    id2label: Mapping[int, str] | None = None
    problem_type: str | None = None

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_classes(self) -> int:
        """What `PretrainedConfig.num_labels` answers: the labels named, else 2."""
        if self.num_labels is not None:
            return self.num_labels
        return len(self.id2label) if self.id2label else 2

    @property
    def image_sides(self) -> tuple[int, int]:
        """Pixels of the pictures that the positions were made for: height, width."""
        return _pair(self.image_size)

    @property
    def patch_sides(self) -> tuple[int, int]:
        return _pair(self.patch_size)

    @property
    def num_positions(self) -> int:
        """Patches of such a picture, and the class token."""
        (height, width), (down, across) = self.image_sides, self.patch_sides
        return (height // down) * (width // across) + 1


def check(config: ViTConfig) -> None:
    """What cannot be built, and what moves memory and is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    if config.architectures and config.architectures[0] not in CLASSES:
        raise ModelConfigError(
            f"Training a {config.architectures[0]} is not covered.",
            hint=f'Set "architectures" in its config.json to ["{CLASSES[0]}"].',
        )
    if config.hidden_size % config.num_attention_heads:
        raise ModelConfigError(
            f"hidden_size {config.hidden_size} is no multiple of "
            f"{config.num_attention_heads} heads.",
            hint="Correct num_attention_heads in its config.json.",
        )
    if config.hidden_act not in ACTIVATIONS:
        raise ModelConfigError(
            f"The activation {config.hidden_act!r} is not covered.",
            hint=f"Covered: {', '.join(ACTIVATIONS)}.",
        )
    if min(*config.image_sides, *config.patch_sides) < 1 or config.num_positions < 2:
        raise ModelConfigError(
            f"A picture of {config.image_size} pixels has no patch of "
            f"{config.patch_size}.",
            hint="Correct image_size or patch_size in its config.json.",
        )
    if config.problem_type == "multi_label_classification":
        raise ModelConfigError(
            "Classification with several labels a sample is not covered.",
            hint='Set "problem_type" to "single_label_classification".',
        )


def _pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else sides
