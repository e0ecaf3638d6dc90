"""GPT-2's forward pass, in the shape of transformers' `modeling_gpt2.py`.

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
    token_embedding,
)
from memplan.formulas.linear import linear
from memplan.formulas.parallel import (
    FIRST,
    LAST,
    gather_sequence,
    receive,
    scatter_sequence,
)
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.gpt2.config import Gpt2Config


def forward(t: Tape, config: Gpt2Config, batch: Batch) -> Tensor:
    """`GPT2LMHeadModel.forward` with labels: the loss.

    A first pipeline stage ends with the hidden states that it sends on, a last one
    begins with those it receives.
    """
    B, L = batch.size, batch.seq_len
    table = None
    if t.setting.stage == LAST:
        arrived = receive(t, (B, L, config.n_embd))
        hidden_states = transformer(t, config, arrived, L)
    else:
        with t.scope("transformer.wte"):
            table = t.weight(
                "weight",
                (config.vocab_size, config.n_embd),
                is_tied=config.tie_word_embeddings,
            )
        hidden_states = transformer(t, config, token_embedding(t, table, (B, L)), L)
    if t.setting.stage == FIRST:
        t.end_phase("forward")
        return hidden_states
    hidden_states = gather_sequence(t, hidden_states)
    shared = table if config.tie_word_embeddings else None
    return predict(t, batch, hidden_states, config.vocab_size, table=shared)


def transformer(t: Tape, config: Gpt2Config, inputs_embeds: Tensor, L: int) -> Tensor:
    """`GPT2Model.forward` from the token embeddings on, or from what a stage receives.

    `L` is the whole sequence, of which the embeddings can be a shard.
    """
    with t.scope("transformer"):
        position_ids = t.tensor((1, L), "int64")
        mask = causal_mask(t, (inputs_embeds.shape[0], L, L), inputs_embeds.dtype)
        if t.setting.stage == LAST:
            hidden_states = t.view(inputs_embeds, inputs_embeds.shape)
        else:
            with t.scope("wpe"):
                positions = t.weight("weight", (config.n_positions, config.n_embd))
            position_embeds = embedding(t, positions, (1, L), position_ids)
            hidden_states = add(t, inputs_embeds, position_embeds)
            hidden_states = scatter_sequence(t, hidden_states)
            hidden_states = dropout(t, hidden_states, config.embd_pdrop)
        hidden_states = repeat_layers(
            t, "h", config.n_layer, Block(config, mask), hidden_states
        )
        del position_ids
        if t.setting.stage == FIRST:
            return hidden_states
        return layer_norm(t, "ln_f", hidden_states)


@dataclass(frozen=True, slots=True)
class Block:
    """`GPT2Block`."""

    config: Gpt2Config
    mask: Tensor | None

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        residual = x
        hidden_states = layer_norm(t, "ln_1", x)
        attn_output = self.attention(t, hidden_states)
        hidden_states = add(t, attn_output, residual)

        residual = hidden_states
        hidden_states = layer_norm(t, "ln_2", hidden_states)
        feed_forward_hidden_states = self.mlp(t, hidden_states)
        hidden_states = add(t, residual, feed_forward_hidden_states)
        return hidden_states

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`GPT2Attention`: one projection for query, key and value, then split."""
        config = self.config
        D = x.shape[-1]
        with t.scope("attn"):
            whole = gather_sequence(t, x)
            B, L, _ = whole.shape
            heads = (B, config.n_head, L, config.size_of_head)
            width = config.n_head * config.size_of_head
            fused = linear(t, "c_attn", whole, 3 * width, transposed=True)
            query, key, value = t.split(fused, [heads] * 3)
            del fused
            attn_output = attend(
                t,
                query,
                key,
                value,
                mask=self.mask,
                causal=True,
                dropout_probability=config.attn_pdrop,
                softmax_in_fp32=False,
                casts_weights=True,
            )
            attn_output = linear(t, "c_proj", attn_output, D, transposed=True)
            attn_output = scatter_sequence(t, attn_output)
            return dropout(t, attn_output, config.resid_pdrop)

    def mlp(self, t: Tape, x: Tensor) -> Tensor:
        """`GPT2MLP`."""
        config = self.config
        with t.scope("mlp"):
            whole = gather_sequence(t, x)
            hidden_states = linear(t, "c_fc", whole, config.inner_size, transposed=True)
            hidden_states = activation(t, config.activation_function, hidden_states)
            hidden_states = linear(
                t, "c_proj", hidden_states, x.shape[-1], transposed=True
            )
            hidden_states = scatter_sequence(t, hidden_states)
            return dropout(t, hidden_states, config.resid_pdrop)
