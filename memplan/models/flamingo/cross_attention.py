"""Gated cross-attention: the blocks that Flamingo puts between frozen layers.

Letters: B batch, L text tokens, S visual tokens of all pictures of a sample, H heads,
K size of a head, D hidden size.
"""

from dataclasses import dataclass

from memplan.formulas.layers import (
    activation,
    add,
    copy,
    layer_norm,
    masked_fill,
    multiply,
    scale,
)
from memplan.formulas.linear import linear
from memplan.formulas.parameters import Shape
from memplan.formulas.plain_attention import matmul, softmax
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.flamingo.config import FlamingoConfig


@dataclass(frozen=True, slots=True)
class GatedBlock:
    """`GatedCrossAttentionBlock`: tanh-gated cross-attention, then a gated MLP."""

    config: FlamingoConfig
    media: Tensor
    """Visual tokens [B, S, width], which all blocks read."""

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        y = add(t, self.gated(t, "attn_gate", self.attention(t, x)), x)
        if self.config.has_cross_attention_mlp:
            with t.scope("ff"):
                hidden = feed_forward(t, self.config.hidden_act, y)
            y = add(t, self.gated(t, "ff_gate", hidden), y)
        return y

    def gated(self, t: Tape, name: str, x: Tensor) -> Tensor:
        """`x * gate.tanh()`: saves both; a gate of one element in fp32 widens `x`.

        OpenFlamingo's gates are vectors of one element, the paper's are scalars.
        """
        gate = t.weight(name, () if self.config.is_paper else (1,))
        return multiply(t, x, activation(t, "tanh", gate))

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`MaskedCrossAttention`: the paper normalises the visual tokens too."""
        heads = self.config.cross_attention
        B, L, D = x.shape
        S = self.media.shape[1]
        H, K = heads.num_heads, heads.head_size
        with t.scope("attn"):
            hidden = layer_norm(t, "norm", x)
            query = in_heads(t, linear(t, "to_q", hidden, H * K, bias=False), H, K)
            media = self.media
            if self.config.is_paper:
                media = layer_norm(t, "norm_media", media)
            key, value = t.split(
                linear(t, "to_kv", media, 2 * H * K, bias=False), [(B, S, H * K)] * 2
            )
            key, value = in_heads(t, key, H, K), in_heads(t, value, H, K)
            query = scale(t, query)
            return attend(t, query, key, value, D, mask_shape=(B, 1, L, S))


def in_heads(t: Tape, x: Tensor, num_heads: int, head_size: int) -> Tensor:
    """[B, N, H * K] as [B, H, N, K]: a view; its gradient is copied back."""
    B, N, _ = x.shape
    shape = (B, num_heads, N, head_size)
    return t.apply("view", (x,), shape, x.dtype, alias=x)


def attend(
    t: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out_features: int,
    *,
    mask_shape: Shape | None = None,
) -> Tensor:
    """From scaled queries to `to_out`, as both of OpenFlamingo's modules compute it.

    Every step is a tensor and stays until the module returns. Saved: copies of query,
    key and value in head order, softmax (in fp32 under autocast) and its masked result.
    `mask_shape` is that of the mask which shows a text token its own picture alone: it
    is made in every block, and its inverse is saved.
    """
    B, H, N, K = query.shape
    sim = matmul(t, query, key, (B, H, N, key.shape[2]))
    if mask_shape is not None:
        text_to_media_mask = t.tensor(mask_shape, "bool")
        sim = masked_fill(t, sim, t.tensor(mask_shape, "bool"))
    largest = t.tensor((B, H, N, 1), sim.dtype)
    sim = t.apply("sub", (sim,), sim.shape, sim.dtype, passes_gradient=True)
    del largest
    attn = softmax(t, sim, in_fp32=False)
    if mask_shape is not None:
        attn = masked_fill(t, attn, t.tensor((*mask_shape[:-1], 1), "bool"))
    output = matmul(
        t, attn, value, query.shape, copies_first=False, copies_gradient=True
    )
    output = t.view(copy(t, output), (B, N, H * K))
    projected = linear(t, "to_out", output, out_features, bias=False)
    if mask_shape is not None:
        del text_to_media_mask
    return projected


def feed_forward(t: Tape, hidden_act: str, x: Tensor) -> Tensor:
    """`FeedForward`: norm, linear, activation, linear; four times as wide inside."""
    D = x.shape[-1]
    hidden = layer_norm(t, "0", x)
    hidden = linear(t, "1", hidden, 4 * D, bias=False)
    hidden = activation(t, hidden_act, hidden)
    return linear(t, "3", hidden, D, bias=False)
