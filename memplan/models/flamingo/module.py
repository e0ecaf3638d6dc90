"""Flamingo in PyTorch: a frozen tower, a resampler, gated blocks in a frozen LM.

As OpenFlamingo puts it together (`open_flamingo/src/flamingo.py`, `flamingo_lm.py`,
`factory.py`), on towers and language models of transformers; the paper's Flamingo on
timm's NFNet and a Chinchilla of our own. With labels it returns the loss alone.

Letters: B batch, T pictures of a sample, F frames of a picture, V its features, L text
tokens, D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MptConfig,
    MptForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutput

from memplan.errors import PlanError
from memplan.formulas.setting import Batch
from memplan.models.clip.config import VisionConfig
from memplan.models.flamingo.blocks import GatedCrossAttentionBlock, PerceiverResampler
from memplan.models.flamingo.chinchilla import Chinchilla
from memplan.models.flamingo.config import FlamingoConfig, LanguageConfig, NfnetConfig
from memplan.models.flamingo.nfnet import NUM_FEATURES

NUM_NEW_TOKENS = 2
"""`<|endofchunk|>` and, last in the vocabulary, `<image>`."""


def build(
    config: FlamingoConfig, dtype: torch.dtype, attention: str | None
) -> "Flamingo":
    """The model with initial weights in `dtype`, on the default device."""
    with default_dtype(dtype):
        return Flamingo(config, attention)


def make_batch(
    config: FlamingoConfig, batch: Batch, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Pictures, and a text of that length with the pictures spread evenly over it."""
    B, T, L = batch.size, batch.images_per_sample, batch.seq_len
    if T > L:
        raise PlanError(
            f"A text of {L} tokens has no room for {T} pictures.",
            hint=f"Use --seq-len {T} or more.",
        )
    vocab_size, size = config.text_config.vocab_size, batch.image_size
    media_token_id = vocab_size - 1
    lang_x = torch.randint(0, vocab_size - NUM_NEW_TOKENS, (B, L))
    lang_x[:, [i * L // T for i in range(T)]] = media_token_id
    return {
        "vision_x": torch.randn(B, T, 1, 3, size, size, dtype=dtype),
        "lang_x": lang_x,
        "attention_mask": torch.ones_like(lang_x),
        "labels": lang_x.masked_fill(lang_x == media_token_id, -100),
    }


class FlamingoLayer(nn.Module):
    """A layer of the language model, with a gated block before it or without."""

    def __init__(
        self,
        gated_cross_attn_layer: GatedCrossAttentionBlock | None,
        decoder_layer: nn.Module,
    ) -> None:
        super().__init__()
        self.gated_cross_attn_layer = gated_cross_attn_layer
        self.decoder_layer = decoder_layer
        self.media: Tensor | None = None
        self.media_locations: Tensor | None = None

    def forward(self, lang_x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the language model passes its layers is passed on."""
        if self.gated_cross_attn_layer is not None:
            lang_x = self.gated_cross_attn_layer(
                lang_x, self.media, self.media_locations
            )
        return self.decoder_layer(lang_x, *args, **kwargs)


class Flamingo(nn.Module):
    """The whole model; what of it trains is the plan's choice."""

    supports_gradient_checkpointing = True

    def __init__(self, config: FlamingoConfig, attention: str | None) -> None:
        super().__init__()
        self.config = config
        self.vision_encoder = vision_encoder(config)
        self.lang_encoder = language_model(config.text_config, attention)
        features_width = NUM_FEATURES
        if config.vision_config is not None:
            features_width = config.vision_config.hidden_size
        self.perceiver = PerceiverResampler(
            config.resampler, features_width, config.hidden_act
        )
        width = config.text_config.hidden_size
        if config.is_paper:
            # How the resampler's tokens come to the width of the language model is
            # not published, and the counts leave no room for weights that train.
            latents_width = config.resampler.hidden_size
            self.register_buffer(
                "media_map", torch.randn(latents_width, width) / latents_width**0.5
            )
        owner, name = _layers_of(self.lang_encoder)
        self.layers = [
            FlamingoLayer(
                GatedCrossAttentionBlock(config) if _has_block(config, i) else None,
                layer,
            )
            for i, layer in enumerate(getattr(owner, name))
        ]
        setattr(owner, name, nn.ModuleList(self.layers))
        self._no_split_modules = list(
            {type(module).__name__ for module in self.checkpointed_in_order()}
        )

    def get_input_embeddings(self) -> nn.Module:
        table: nn.Module = self.lang_encoder.get_input_embeddings()
        return table

    def forward(
        self,
        vision_x: Tensor,
        lang_x: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> CausalLMOutput:
        """Pictures [B, T, F, 3, H, W], of one frame, and text [B, L]."""
        media = self.encode_vision(vision_x)
        media_locations = lang_x == self.config.text_config.vocab_size - 1
        for layer in self.layers:
            layer.media, layer.media_locations = media, media_locations
        arguments = {} if self.config.is_paper else {"attention_mask": attention_mask}
        output = self.lang_encoder(input_ids=lang_x, labels=labels, **arguments)
        for layer in self.layers:
            layer.media = layer.media_locations = None
        if labels is None:
            return CausalLMOutput(logits=output.logits)
        return CausalLMOutput(loss=output.loss)

    def encode_vision(self, vision_x: Tensor) -> Tensor:
        """Visual tokens [B, T * N, width that the cross-attention reads]."""
        B, T = vision_x.shape[:2]
        vision_x = vision_x.flatten(0, 2)
        with torch.no_grad():
            features = self.visual_features(vision_x)
        features = features.reshape(B, T, -1, features.shape[-1])
        media: Tensor = self.perceiver(features).flatten(1, 2)
        if self.config.is_paper:
            mapping = self.get_buffer("media_map")
            if not torch.is_autocast_enabled(media.device.type):
                mapping = mapping.to(media.dtype)
            media = torch.matmul(media, mapping)
        return media

    def visual_features(self, vision_x: Tensor) -> Tensor:
        """[pictures, V, D]: patches without the class token, or the map of an NFNet."""
        if self.config.nfnet_config is not None:
            maps: Tensor = self.vision_encoder.forward_features(vision_x)  # type: ignore[operator]
            return maps.flatten(2).transpose(1, 2).contiguous()
        patches: Tensor = self.vision_encoder(vision_x).last_hidden_state
        return patches[:, 1:]

    def checkpointed_in_order(self) -> Iterator[nn.Module]:
        """The modules that may be checkpointed, as the forward pass meets them."""
        yield self.perceiver
        for layer in self.layers:
            if layer.gated_cross_attn_layer is not None:
                yield layer.gated_cross_attn_layer
            yield layer.decoder_layer

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any],
        every_n_layers: int = 1,
    ) -> None:
        """Checkpoint the first of each n of them, by transformers' own mechanism."""
        for index, module in enumerate(self.checkpointed_in_order()):
            layer: Any = module
            layer.gradient_checkpointing = index % every_n_layers == 0
            layer._gradient_checkpointing_func = partial(
                checkpoint, **activation_checkpointing_kwargs
            )


def vision_encoder(config: FlamingoConfig) -> nn.Module:
    """CLIP's tower with open_clip's projection, which nobody reads; or timm's NFNet."""
    if config.nfnet_config is not None:
        return _nfnet(config.nfnet_config)
    assert config.vision_config is not None
    tower = config.vision_config
    encoder: nn.Module = CLIPVisionModel._from_config(
        CLIPVisionConfig(**_clip_fields(tower)), dtype=torch.get_default_dtype()
    )
    if not config.is_paper:
        encoder.proj = nn.Parameter(
            torch.randn(tower.hidden_size, tower.projection_dim)
        )
    return encoder


def language_model(config: LanguageConfig, attention: str | None) -> Any:
    """MPT, GPT-NeoX or the paper's, without a cache."""
    dtype = torch.get_default_dtype()
    wanted = {} if attention is None else {"attn_implementation": attention}
    if config.model_type == "mpt":
        # MPT has no attention but its own.
        return MptForCausalLM._from_config(
            MptConfig(
                d_model=config.hidden_size,
                n_heads=config.num_attention_heads,
                n_layers=config.num_hidden_layers,
                vocab_size=config.vocab_size,
                max_seq_len=config.max_position_embeddings,
                use_cache=False,
            ),
            dtype=dtype,
        )
    if config.model_type == "gpt_neox":
        return GPTNeoXForCausalLM._from_config(
            GPTNeoXConfig(
                hidden_size=config.hidden_size,
                intermediate_size=4 * config.hidden_size,
                num_attention_heads=config.num_attention_heads,
                num_hidden_layers=config.num_hidden_layers,
                vocab_size=config.vocab_size,
                max_position_embeddings=config.max_position_embeddings,
                use_parallel_residual=config.use_parallel_residual,
                rotary_pct=1.0,
                use_cache=False,
            ),
            dtype=dtype,
            **wanted,
        )
    return Chinchilla(config)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Modules made inside have their weights in `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _has_block(config: FlamingoConfig, index: int) -> bool:
    """The paper's first block is before layer 0, OpenFlamingo's before layer n - 1."""
    offset = 0 if config.is_paper else 1
    return (index + offset) % config.cross_attn_every_n_layers == 0


def _layers_of(language: Any) -> tuple[Any, str]:
    """Where a language model has its layers."""
    if isinstance(language, Chinchilla):
        return language, "layers"
    if hasattr(language, "gpt_neox"):
        return language.gpt_neox, "layers"
    return language.transformer, "blocks"


def _clip_fields(tower: VisionConfig) -> dict[str, Any]:
    return {name: getattr(tower, name) for name in tower.__slots__}


def _nfnet(config: NfnetConfig) -> nn.Module:
    import timm

    tower: nn.Module = timm.create_model(
        f"dm_nfnet_{config.variant.lower()}", num_classes=0, global_pool=""
    )
    return tower
