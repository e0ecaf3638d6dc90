"""Flamingo of the paper, and OpenFlamingo, which differs from it in many sizes."""

from dataclasses import dataclass
from typing import Literal

from memplan.errors import ModelConfigError
from memplan.models.clip.config import VisionConfig, check_image, check_tower

NUM_LATENTS = 64
"""Visual tokens that the resampler makes of a picture, in every published model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageConfig:
    """The frozen language model."""

    model_type: Literal["chinchilla", "mpt", "gpt_neox"]
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int = 2048
    use_parallel_residual: bool = True
    """GPT-NeoX: attention and MLP read the same input."""

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, kw_only=True, slots=True)
class NfnetConfig:
    """A Normalizer-Free ResNet, F0 to F6 (arXiv 2102.06171, table 1)."""

    variant: Literal["F0", "F1", "F2", "F3", "F4", "F5", "F6"] = "F6"
    """F6 has seven times the blocks of F0 and the same widths."""
    image_size: int = 320

    @property
    def depths(self) -> tuple[int, ...]:
        times = int(self.variant[1:]) + 1
        return tuple(depth * times for depth in (1, 2, 6, 3))


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig:
    """Heads of the resampler, or of the gated cross-attention."""

    num_heads: int
    head_size: int

    @property
    def inner_size(self) -> int:
        return self.num_heads * self.head_size


@dataclass(frozen=True, kw_only=True, slots=True)
class ResamplerConfig:
    """The Perceiver Resampler."""

    hidden_size: int
    depth: int = 6
    attention: AttentionConfig
    num_latents: int = NUM_LATENTS


@dataclass(frozen=True, kw_only=True, slots=True)
class FlamingoConfig:
    """Neither model has a config.json of transformers: the fields are memplan's own."""

    variant: Literal["flamingo", "openflamingo"]
    """Whose activation, norms, gates and placement: the paper's or OpenFlamingo's."""
    text_config: LanguageConfig
    vision_config: VisionConfig | None = None
    """A CLIP vision tower."""
    nfnet_config: NfnetConfig | None = None
    """An NFNet in its place."""
    resampler: ResamplerConfig
    cross_attention: AttentionConfig
    cross_attn_every_n_layers: int = 1
    """Of so many layers of the language model, one has a cross-attention before it."""
    has_cross_attention_mlp: bool = True
    """Without it the cross-attention is the vanilla one of the paper's table 7."""

    @property
    def is_paper(self) -> bool:
        return self.variant == "flamingo"

    @property
    def hidden_act(self) -> str:
        """Of resampler and cross-attention."""
        return "squared_relu" if self.is_paper else "gelu"

    @property
    def visual_size(self) -> int:
        """Width of the visual tokens that a cross-attention reads.

        The paper's counts fit keys and values read at the width of the language model.
        """
        if self.is_paper:
            return self.text_config.hidden_size
        return self.resampler.hidden_size

    @property
    def image_size(self) -> int:
        if self.nfnet_config is not None:
            return self.nfnet_config.image_size
        assert self.vision_config is not None
        return self.vision_config.image_size

    @property
    def num_blocks(self) -> int:
        """Gated cross-attention blocks: before the first layer, or not before n - 1."""
        layers, every = (
            self.text_config.num_hidden_layers,
            self.cross_attn_every_n_layers,
        )
        return -(-layers // every) if self.is_paper else layers // every


def check(config: FlamingoConfig) -> None:
    """What cannot be built.

    Raises:
        ModelConfigError: the configuration is that.
    """
    text = config.text_config
    if (config.vision_config is None) == (config.nfnet_config is None):
        raise ModelConfigError(
            "A Flamingo needs one vision tower.",
            hint="Give either vision_config (CLIP) or nfnet_config.",
        )
    if text.hidden_size % text.num_attention_heads:
        raise ModelConfigError(
            f"hidden_size {text.hidden_size} of text_config is no multiple of "
            f"{text.num_attention_heads} heads.",
            hint="Correct num_attention_heads.",
        )
    if not 1 <= config.cross_attn_every_n_layers <= text.num_hidden_layers:
        raise ModelConfigError(
            f"A cross-attention for every {config.cross_attn_every_n_layers} of "
            f"{text.num_hidden_layers} layers cannot be placed.",
            hint="Set cross_attn_every_n_layers between 1 and the number of layers.",
        )
    if config.vision_config is not None:
        check_tower("vision_config", config.vision_config)
        check_image("vision_config", config.vision_config)
        _check_widths(config, config.vision_config.hidden_size)
    elif not config.is_paper:
        raise ModelConfigError(
            "OpenFlamingo's tower is a CLIP.", hint="Give a vision_config."
        )


def _check_widths(config: FlamingoConfig, width: int) -> None:
    """OpenFlamingo's resampler reads the tower as it is."""
    if not config.is_paper and config.resampler.hidden_size != width:
        raise ModelConfigError(
            f"OpenFlamingo's resampler is as wide as its tower ({width}), not "
            f"{config.resampler.hidden_size}.",
            hint="Correct hidden_size of the resampler.",
        )
