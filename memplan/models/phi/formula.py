"""Phi's forward pass, in the shape of transformers' `modeling_phi.py`.

Letters: B batch, L sequence length, D hidden size, H heads, K size of a head.
"""

from dataclasses import dataclass

from memplan.formulas.attention import attend, causal_mask, rotary_part
from memplan.formulas.decoder import predict
from memplan.formulas.layers import (
    activation,
    add,
    dropout,
    layer_norm,
    token_embedding,
)
from memplan.formulas.linear import linear
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.phi.config import PhiConfig


def forward(t: Tape, config: PhiConfig, batch: Batch) -> Tensor:
    """`PhiForCausalLM.forward` with labels: the loss. The head has a bias."""
    with t.scope("model.embed_tokens"):
        table = t.weight(
            "weight",
            (config.vocab_size, config.hidden_size),
            is_tied=config.tie_word_embeddings,
        )
        inputs_embeds = token_embedding(t, table, (batch.size, batch.seq_len))
    hidden_states = decoder(t, config, inputs_embeds)
    del inputs_embeds
    shared = table if config.tie_word_embeddings else None
    return predict(t, batch, hidden_states, config.vocab_size, table=shared, bias=True)


def decoder(t: Tape, config: PhiConfig, inputs_embeds: Tensor) -> Tensor:
    """`PhiModel.forward` from the embeddings on: all layers and the last norm."""
    with t.scope("model"):
        B, L, _ = inputs_embeds.shape
        dtype = inputs_embeds.dtype
        positions = t.tensor((1, L), "int64")
        mask = causal_mask(t, (B, L, L), dtype)
        embeds = dropout(t, inputs_embeds, config.embd_pdrop)
        cosines = t.tensor((1, 1, L, config.rotated_size), dtype)
        sines = t.tensor((1, 1, L, config.rotated_size), dtype)
        layer = DecoderLayer(config, mask, positions, cosines, sines)
        hidden_states = t.view(embeds, embeds.shape)
        hidden_states = repeat_layers(
            t, "layers", config.num_hidden_layers, layer, hidden_states
        )
        return layer_norm(t, "final_layernorm", hidden_states)


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """`PhiDecoderLayer`: attention and MLP beside each other, on one norm."""

    config: PhiConfig
    mask: Tensor | None
    positions: Tensor
    """An argument of the layer, which a checkpoint of it holds too."""
    cosines: Tensor
    sines: Tensor

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        probability = self.config.resid_pdrop
        hidden_states = layer_norm(t, "input_layernorm", x)
        attn_outputs = self.attention(t, hidden_states)
        attn_outputs = dropout(t, attn_outputs, probability)
        feed_forward = dropout(t, self.mlp(t, hidden_states), probability)
        hidden_states = add(t, add(t, attn_outputs, feed_forward), x)
        return hidden_states

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`PhiAttention`: a part of each head is rotated."""
        config = self.config
        with t.scope("self_attn"):
            query = self.heads(t, "q_proj", x, config.num_attention_heads)
            key = self.heads(t, "k_proj", x, config.kv_heads)
            value = self.heads(t, "v_proj", x, config.kv_heads)
            query, key = (
                rotary_part(t, query, self.cosines, self.sines),
                rotary_part(t, key, self.cosines, self.sines),
            )
            attn_output = attend(
                t,
                query,
                key,
                value,
                mask=self.mask,
                causal=self.mask is None,
                dropout_probability=config.attention_dropout,
                heads_first=True,
            )
            return linear(t, "dense", attn_output, x.shape[-1])

    def heads(self, t: Tape, name: str, x: Tensor, num_heads: int) -> Tensor:
        """A projection as [B, H, L, K]."""
        B, L, _ = x.shape
        K = self.config.head_size
        return t.view(linear(t, name, x, num_heads * K), (B, num_heads, L, K))

    def mlp(self, t: Tape, x: Tensor) -> Tensor:
        """`PhiMLP`."""
        with t.scope("mlp"):
            hidden_states = linear(t, "fc1", x, self.config.intermediate_size)
            hidden_states = activation(t, self.config.hidden_act, hidden_states)
            return linear(t, "fc2", hidden_states, x.shape[-1])
