"""T5's blocks, as in transformers' `modeling_t5.py`, and its position biases.

Letters: B batch, L queries, S keys, D d_model, H heads, K size of a head, F d_ff,
N buckets of relative positions.
"""

from dataclasses import dataclass

from memplan.formulas.attention import attend
from memplan.formulas.layers import (
    activation,
    add,
    cast,
    dropout,
    embedding_scratch_bytes,
    mean_of_squares,
    multiply,
    rsqrt,
)
from memplan.formulas.linear import linear
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.t5.config import T5Config


@dataclass(frozen=True, slots=True)
class EncoderBlock:
    """`T5Block` of the encoder: self-attention, then the MLP.

    The block has a name for the weights of attention until it returns: `_`.
    """

    config: T5Config
    position_bias: Tensor

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        weights: list[Tensor] = []
        with t.scope("layer.0"):
            hidden_states = self_attention(
                t, self.config, x, self.position_bias, weights, causal=False
            )
        hidden_states = clamp(t, hidden_states)
        with t.scope("layer.1"):
            hidden_states = feed_forward(t, self.config, hidden_states)
        return clamp(t, hidden_states)


@dataclass(frozen=True, slots=True)
class DecoderBlock:
    """`T5Block` of the decoder: cross-attention stands between the two."""

    config: T5Config
    position_bias: Tensor
    encoder_hidden_states: Tensor
    cross_position_bias: Tensor

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        weights: list[Tensor] = []
        with t.scope("layer.0"):
            hidden_states = self_attention(
                t, self.config, x, self.position_bias, weights, causal=True
            )
        hidden_states = clamp(t, hidden_states)
        with t.scope("layer.1"):
            hidden_states = self.cross_attention(t, hidden_states, weights)
        del weights[:-1]
        hidden_states = clamp(t, hidden_states)
        with t.scope("layer.2"):
            hidden_states = feed_forward(t, self.config, hidden_states)
        return clamp(t, hidden_states)

    def cross_attention(self, t: Tape, x: Tensor, weights: list[Tensor]) -> Tensor:
        """`T5LayerCrossAttention`: keys and values come from the encoder."""
        config = self.config
        normed_hidden_states = rms_norm(t, "layer_norm", x)
        with t.scope("EncDecAttention"):
            attention_output = attention(
                t,
                config,
                normed_hidden_states,
                self.encoder_hidden_states,
                self.cross_position_bias,
                weights,
                causal=False,
            )
        return add(t, x, dropout(t, attention_output, config.dropout_rate))


def self_attention(
    t: Tape,
    config: T5Config,
    x: Tensor,
    position_bias: Tensor,
    weights: list[Tensor],
    *,
    causal: bool,
) -> Tensor:
    """`T5LayerSelfAttention`."""
    normed_hidden_states = rms_norm(t, "layer_norm", x)
    with t.scope("SelfAttention"):
        attention_output = attention(
            t,
            config,
            normed_hidden_states,
            normed_hidden_states,
            position_bias,
            weights,
            causal=causal,
        )
    return add(t, x, dropout(t, attention_output, config.dropout_rate))


def attention(
    t: Tape,
    config: T5Config,
    x: Tensor,
    key_value_states: Tensor,
    position_bias: Tensor,
    weights: list[Tensor],
    *,
    causal: bool,
) -> Tensor:
    """`T5Attention`: scores are not divided by the root of K, but biased."""
    query_states = heads(t, config, "q", x)
    key_states = heads(t, config, "k", key_value_states)
    value_states = heads(t, config, "v", key_value_states)
    attn_output = attend(
        t,
        query_states,
        key_states,
        value_states,
        causal=causal,
        dropout_probability=config.dropout_rate,
        softmax_in_fp32=False,
        position_bias=position_bias,
        is_permuted_bias=key_value_states is x,
        returned=weights,
    )
    return linear(t, "o", attn_output, config.d_model, bias=False)


def heads(t: Tape, config: T5Config, name: str, x: Tensor) -> Tensor:
    """A projection as [B, H, L, K]."""
    B, L, _ = x.shape
    states = linear(t, name, x, config.inner_size, bias=False)
    return t.view(states, (B, config.num_heads, L, config.d_kv))


