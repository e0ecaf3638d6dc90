"""The Querying Transformer, as in transformers' `modeling_instructblip.py`.

BERT's layers, in some of which the queries attend to the picture. BLIP-2's has no text
branch; InstructBLIP's reads the instruction beside the queries.

Letters: N pictures, Q queries, T tokens of the instruction, S patches, D hidden size,
H heads, K size of a head.
"""

from dataclasses import dataclass
from math import lcm

from memplan.formulas.attention import attend
from memplan.formulas.layers import (
    activation,
    adapted_embedding,
    add,
    concatenate,
    copy,
    dropout,
    embedding,
    layer_norm,
    part,
)
from memplan.formulas.linear import linear
from memplan.formulas.stacks import stack
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.blip2.config import QFormerConfig


def qformer(
    t: Tape,
    config: QFormerConfig,
    query_tokens: Tensor,
    image_embeds: Tensor,
    *,
    has_text_branch: bool,
    num_text_tokens: int,
) -> Tensor:
    """`Blip2QFormerModel.forward` and InstructBLIP's: [N, Q + T, D]."""
    N, Q, D = image_embeds.shape[0], query_tokens.shape[1], config.hidden_size
    with t.scope("qformer"):
        query_embeds = t.apply(
            "expand",
            (query_tokens,),
            (N, Q, D),
            query_tokens.dtype,
            alias=query_tokens,
        )
        if has_text_branch:
            with t.scope("embeddings"):
                embeds = with_text(t, config, query_embeds, num_text_tokens)
                embedding_output = layer_norm(t, "layernorm", embeds)
                del embeds
        else:
            embedding_output = layer_norm(t, "layernorm", query_embeds)
        embedding_output = dropout(t, embedding_output, config.hidden_dropout_prob)
        layer = Layer(config, image_embeds, Q, has_text_branch)
        hidden_states = t.view(embedding_output, embedding_output.shape)
        return encoder(t, config, layer, hidden_states)


def with_text(
    t: Tape, config: QFormerConfig, query_embeds: Tensor, num_text_tokens: int
) -> Tensor:
    """`InstructBlipQFormerEmbeddings` before its norm: queries, then the instruction.

    Where there is no instruction, its tables stay unused.
    """
    N, Q, D = query_embeds.shape
    word_table = (config.vocab_size, D)
    position_table = (config.max_position_embeddings, D)
    if not num_text_tokens:
        t.unused_weight("word_embeddings.weight", word_table)
        t.unused_weight("position_embeddings.weight", position_table)
        return query_embeds
    words = t.weight("word_embeddings.weight", word_table)
    positions = t.weight("position_embeddings.weight", position_table)
    embeddings = adapted_embedding(t, words, (N, num_text_tokens))
    position_embeddings = embedding(t, positions, (1, num_text_tokens))
    embeddings = add(t, embeddings, position_embeddings)
    shape = (N, Q + num_text_tokens, D)
    return concatenate(t, [query_embeds, embeddings], shape)


def encoder(t: Tape, config: QFormerConfig, layer: "Layer", x: Tensor) -> Tensor:
    """All layers; those that repeat together are traced once.

    A group has the least number of layers after which cross-attention and
    checkpoints come again in the same way.
    """
    mode, every = t.setting.checkpointing, t.setting.checkpoint_every
    size = lcm(config.cross_attention_frequency, every)
    count, rest = divmod(config.num_hidden_layers, size)

    def one(t: Tape, x: Tensor, index: int, place: str) -> Tensor:
        body = layer
        if index % config.cross_attention_frequency == 0:
            body = layer.with_cross_attention()
        checkpointing = mode if index % every == 0 else "none"
        return stack(t, place, 1, body, x, checkpointing=checkpointing)

    def group(t: Tape, x: Tensor) -> Tensor:
        hidden_states = one(t, x, 0, "0")
        for index in range(1, size):
            hidden_states = one(t, hidden_states, index, str(index))
        return hidden_states

    hidden_states = stack(t, "encoder.layer", count, group, x, is_unit=False)
    for index in range(rest):
        hidden_states = one(t, hidden_states, index, f"encoder.layer.last.{index}")
    return hidden_states


