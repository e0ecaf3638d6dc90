"""MPT's forward pass, in the shape of transformers' `modeling_mpt.py`.

Letters: B batch, L sequence length, D hidden size, H heads, K size of a head.
"""

from dataclasses import dataclass

from memplan.formulas.decoder import predict
from memplan.formulas.layers import (
    activation,
    add,
    cast,
    copy,
    dropout,
    layer_norm,
    masked_fill,
    scale,
    token_embedding,
)
from memplan.formulas.linear import linear
from memplan.formulas.plain_attention import matmul, require_eager, softmax
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import Layers, repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.mpt.config import MptConfig


def forward(t: Tape, config: MptConfig, batch: Batch) -> Tensor:
    """`MptForCausalLM.forward` with labels: the loss. Its attention is its own."""
    require_eager(t, "MPT")
    with t.scope("transformer.wte"):
        table = t.weight(
            "weight",
            (config.vocab_size, config.d_model),
            is_tied=config.tie_word_embeddings,
        )
        inputs_embeds = token_embedding(t, table, (batch.size, batch.seq_len))
    hidden_states = transformer(
        t,
        config,
        inputs_embeds,
        lambda t, block, x: repeat_layers(t, "blocks", config.n_layers, block, x),
    )
    del inputs_embeds
    shared = table if config.tie_word_embeddings else None
    return predict(t, batch, hidden_states, config.vocab_size, table=shared)


def transformer(
    t: Tape, config: MptConfig, inputs_embeds: Tensor, layers: Layers
) -> Tensor:
    """`MptModel.forward` from the embeddings on; `layers` runs the blocks.

    The slopes are made for the longest sequence, the mask for every sample.
    """
    with t.scope("transformer"):
        B, L, _ = inputs_embeds.shape
        alibi = t.tensor((config.n_heads, 1, config.max_seq_len), "fp32")
        causal_mask = t.tensor((B, 1, L, L), "bool")
        hidden_states = t.view(inputs_embeds, inputs_embeds.shape)
        hidden_states = layers(t, Block(config, alibi, causal_mask), hidden_states)
        return layer_norm(t, "norm_f", hidden_states, bias=False)


@dataclass(frozen=True, slots=True)
class Block:
    """`MptBlock`: attention is always computed step by step."""

    config: MptConfig
    alibi: Tensor
    causal_mask: Tensor

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        probability = self.config.attn_config.attn_pdrop
        layernorm_output = layer_norm(t, "norm_1", x, bias=False)
        attn_outputs = self.attention(t, layernorm_output)
        hidden_states = add(t, dropout(t, attn_outputs, probability), x)
        layernorm_output = layer_norm(t, "norm_2", hidden_states, bias=False)
        with t.scope("ffn"):
            inner = linear(t, "up_proj", layernorm_output, 4 * x.shape[-1], bias=False)
            inner = activation(t, "gelu", inner)
            inner = linear(t, "down_proj", inner, x.shape[-1], bias=False)
            output = add(t, dropout(t, inner, probability), hidden_states)
        return output

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`MptAttention`: scores in fp32 from the bias on, masked, softmax in fp32.

        Saved: copies of query, key and value in head order, the softmax, its cast, and
        the mask that all layers share.
        """
        config = self.config
        B, L, D = x.shape
        heads = (B, config.n_heads, L, config.head_size)
        with t.scope("attn"):
            mixed_qkv = linear(t, "Wqkv", x, 3 * D, bias=False)
            query, key, value = (
                t.apply("view", (part,), heads, part.dtype, alias=part)
                for part in t.split(mixed_qkv, [(B, L, D)] * 3)
            )
            scores = scale(t, matmul(t, query, key, (*heads[:3], L)))
            scores = add(t, scores, self.alibi)
            scores = masked_fill(t, scores, self.causal_mask)
            weights = cast(t, softmax(t, scores, in_fp32=True), value.dtype)
            weights = dropout(t, weights, config.attn_config.attn_pdrop)
            context = matmul(
                t, weights, value, heads, copies_first=False, copies_gradient=True
            )
            context = copy(t, t.view(context, (B, L, D)))
            return linear(t, "out_proj", context, D, bias=False)
