"""The Perceiver Resampler: any number of visual features into 64 tokens.

Letters: B batch, T pictures of a sample, V features of a picture, N latents, D width
of the resampler, H heads, K size of a head.
"""

from dataclasses import dataclass

from memplan.formulas.layers import add, concatenate, layer_norm, scale
from memplan.formulas.linear import linear
from memplan.formulas.stacks import stack
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.flamingo.config import FlamingoConfig
from memplan.models.flamingo.cross_attention import attend, feed_forward, in_heads

NUM_FRAMES = 8
"""Learnt time embeddings of the paper's resampler, one for each frame of a video."""


@dataclass(frozen=True, slots=True)
class Resampler:
    """`PerceiverResampler`: [B, T, V, width of the tower] to [B, T, N, D]."""

    config: FlamingoConfig

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        config = self.config.resampler
        features = self.embedded(t, x) if self.config.is_paper else x
        B, T = x.shape[:2]
        latents = t.weight("latents", (config.num_latents, config.hidden_size))
        shape = (B, T, config.num_latents, config.hidden_size)
        layer = Layer(self.config, features)
        with t.scope("layers.0"):
            # Latents are the same for all pictures: an expanded view of the weight.
            y = layer(
                t, t.apply("expand", (latents,), shape, latents.dtype, alias=latents)
            )
        y = stack(t, "layers", config.depth - 1, layer, y)
        return layer_norm(t, "norm", y)

    def embedded(self, t: Tape, x: Tensor) -> Tensor:
        """The paper's: features at the resampler's width, with their frame's time."""
        width = self.config.resampler.hidden_size
        features = linear(t, "projection", x, width, bias=False)
        times = t.weight("time_embeddings", (NUM_FRAMES, width))
        return add(
            t,
            features,
            t.apply("slice", (times,), (1, width), times.dtype, alias=times),
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """`PerceiverAttention` of latents over features and latents, and a feed-forward."""

    config: FlamingoConfig
    features: Tensor

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        with t.scope("0"):
            y = add(t, self.attention(t, x), x)
        with t.scope("1"):
            hidden = feed_forward(t, self.config.hidden_act, y)
        return add(t, hidden, y)

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """Keys and values of both, queries of the latents; norms of their own."""
        heads = self.config.resampler.attention
        H, K = heads.num_heads, heads.head_size
        B, T, N, D = x.shape
        M, inner = self.features.shape[2] + N, H * K
        # OpenFlamingo cuts the class token off: what is left is no contiguous tensor.
        features = layer_norm(
            t, "norm_media", self.features, is_strided=not self.config.is_paper
        )
        latents = layer_norm(t, "norm_latents", x)
        query = linear(t, "to_q", latents, inner, bias=False)
        query = in_heads(t, t.view(query, (B * T, N, inner)), H, K)
        kv_input = concatenate(t, [features, latents], (B, T, M, D))
        key, value = t.split(
            linear(t, "to_kv", kv_input, 2 * inner, bias=False), [(B * T, M, inner)] * 2
        )
        key, value = in_heads(t, key, H, K), in_heads(t, value, H, K)
        query = scale(t, query)
        return t.view(attend(t, query, key, value, D), x.shape)
