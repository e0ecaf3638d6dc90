"""Flamingo's own blocks: the Perceiver Resampler and gated cross-attention.

Computed step by step as in OpenFlamingo (`open_flamingo/src/helpers.py`); the paper's
blocks differ in activation, norms, gates and heads (arXiv 2204.14198, 3.1 and A.1).

Letters: B batch, T pictures of a sample, F frames of a picture (a video has several), V
features of a frame, N latents, S visual tokens of all pictures, L text tokens, H heads,
K size of a head, D width.
"""

from typing import Any

import torch
from torch import Tensor, einsum, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from memplan.models.flamingo.config import (
    AttentionConfig,
    FlamingoConfig,
    ResamplerConfig,
)
from memplan.models.flamingo.resampler import NUM_FRAMES

EXPANSION = 4
"""How much wider a feed-forward is inside."""


class SquaredReLU(nn.Module):
    """`max(0, x)^2`, the activation of the paper's blocks."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.square(nn.functional.relu(x))


def feed_forward(width: int, activation: str) -> nn.Sequential:
    """Norm, linear, activation, linear; no biases but the norm's."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, EXPANSION * width, bias=False),
        nn.GELU() if activation == "gelu" else SquaredReLU(),
        nn.Linear(EXPANSION * width, width, bias=False),
    )


