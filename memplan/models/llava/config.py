"""LLaVA's configuration: a CLIP or SigLIP tower, and a language model of Llama's kind.

Published files leave out what their parts have by default; `complete` writes it in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from memplan.errors import ModelConfigError
from memplan.formulas.layers import ACTIVATIONS
from memplan.models.clip import config as clip
from memplan.models.clip.config import check_image, check_tower
from memplan.models.llama import config as llama
from memplan.models.llama.config import LlamaConfig
from memplan.models.siglip import config as siglip

LANGUAGE_DEFAULTS = {
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096 * 32,
    },
    "qwen2": {
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
    },
}
"""`LlamaConfig`, `MistralConfig` and `Qwen2Config` of transformers 5.23."""

TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""The tower of a `LlavaConfig` that names none: CLIP's ViT-L/14 at 336 pixels."""

TOWER_DEFAULTS = {
    "clip_vision_model": {"patch_size": 32, "hidden_act": "quick_gelu"},
    "siglip_vision_model": {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh"},
}
"""Where `CLIPVisionConfig` and `SiglipVisionConfig` differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerConfig:
    """`vision_config` of a config.json, as far as it decides sizes."""

    model_type: Literal["clip_vision_model", "siglip_vision_model"]
    patch_size: int
    hidden_act: str
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    attention_dropout: float = 0.0
    vision_use_head: bool = True
    """Of SigLIP: whether it has a pool, which nobody reads here."""

    @property
    def has_class_token(self) -> bool:
        return self.model_type == "clip_vision_model"

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def as_clip(self) -> clip.VisionConfig:
        return clip.VisionConfig(**self._common())

    @property
    def as_siglip(self) -> siglip.VisionConfig:
        return siglip.VisionConfig(
            **self._common(), vision_use_head=self.vision_use_head
        )

    def _common(self) -> dict[str, Any]:
        """What both kinds of tower have."""
        own = ("model_type", "vision_use_head")
        return {name: getattr(self, name) for name in self.__slots__ if name not in own}


@dataclass(frozen=True, kw_only=True, slots=True)
class LlavaConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    vision_config: TowerConfig
    text_config: LlamaConfig
    projector_hidden_act: str = "gelu"
    vision_feature_layer: int = field(default=-2, metadata={"is_index": True})
    """Which hidden states of the tower are read: before its first layer, or after one
    of them; from the end where it is negative."""
    image_token_index: int | None = None
    """Of the placeholder in the vocabulary."""
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    multimodal_projector_bias: bool = True
    tie_word_embeddings: bool = False

    @property
    def num_read_layers(self) -> int:
        """Layers of the tower before the hidden states that are read."""
        return self.vision_feature_layer % (self.vision_config.num_hidden_layers + 1)

    @property
    def num_image_tokens(self) -> int:
        """Places of a picture in the prompt."""
        tower = self.vision_config
        keeps_first = self.vision_feature_select_strategy == "full"
        if keeps_first:
            return tower.num_patches + tower.has_class_token
        return tower.num_patches - (not tower.has_class_token)

    @property
    def ties_head(self) -> bool:
        return self.tie_word_embeddings or self.text_config.tie_word_embeddings


def complete(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config.json with the sizes that its parts have by default."""
    text = data.get("text_config") or {}
    tower = data.get("vision_config") or TOWER
    if not isinstance(text, Mapping) or not isinstance(tower, Mapping):
        return data
    text_type = str(text.get("model_type", "llama"))
    tower_type = str(tower.get("model_type", "clip_vision_model"))
    return {
        **data,
        "text_config": {
            "model_type": text_type,
            **LANGUAGE_DEFAULTS.get(text_type, {}),
            **text,
        },
        "vision_config": {
            "model_type": tower_type,
            **TOWER_DEFAULTS.get(tower_type, TOWER_DEFAULTS["clip_vision_model"]),
            **tower,
        },
    }


def check(config: LlavaConfig) -> None:
    """What cannot be built, and what is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    text, tower = config.text_config, config.vision_config
    if text.model_type not in LANGUAGE_DEFAULTS:
        raise ModelConfigError(
            f"A LLaVA with the language model {text.model_type!r} is not covered.",
            hint=f"Covered: {', '.join(LANGUAGE_DEFAULTS)}.",
        )
    llama.check(text)
    check_tower("vision_config", tower)
    check_image("vision_config", tower)
    if config.projector_hidden_act not in ACTIVATIONS:
        raise ModelConfigError(
            f"The activation {config.projector_hidden_act!r} is not covered.",
            hint=f"Covered: {', '.join(ACTIVATIONS)}.",
        )
    last = tower.num_hidden_layers
    if not -last - 1 <= config.vision_feature_layer <= last:
        raise ModelConfigError(
            f"A tower of {last} layers has no hidden states "
            f"{config.vision_feature_layer}.",
            hint="Correct vision_feature_layer in its config.json.",
        )
