"""The frozen language models: MPT, GPT-NeoX, and the paper's Chinchilla.

Letters: B batch, L tokens, D hidden size, H heads, K size of a head, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

from memplan.formulas.attention import attend, rotary
from memplan.formulas.layers import (
    activation,
    add,
    cast,
    concatenate,
    copy,
    embedding,
    layer_norm,
    rms_norm,
    scale,
)
from memplan.formulas.linear import linear
from memplan.formulas.loss import last_token
from memplan.formulas.plain_attention import matmul, softmax
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import Body
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.flamingo.config import LanguageConfig
from memplan.models.flamingo.cross_attention import masked_fill

Layers = Callable[[Tape, Body, Tensor], Tensor]
"""Runs the layers, with what Flamingo puts between them."""
Outputs = tuple[Tensor, Tensor]
"""The last hidden states [B, L, D], which live as long as the logits, and the logits
[B, L, V]."""


def language_model(
    t: Tape, config: LanguageConfig, batch: Batch, layers: Layers
) -> Outputs:
    """Last hidden states and logits of a language model whose layers `layers` runs."""
    model = {"mpt": mpt, "gpt_neox": gpt_neox, "chinchilla": chinchilla}
    return model[config.model_type](t, config, batch, layers)


def mpt(t: Tape, config: LanguageConfig, batch: Batch, layers: Layers) -> Outputs:
    """`MptForCausalLM.forward`: no biases anywhere, ALiBi, and a tied head."""
    B, L = batch.size, batch.seq_len
    D, V = config.hidden_size, config.vocab_size
    with t.scope("transformer"):
        with t.scope("wte"):
            table = t.weight("weight", (V, D))
        hidden_states = embedding(t, table, (B, L))
        # The slopes are made for the longest sequence, the mask for every sample.
        alibi = t.tensor(
            (config.num_attention_heads, 1, config.max_position_embeddings), "fp32"
        )
        causal_mask = t.tensor((B, 1, L, L), "bool")
        layer = MptBlock(config, alibi, causal_mask)
        hidden_states = layers(t, layer, hidden_states)
        hidden_states = layer_norm(t, "norm_f", hidden_states, bias=False)
    head_input = predicting(t, batch, hidden_states)
    logits = linear(t, "lm_head", head_input, V, bias=False, weight=table)
    return hidden_states, logits


@dataclass(frozen=True, slots=True)
class MptBlock:
    """`MptBlock`: attention is always computed step by step (`modeling_mpt.py`)."""

    config: LanguageConfig
    alibi: Tensor
    causal_mask: Tensor

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        layernorm_output = layer_norm(t, "norm_1", x, bias=False)
        hidden_states = add(t, self.attention(t, layernorm_output), x)
        layernorm_output = layer_norm(t, "norm_2", hidden_states, bias=False)
        with t.scope("ffn"):
            inner = linear(t, "up_proj", layernorm_output, 4 * x.shape[-1], bias=False)
            inner = activation(t, "gelu", inner)
            inner = linear(t, "down_proj", inner, x.shape[-1], bias=False)
            return add(t, inner, hidden_states)

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`MptAttention`: scores in fp32 from the bias on, masked, softmax in fp32.

        Saved: copies of query, key and value in head order, the softmax, its cast, and
        the mask that all layers share.
        """
        config = self.config
        B, L, D = x.shape
        heads = (B, config.num_attention_heads, L, config.head_size)
        with t.scope("attn"):
            mixed_qkv = linear(t, "Wqkv", x, 3 * D, bias=False)
            query, key, value = (
                t.apply("view", (part,), heads, part.dtype, alias=part)
                for part in t.split(mixed_qkv, [(B, L, D)] * 3)
            )
            scores = scale(t, matmul(t, query, key, (*heads[:3], L)))
            scores = add(t, scores, self.alibi)
            scores = masked_fill(t, scores, self.causal_mask)
            weights = cast(t, softmax(t, scores, in_fp32=False), value.dtype)
            context = matmul(
                t, weights, value, heads, copies_first=False, copies_gradient=True
            )
            context = copy(t, t.view(context, (B, L, D)))
            return linear(t, "out_proj", context, D, bias=False)


def gpt_neox(t: Tape, config: LanguageConfig, batch: Batch, layers: Layers) -> Outputs:
    """`GPTNeoXForCausalLM.forward`: biases, rotary positions, a head of its own."""
    B, L = batch.size, batch.seq_len
    D, V = config.hidden_size, config.vocab_size
    with t.scope("gpt_neox"):
        with t.scope("embed_in"):
            table = t.weight("weight", (V, D))
        hidden_states = embedding(t, table, (B, L))
        dtype = hidden_states.dtype
        cosines = t.tensor((1, 1, L, config.head_size), dtype)
        sines = t.tensor((1, 1, L, config.head_size), dtype)
        layer = NeoxLayer(config, cosines, sines)
        hidden_states = layers(t, layer, hidden_states)
        hidden_states = layer_norm(t, "final_layer_norm", hidden_states)
    head_input = predicting(t, batch, hidden_states)
    return hidden_states, linear(t, "embed_out", head_input, V, bias=False)


