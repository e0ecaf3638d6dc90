"""Qwen2-VL's and Qwen2.5-VL's configuration: a vision tower and a Qwen2.

Published files are flat: the language model's fields stand beside `vision_config`.
What they leave out is what transformers' `Qwen2VLConfig` and `Qwen2_5_VLConfig` have.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from memplan.errors import ModelConfigError, PlanError
from memplan.formulas.layers import ACTIVATIONS
from memplan.models import llama
from memplan.models.llama.config import LlamaConfig

LANGUAGE_DEFAULTS = {
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "max_window_layers": 80,
}
"""`Qwen2VLTextConfig`, and that of Qwen2.5-VL."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """`vision_config` of a config.json; the two models call the same otherwise."""

    depth: int = 32
    num_heads: int = 16
    in_channels: int = 3
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    hidden_act: str | None = None
    hidden_size: int = 3584
    """Width of Qwen2.5-VL's layers; of what Qwen2-VL's tower returns."""
    embed_dim: int = 1280
    """Width of Qwen2-VL's layers."""
    mlp_ratio: int = 4
    intermediate_size: int = 3420
    """Inner size of Qwen2.5-VL's MLP; Qwen2-VL's is `mlp_ratio` times its width."""
    out_hidden_size: int = 3584
    window_size: int = 112
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    """Layers of Qwen2.5-VL that attend to whole pictures, and not within windows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QwenVlConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    model_type: Literal["qwen2_vl", "qwen2_5_vl"]
    text_config: LlamaConfig
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    tie_word_embeddings: bool = False

    @property
    def has_windows(self) -> bool:
        """Qwen2.5-VL: windows, RMSNorm and gated MLPs in its tower."""
        return self.model_type == "qwen2_5_vl"

    @property
    def width(self) -> int:
        """Hidden size of the tower's layers."""
        tower = self.vision_config
        return tower.hidden_size if self.has_windows else tower.embed_dim

    @property
    def inner_size(self) -> int:
        """Of the MLP in the tower's layers."""
        tower = self.vision_config
        if self.has_windows:
            return tower.intermediate_size
        return tower.embed_dim * tower.mlp_ratio

    @property
    def output_size(self) -> int:
        """Of a picture's tokens: the hidden size of the language model."""
        tower = self.vision_config
        return tower.out_hidden_size if self.has_windows else tower.hidden_size

    @property
    def vision_act(self) -> str:
        default = "silu" if self.has_windows else "quick_gelu"
        return self.vision_config.hidden_act or default

    @property
    def pixels_per_token(self) -> int:
        """A side of what becomes one token: patches that are merged."""
        return self.vision_config.patch_size * self.vision_config.spatial_merge_size

    @property
    def ties_head(self) -> bool:
        return self.tie_word_embeddings or self.text_config.tie_word_embeddings

    def is_full(self, layer: int) -> bool:
        """Whether a layer of the tower attends to whole pictures."""
        return not self.has_windows or layer in self.vision_config.fullatt_block_indexes


def image_tokens(config: QwenVlConfig, size: int) -> int:
    """Places of a square picture in the prompt.

    Raises:
        PlanError: its patches cannot be merged.
    """
    side = config.pixels_per_token
    if size % side or size < side:
        raise PlanError(
            f"Pictures of {size} pixels are no multiple of the {side} that become one "
            "token: the image processor would resize them.",
            hint=f"Use --image-size {max(round(size / side), 1) * side}.",
        )
    return (size // side) ** 2


def complete(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config.json with the language model's fields in a `text_config`."""
    text = data.get("text_config") or data
    if not isinstance(text, Mapping):
        return data
    return {
        **data,
        "text_config": {**LANGUAGE_DEFAULTS, **text, "model_type": "qwen2"},
    }


def check(config: QwenVlConfig) -> None:
    """What cannot be built, and what is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    text, tower = config.text_config, config.vision_config
    llama.FAMILY.check(text)
    if config.width % tower.num_heads or config.width // tower.num_heads % 4:
        raise ModelConfigError(
            f"{tower.num_heads} heads of a tower of {config.width} cannot be rotated "
            "by rows and columns.",
            hint="Correct num_heads in vision_config.",
        )
    if config.vision_act not in ACTIVATIONS:
        raise ModelConfigError(
            f"The activation {config.vision_act!r} of vision_config is not covered.",
            hint=f"Covered: {', '.join(ACTIVATIONS)}.",
        )
    if config.output_size != text.hidden_size:
        raise ModelConfigError(
            f"A tower that returns {config.output_size} does not fit a language model "
            f"of {text.hidden_size}.",
            hint="Correct the sizes in vision_config.",
        )
    if config.has_windows and tower.window_size < config.pixels_per_token:
        raise ModelConfigError(
            f"A window of {tower.window_size} pixels holds no token.",
            hint="Correct window_size in vision_config.",
        )