class PerceiverAttention(nn.Module):
    """Latents attend to the features of a picture and to themselves."""

    def __init__(self, width: int, heads: AttentionConfig) -> None:
        super().__init__()
        self.scale = heads.head_size**-0.5
        self.heads = heads.num_heads
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads.inner_size, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads.inner_size, bias=False)
        self.to_out = nn.Linear(heads.inner_size, width, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """[B, T, V, D] and [B, T, N, D] to [B, T, N, D]."""
        x = self.norm_media(x)
        latents = self.norm_latents(latents)
        q = self.to_q(latents)
        kv_input = torch.cat((x, latents), dim=-2)
        k, v = self.to_kv(kv_input).chunk(2, dim=-1)
        q, k, v = (
            y.reshape(*y.shape[:-1], self.heads, -1).permute(0, 3, 1, 2, 4)
            for y in (q, k, v)
        )
        q = q * self.scale
        sim = einsum("... i d, ... j d -> ... i j", q, k)
        sim = sim - sim.amax(dim=-1, keepdim=True).detach()
        attn = sim.softmax(dim=-1)
        out = einsum("... i j, ... j d -> ... i d", attn, v)
        projected: Tensor = self.to_out(out.permute(0, 2, 3, 1, 4).flatten(3))
        return projected


class PerceiverResampler(GradientCheckpointingLayer):  # type: ignore[misc]
    """Any number of features of each picture into a fixed number of visual tokens.

    The paper's adds a learnt embedding of its time to every feature of a frame, none of
    where in the frame it lies; OpenFlamingo's adds neither (section 3.1).
    """

    def __init__(
        self, config: ResamplerConfig, features_width: int, activation: str
    ) -> None:
        super().__init__()
        width = config.hidden_size
        self.projection: nn.Linear | None = None
        if activation != "gelu":  # the paper's, whose tower has a width of its own
            self.projection = nn.Linear(features_width, width, bias=False)
            self.time_embeddings = nn.Parameter(torch.randn(NUM_FRAMES, width))
        self.latents = nn.Parameter(torch.randn(config.num_latents, width))
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(width, config.attention),
                    feed_forward(width, activation),
                ]
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, F, V, width of the tower] to [B, T, N, D]."""
        num_frames = x.shape[2]
        x = x.flatten(2, 3)
        if self.projection is not None:
            x = self.projection(x) + self.times(num_frames, x.shape[2] // num_frames)
        latents = self.latents.expand(*x.shape[:2], *self.latents.shape)
        layers: Any = self.layers
        for attn, ff in layers:
            latents = attn(x, latents) + latents
            latents = ff(latents) + latents
        normalised: Tensor = self.norm(latents)
        return normalised

    def times(self, num_frames: int, num_features: int) -> Tensor:
        """Time embeddings of all features, frame after frame: [1 or F * V, D].

        A picture is a video of one frame. A video of more frames than the model was
        trained with takes its times from between the learnt ones (section 4.1.4).
        """
        learnt = self.time_embeddings
        if num_frames == 1:
            return learnt[:1]
        if num_frames <= len(learnt):
            return learnt[:num_frames].repeat_interleave(num_features, dim=0)
        between = nn.functional.interpolate(
            learnt.T[None], size=num_frames, mode="linear", align_corners=True
        )
        return between[0].T.repeat_interleave(num_features, dim=0)


class MaskedCrossAttention(nn.Module):
    """Each text token attends to the visual tokens of the picture before it alone."""

    def __init__(
        self,
        width: int,
        visual_width: int,
        heads: AttentionConfig,
        *,
        num_latents: int,
        normalises_media: bool,
    ) -> None:
        super().__init__()
        self.scale = heads.head_size**-0.5
        self.heads = heads.num_heads
        self.num_latents = num_latents
        self.norm = nn.LayerNorm(width)
        self.norm_media = nn.LayerNorm(visual_width) if normalises_media else None
        self.to_q = nn.Linear(width, heads.inner_size, bias=False)
        self.to_kv = nn.Linear(visual_width, 2 * heads.inner_size, bias=False)
        self.to_out = nn.Linear(heads.inner_size, width, bias=False)

    def forward(self, x: Tensor, media: Tensor, image_indices: Tensor) -> Tensor:
        """[B, L, D], [B, S, visual width] and, [B, L], the picture that a token sees.

        Pictures count from 1; a token of index 0 sees none.
        """
        x = self.norm(x)
        q = self.to_q(x)
        if self.norm_media is not None:
            media = self.norm_media(media)
        k, v = self.to_kv(media).chunk(2, dim=-1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        q = q * self.scale
        sim = einsum("... i d, ... j d -> ... i j", q, k)
        num_pictures = media.shape[1] // self.num_latents
        media_time = torch.arange(num_pictures, device=x.device) + 1
        text_to_media_mask = torch.eq(
            image_indices[:, None, :, None],
            media_time[:, None].expand(-1, self.num_latents).reshape(1, 1, 1, -1),
        )
        sim = sim.masked_fill(~text_to_media_mask, -torch.finfo(sim.dtype).max)
        sim = sim - sim.amax(dim=-1, keepdim=True).detach()
        attn = sim.softmax(dim=-1)
        # Before the first picture there is nothing to attend to.
        text_without_media_mask = (image_indices == 0)[:, None, :, None]
        attn = attn.masked_fill(text_without_media_mask, 0.0)
        out = einsum("... i j, ... j d -> ... i d", attn, v)
        projected: Tensor = self.to_out(out.transpose(1, 2).flatten(2))
        return projected


class GatedCrossAttentionBlock(GradientCheckpointingLayer):  # type: ignore[misc]
    """Cross-attention and a feed-forward, each behind a tanh gate that starts shut."""

    def __init__(self, config: FlamingoConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        shape = () if config.is_paper else (1,)
        self.attn = MaskedCrossAttention(
            width,
            config.visual_size,
            config.cross_attention,
            num_latents=config.resampler.num_latents,
            normalises_media=config.is_paper,
        )
        self.attn_gate = nn.Parameter(torch.zeros(shape))
        self.ff: nn.Sequential | None = None
        if config.has_cross_attention_mlp:
            self.ff = feed_forward(width, config.hidden_act)
            self.ff_gate = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, media: Tensor, image_indices: Tensor) -> Tensor:
        x = self.attn(x, media, image_indices) * self.attn_gate.tanh() + x
        if self.ff is not None:
            x = self.ff(x) * self.ff_gate.tanh() + x
        return x