def feed_forward(t: Tape, config: T5Config, x: Tensor) -> Tensor:
    """`T5LayerFF`."""
    forwarded_states = rms_norm(t, "layer_norm", x)
    with t.scope("DenseReluDense"):
        forwarded_states = dense(t, config, forwarded_states)
    return add(t, x, dropout(t, forwarded_states, config.dropout_rate))


def dense(t: Tape, config: T5Config, x: Tensor) -> Tensor:
    """`T5DenseGatedActDense`, or `T5DenseActDense` in version 1.0.

    What wo multiplies is cast to the dtype of its weight, which is fp32 under autocast
    and wherever transformers keeps it so (`_keep_in_fp32_modules`); quantization
    leaves it out for the same reason.
    """
    if config.is_gated:
        hidden_gelu = activation(
            t, config.activation, linear(t, "wi_0", x, config.d_ff, bias=False)
        )
        hidden_linear = linear(t, "wi_1", x, config.d_ff, bias=False)
        hidden_states = multiply(t, hidden_gelu, hidden_linear)
    else:
        hidden_states = linear(t, "wi", x, config.d_ff, bias=False)
        hidden_states = activation(t, config.activation, hidden_states)
    hidden_states = dropout(t, hidden_states, config.dropout_rate)
    shape = (config.d_model, config.d_ff)
    dtype = t.policy(f"{t.place}.wo.weight", shape, True).dtype
    hidden_states = cast(t, hidden_states, dtype)
    return linear(t, "wo", hidden_states, config.d_model, bias=False)


def rms_norm(t: Tape, name: str, x: Tensor) -> Tensor:
    """`T5LayerNorm`: the mean of squares in fp32, the product in the wider dtype.

    Saved: an fp32 copy of a half-precision input, the input itself, the reciprocal
    root, and the normalised input in the weight's dtype.
    """
    with t.scope(name):
        variance = mean_of_squares(t, cast(t, x, "fp32"))
        hidden_states = multiply(t, x, rsqrt(t, variance))
        weight = t.weight("weight", x.shape[-1:])
        if weight.dtype != "fp32":
            hidden_states = cast(t, hidden_states, weight.dtype)
        return multiply(t, weight, hidden_states)


def clamp(t: Tape, x: Tensor) -> Tensor:
    """Infinities made finite, in fp16 alone: saves its input."""
    if x.dtype != "fp16":
        return x
    return t.apply("clamp", (x,), x.shape, x.dtype, saved=(x,))


def relative_position_bias(t: Tape, config: T5Config, L: int) -> Tensor:
    """`compute_bias` of the first block: [1, H, L, L], shared by all blocks.

    It is made in that block's attention, and its gradient summed over all. Saved: the
    int64 buckets of all pairs of positions; five of their size are alive meanwhile.
    """
    H, N = config.num_heads, config.relative_attention_num_buckets
    with t.scope("block.0.layer.0.SelfAttention.relative_attention_bias"):
        relative_position_bucket = t.tensor((L, L), "int64")
        t.note(5 * relative_position_bucket.num_bytes)
        table = t.weight("weight", (N, H))
        t.mark_embedding(table)
        values = t.apply(
            "embedding",
            (table,),
            (1, H, L, L),
            table.dtype,
            saved=(relative_position_bucket,),
            backward_scratch_bytes=embedding_scratch_bytes((N, H), L * L),
        )
        return values


def zero_position_bias(t: Tape, config: T5Config, L: int, S: int, dtype: str) -> Tensor:
    """Zeros in place of a bias between decoder and encoder: [1, H, L, S].

    They are made by the first block's cross-attention in the dtype of its queries.
    Those of a quantized layer have the dtype of its input. Checkpointing makes them
    want a gradient, which they keep.
    """
    if t.setting.quantization == "none":
        dtype = t.setting.autocast or dtype
    zeros = t.tensor((1, config.num_heads, L, S), dtype)
    if t.setting.checkpointing == "none":
        return zeros
    edge = t.new_edge()
    t.leaves.add(edge)
    return Tensor(t, zeros.storage, zeros.shape, zeros.dtype, edge)