def flat_part(t: Tape, x: Tensor, num_tokens: int) -> Tensor:
    """Some tokens of each sample, as linear layers take them.

    A product wants rows that follow each other: it copies a slice, unless autocast
    has cast it.
    """
    N, L, D = x.shape
    if num_tokens == L:
        return t.view(x, x.shape)
    tokens = part(t, x, (N, num_tokens, D))
    if t.setting.autocast is not None and x.dtype == "fp32":
        return tokens
    return copy(t, tokens)


@dataclass(frozen=True, slots=True)
class Layer:
    """`InstructBlipQFormerLayer`; without a text branch `Blip2QFormerLayer`."""

    config: QFormerConfig
    image_embeds: Tensor
    query_length: int
    has_text_branch: bool
    has_cross_attention: bool = False

    def with_cross_attention(self) -> "Layer":
        """The same layer where queries attend to the picture."""
        return Layer(
            self.config,
            self.image_embeds,
            self.query_length,
            self.has_text_branch,
            True,
        )

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        L, Q = x.shape[1], self.query_length
        attention_output = self.attention(t, "attention", x, x)
        query_attention_output = flat_part(t, attention_output, Q)
        if self.has_cross_attention:
            query_attention_output = self.attention(
                t, "crossattention", query_attention_output, self.image_embeds
            )
        layer_output = self.feed_forward(t, "_query", query_attention_output)
        if not self.has_text_branch:
            return layer_output
        if L == Q:
            self.declare_feed_forward(t)
            return layer_output
        layer_output_text = self.feed_forward(
            t, "", flat_part(t, attention_output, L - Q)
        )
        layer_output = concatenate(t, [layer_output, layer_output_text], x.shape)
        return layer_output

    def attention(self, t: Tape, name: str, x: Tensor, states: Tensor) -> Tensor:
        """`InstructBlipQFormerAttention`: keys and values are made of `states`."""
        config = self.config
        with t.scope(name):
            with t.scope("attention"):
                query_layer = self.heads(t, "query", x)
                key_layer = self.heads(t, "key", states)
                value_layer = self.heads(t, "value", states)
                attn_output = attend(
                    t,
                    query_layer,
                    key_layer,
                    value_layer,
                    dropout_probability=config.attention_probs_dropout_prob,
                    softmax_in_fp32=False,
                )
            del query_layer, key_layer, value_layer
            with t.scope("output"):
                return self.add_and_norm(t, attn_output, x)

    def heads(self, t: Tape, name: str, x: Tensor) -> Tensor:
        """A projection as [N, H, L, K]."""
        config = self.config
        states = linear(t, name, x, config.hidden_size)
        N, L, _ = x.shape
        return t.view(states, (N, config.num_attention_heads, L, config.head_size))

    def feed_forward(self, t: Tape, suffix: str, x: Tensor) -> Tensor:
        """`feed_forward_chunk_query`, or `feed_forward_chunk` for the instruction."""
        with t.scope(f"intermediate{suffix}"):
            intermediate_output = linear(t, "dense", x, self.config.intermediate_size)
            intermediate_output = activation(
                t, self.config.hidden_act, intermediate_output
            )
        with t.scope(f"output{suffix}"):
            return self.add_and_norm(t, intermediate_output, x)

    def add_and_norm(self, t: Tape, x: Tensor, residual: Tensor) -> Tensor:
        """Dense, dropout, sum, LayerNorm, as in BERT."""
        config = self.config
        hidden_states = linear(t, "dense", x, config.hidden_size)
        hidden_states = dropout(t, hidden_states, config.hidden_dropout_prob)
        return layer_norm(t, "LayerNorm", add(t, hidden_states, residual))

    def declare_feed_forward(self, t: Tape) -> None:
        """The weights of the text branch, which nothing passes through."""
        D, F = self.config.hidden_size, self.config.intermediate_size
        for name, shape in (
            ("intermediate.dense.weight", (F, D)),
            ("intermediate.dense.bias", (F,)),
            ("output.dense.weight", (D, F)),
            ("output.dense.bias", (D,)),
            ("output.LayerNorm.weight", (D,)),
            ("output.LayerNorm.bias", (D,)),
        ):
            t.unused_weight(name, shape, is_linear=".dense." in name)
