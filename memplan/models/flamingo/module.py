"""Flamingo in PyTorch: a frozen tower, a resampler, gated blocks in a frozen LM.

As OpenFlamingo puts it together (`open_flamingo/src/flamingo.py`, `flamingo_lm.py`,
`factory.py`), on towers and language models of transformers; the paper's Flamingo on
timm's NFNet and a Chinchilla of our own. With labels it returns the loss alone.

Letters: B batch, T pictures of a sample, F frames of a picture (a video has several), V
features of a frame, N latents, L text tokens, D width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from memplan.errors import PlanError
from memplan.formulas.setting import Batch
from memplan.models.flamingo.blocks import GatedCrossAttentionBlock, PerceiverResampler
from memplan.models.flamingo.config import FlamingoConfig
from memplan.models.flamingo.nfnet import NUM_FEATURES
from memplan.models.flamingo.towers import language_model, layers_of, vision_encoder

NUM_NEW_TOKENS = 2
"""`<|endofchunk|>` and `<image>`: unless told otherwise, the vocabulary's last two."""


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
    input_ids = torch.randint(0, vocab_size - NUM_NEW_TOKENS, (B, L))
    input_ids[:, [i * L // T for i in range(T)]] = media_token_id
    return {
        "vision_x": torch.randn(B, T, 1, 3, size, size, dtype=dtype),
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": input_ids.masked_fill(input_ids == media_token_id, -100),
    }


@dataclass(slots=True)
class FlamingoCache:
    """What the next token needs of those before it."""

    language: DynamicCache
    """Keys and values of the language model."""
    media: Tensor
    """Visual tokens of all pictures, which every gated block reads."""
    image_index: Tensor
    """The picture that the last token saw, [B, 1]."""

    def repeat(self, times: int) -> None:
        """Each sample so many times in a row, for as many beams."""
        self.language.batch_repeat_interleave(times)
        self.media = self.media.repeat_interleave(times, dim=0)
        self.image_index = self.image_index.repeat_interleave(times, dim=0)

    def reorder(self, rows: Tensor) -> None:
        """Go on from these rows; the beams of a sample share its pictures."""
        self.language.reorder_cache(rows)


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
        self.image_indices: Tensor | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the language model passes its layers is passed on."""
        if self.gated_cross_attn_layer is not None:
            x = self.gated_cross_attn_layer(x, self.media, self.image_indices)
        return self.decoder_layer(x, *args, **kwargs)


class Flamingo(nn.Module):
    """The whole model; what of it trains is the plan's choice."""

    supports_gradient_checkpointing = True

    def __init__(self, config: FlamingoConfig, attention: str | None) -> None:
        super().__init__()
        self.config = config
        self.eoc_token_id = self.media_token_id = 0
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
        owner, name = layers_of(self.lang_encoder)
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

        vocab_size = config.text_config.vocab_size
        self.set_new_tokens(vocab_size - 2, vocab_size - 1)

    def set_new_tokens(self, eoc_token_id: int, media_token_id: int) -> None:
        """Which ids of the vocabulary mark the end of a text, and a picture."""
        self.eoc_token_id, self.media_token_id = eoc_token_id, media_token_id
        if self.config.is_paper:
            self.lang_encoder.eoc_token_id = eoc_token_id

    def tie_weights(self) -> None:
        """Make table and head one again, in language models where they are."""
        if not self.config.is_paper:
            self.lang_encoder.tie_weights()

    def get_input_embeddings(self) -> nn.Module:
        table: nn.Module = self.lang_encoder.get_input_embeddings()
        return table

    def get_output_embeddings(self) -> nn.Module | None:
        """The head, where it is a module; who shards has to know that it is tied."""
        if self.config.is_paper:
            return None
        head: nn.Module | None = self.lang_encoder.get_output_embeddings()
        return head

    def forward(
        self,
        input_ids: Tensor,
        vision_x: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        image_indices: Tensor | None = None,
        past_key_values: FlamingoCache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        """The loss of a text with labels, or logits.

        Args:
            input_ids: tokens [B, L]; after a cache, those that it has not seen.
            vision_x: pictures [B, T, F, 3, H, W]; none for a text without any, and
                after a cache, which has their visual tokens.
            attention_mask: 0 for padding, over the cache's tokens as well.
            labels: the tokens to predict, -100 elsewhere; shifted here.
            image_indices: the picture that each token sees, [B, L], from 1, 0 for none.
                By default the last one at or before it, where `<image>` is a token.
            past_key_values: the cache that the tokens before these have left.
            use_cache: whether to leave one.
            logits_to_keep: of so many last tokens; 0 is all.
        """
        if past_key_values is not None:
            media, cache = past_key_values.media, past_key_values.language
        else:
            media = self.encode_vision(vision_x, input_ids)
            cache = DynamicCache() if use_cache else None
        if image_indices is None:
            image_indices = (input_ids == self.media_token_id).cumsum(dim=-1)
            if past_key_values is not None:
                image_indices = image_indices + past_key_values.image_index
        arguments: dict[str, Any] = {"attention_mask": attention_mask}
        if cache is not None:
            arguments |= {"past_key_values": cache, "use_cache": True}
        for layer in self.layers:
            layer.media, layer.image_indices = media, image_indices
        output = self.lang_encoder(
            input_ids=input_ids,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **arguments,
        )
        for layer in self.layers:
            layer.media = layer.image_indices = None
        if labels is not None:
            return CausalLMOutputWithPast(loss=output.loss)
        left = None
        if cache is not None:
            left = FlamingoCache(cache, media, image_indices[:, -1:])
        return CausalLMOutputWithPast(logits=output.logits, past_key_values=left)

    def encode_vision(self, vision_x: Tensor | None, input_ids: Tensor) -> Tensor:
        """Visual tokens [B, T * N, width that the cross-attention reads]."""
        if vision_x is None:
            # The blocks need some to look at, and no token does.
            shape = (len(input_ids), self.config.resampler.num_latents)
            return self.perceiver.latents.new_zeros(*shape, self.config.visual_size)
        B, T, F = vision_x.shape[:3]
        if F > 1 and not self.config.is_paper:
            raise ValueError(f"OpenFlamingo takes pictures, not videos of {F} frames")
        with torch.no_grad():
            features = self.visual_features(vision_x.flatten(0, 2))
        features = features.reshape(B, T, F, *features.shape[1:])
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