def predicting(t: Tape, batch: Batch, hidden_states: Tensor) -> Tensor:
    """The positions that get logits: all to train, the last to generate."""
    return hidden_states if batch.has_labels else last_token(t, hidden_states)


@dataclass(frozen=True, slots=True)
class NeoxLayer:
    """`GPTNeoXLayer` (`modeling_gpt_neox.py`), on sequences without padding."""

    config: LanguageConfig
    cosines: Tensor
    sines: Tensor

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        attn_output = self.attention(t, layer_norm(t, "input_layernorm", x))
        if self.config.use_parallel_residual:
            mlp_output = self.mlp(t, layer_norm(t, "post_attention_layernorm", x))
            return add(t, add(t, mlp_output, attn_output), x)
        attn_output = add(t, attn_output, x)
        mlp_output = self.mlp(t, layer_norm(t, "post_attention_layernorm", attn_output))
        return add(t, mlp_output, attn_output)

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`GPTNeoXAttention`: one projection, rotary query and key."""
        config = self.config
        B, L, D = x.shape
        heads = (B, config.num_attention_heads, L, config.head_size)
        with t.scope("attention"):
            qkv = linear(t, "query_key_value", x, 3 * D)
            query, key, value = t.split(qkv, [heads] * 3)
            del qkv
            query = concatenate(t, [rotary(t, query, self.cosines, self.sines)], heads)
            key = concatenate(t, [rotary(t, key, self.cosines, self.sines)], heads)
            attn_output = attend(t, query, key, value, causal=True)
            return linear(t, "dense", attn_output, D)

    def mlp(self, t: Tape, x: Tensor) -> Tensor:
        with t.scope("mlp"):
            hidden_states = linear(t, "dense_h_to_4h", x, 4 * x.shape[-1])
            hidden_states = activation(t, "gelu", hidden_states)
            return linear(t, "dense_4h_to_h", hidden_states, x.shape[-1])


def chinchilla(
    t: Tape, config: LanguageConfig, batch: Batch, layers: Layers
) -> Outputs:
    """Chinchilla as the paper's counts have it: 13 D^2 a layer, and a tied head.

    Twelve of them are usual; the thirteenth projects relative positions, as in
    Transformer-XL (Gopher, arXiv 2112.11446, section 3.1: RMSNorm, relative positions).
    """
    B, L = batch.size, batch.seq_len
    D, V = config.hidden_size, config.vocab_size
    with t.scope("embed"):
        table = t.weight("weight", (V, D))
    hidden_states = embedding(t, table, (B, L))
    # <EOC> has a learnt embedding of its own (section 3.2.1), in the place of an id.
    eoc = t.weight("eoc_embedding", (1, D))
    row = cast(t, eoc, hidden_states.dtype)
    ends = t.tensor((B, L, 1), "bool")
    hidden_states = t.apply(
        "where", (row, hidden_states), (B, L, D), row.dtype, saved=(ends,)
    )
    del row, ends
    positions = t.tensor((1, L, D), hidden_states.dtype)
    hidden_states = layers(t, ChinchillaLayer(config, positions), hidden_states)
    hidden_states = rms_norm(t, "norm", hidden_states)
    head_input = predicting(t, batch, hidden_states)
    logits = linear(t, "head", head_input, V, bias=False, weight=table)
    end = linear(t, "end", head_input, 1, bias=False, weight=eoc)
    logits = t.apply(
        "copy_slice", (logits, end), logits.shape, logits.dtype, alias=logits
    )
    return hidden_states, logits


@dataclass(frozen=True, slots=True)
class ChinchillaLayer:
    """A pre-norm layer with relative attention, step by step, and GELU."""

    config: LanguageConfig
    positions: Tensor

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        D = x.shape[-1]
        hidden_states = add(t, x, self.attention(t, rms_norm(t, "norm_1", x)))
        inner = linear(t, "up", rms_norm(t, "norm_2", hidden_states), 4 * D, bias=False)
        inner = activation(t, "gelu", inner)
        return add(t, hidden_states, linear(t, "down", inner, D, bias=False))

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """Scores of contents and of distances, added, masked, softmax in fp32."""
        config = self.config
        B, L, D = x.shape
        heads = (B, config.num_attention_heads, L, config.head_size)
        with t.scope("attention"):
            query = t.view(linear(t, "query", x, D, bias=False), heads)
            key = t.view(linear(t, "key", x, D, bias=False), heads)
            value = t.view(linear(t, "value", x, D, bias=False), heads)
            relative = linear(t, "relative", self.positions, D, bias=False)
            distance = t.view(relative, (1, *heads[1:]))
            scores = matmul(t, query, key, (*heads[:3], L))
            shifted = matmul(t, query, distance, (*heads[:3], L))
            scores = scale(t, add(t, scores, copy(t, shifted)))
            scores = masked_fill(t, scores, t.tensor((1, 1, L, L), "bool"))
            weights = cast(t, softmax(t, scores, in_fp32=False), value.dtype)
            context = matmul(
                t, weights, value, heads, copies_first=False, copies_gradient=True
            )
            context = copy(t, t.view(context, (B, L, D)))
            return linear(t, "output", context, D, bias=False)
