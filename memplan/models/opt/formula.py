"""OPT's forward pass, in the shape of transformers' `modeling_opt.py`.

Letters: B batch, L sequence length, D hidden size, H heads, K size of a head.
"""

from dataclasses import dataclass

from memplan.formulas.attention import attend, causal_mask
from memplan.formulas.decoder import predict
from memplan.formulas.layers import (
    activation,
    add,
    dropout,
    embedding,
    layer_norm,
    scale,
    token_embedding,
)
from memplan.formulas.linear import linear
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.opt.config import POSITION_OFFSET, OptConfig


def forward(t: Tape, config: OptConfig, batch: Batch) -> Tensor:
    """`OPTForCausalLM.forward` with labels: the loss."""
    with t.scope("model.decoder.embed_tokens"):
        table = t.weight(
            "weight",
            (config.vocab_size, config.embed_size),
            is_tied=config.tie_word_embeddings,
        )
        inputs_embeds = token_embedding(t, table, (batch.size, batch.seq_len))
    hidden_states = decoder(t, config, inputs_embeds)
    del inputs_embeds
    shared = table if config.tie_word_embeddings else None
    return predict(t, batch, hidden_states, config.vocab_size, table=shared)


def decoder(t: Tape, config: OptConfig, words: Tensor) -> Tensor:
    """`OPTDecoder.forward` from the word embeddings on.

    Positions are counted from a mask of ones, for every sample. Words and positions
    stay until it returns.
    """
    with t.scope("model.decoder"):
        B, L, _ = words.shape
        D = config.hidden_size
        attention_mask = t.tensor((B, L), "fp32")
        position_ids = t.tensor((B, L), "int64")
        mask = causal_mask(t, (B, L, L), words.dtype)
        with t.scope("embed_positions"):
            num_rows = config.max_position_embeddings + POSITION_OFFSET
            positions = t.weight("weight", (num_rows, D))
        indices = t.tensor((B, L), "int64")
        pos_embeds = embedding(t, positions, (B, L), indices)
        del indices
        inputs_embeds = t.view(words, words.shape)
        if config.embed_size != D:
            inputs_embeds = linear(t, "project_in", words, D, bias=False)
        hidden_states = add(t, inputs_embeds, pos_embeds)
        layer = DecoderLayer(config, mask, position_ids)
        hidden_states = repeat_layers(
            t, "layers", config.num_hidden_layers, layer, hidden_states
        )
        if config.do_layer_norm_before:
            hidden_states = norm(t, config, "final_layer_norm", hidden_states)
        if config.embed_size != D:
            width = config.embed_size
            hidden_states = linear(t, "project_out", hidden_states, width, bias=False)
        del attention_mask, inputs_embeds, pos_embeds
        return hidden_states


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """`OPTDecoderLayer`: norms before attention and MLP, or after their sums."""

    config: OptConfig
    mask: Tensor | None
    position_ids: Tensor
    """An argument of the layer, which a checkpoint of it holds too."""

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        config = self.config
        is_first = config.do_layer_norm_before
        hidden_states = x
        if is_first:
            hidden_states = norm(t, config, "self_attn_layer_norm", x)
        hidden_states = self.attention(t, hidden_states)
        hidden_states = dropout(t, hidden_states, config.dropout)
        hidden_states = add(t, x, hidden_states)
        if not is_first:
            hidden_states = norm(t, config, "self_attn_layer_norm", hidden_states)

        residual = hidden_states
        if is_first:
            hidden_states = norm(t, config, "final_layer_norm", hidden_states)
        bias = config.enable_bias
        hidden_states = linear(t, "fc1", hidden_states, config.ffn_dim, bias=bias)
        hidden_states = activation(t, config.activation_function, hidden_states)
        hidden_states = linear(t, "fc2", hidden_states, x.shape[-1], bias=bias)
        hidden_states = dropout(t, hidden_states, config.dropout)
        hidden_states = add(t, residual, hidden_states)
        if not is_first:
            hidden_states = norm(t, config, "final_layer_norm", hidden_states)
        return hidden_states

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`OPTAttention`: the query is scaled before the attention."""
        config = self.config
        with t.scope("self_attn"):
            query = scale(t, self.heads(t, "q_proj", x))
            key, value = self.heads(t, "k_proj", x), self.heads(t, "v_proj", x)
            attn_output = attend(
                t,
                query,
                key,
                value,
                mask=self.mask,
                causal=self.mask is None,
                dropout_probability=config.attention_dropout,
            )
            return linear(
                t, "out_proj", attn_output, x.shape[-1], bias=config.enable_bias
            )

    def heads(self, t: Tape, name: str, x: Tensor) -> Tensor:
        """A projection as [B, H, L, K]."""
        config = self.config
        B, L, D = x.shape
        states = linear(t, name, x, D, bias=config.enable_bias)
        return t.view(states, (B, config.num_attention_heads, L, config.head_size))


def norm(t: Tape, config: OptConfig, name: str, x: Tensor) -> Tensor:
    return layer_norm(t, name, x, weight=config.layer_norm_elementwise_affine)
