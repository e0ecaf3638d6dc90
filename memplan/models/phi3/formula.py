"""Phi-3's forward pass, in the shape of transformers' `modeling_phi3.py`.

Letters: B batch, L sequence length, D hidden size, F inner size of the MLP, H heads,
G key-value heads, K size of a head.
"""

from dataclasses import dataclass

from memplan.formulas.attention import attend, causal_mask, rotary_part
from memplan.formulas.decoder import predict
from memplan.formulas.layers import (
    activation,
    add,
    dropout,
    multiply,
    part,
    rms_norm,
    token_embedding,
)
from memplan.formulas.linear import linear
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.phi3.config import Phi3Config


def forward(t: Tape, config: Phi3Config, batch: Batch) -> Tensor:
    """`Phi3ForCausalLM.forward` with labels: the loss."""
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
    return predict(t, batch, hidden_states, config.vocab_size, table=shared)


def decoder(t: Tape, config: Phi3Config, inputs_embeds: Tensor) -> Tensor:
    """`Phi3Model.forward` from the embeddings on: all layers and the last norm."""
    with t.scope("model"):
        B, L, _ = inputs_embeds.shape
        dtype = inputs_embeds.dtype
        positions = t.tensor((1, L), "int64")
        mask = causal_mask(t, (B, L, L), dtype, config.sliding_window)
        cosines = t.tensor((1, 1, L, config.rotated_size), dtype)
        sines = t.tensor((1, 1, L, config.rotated_size), dtype)
        layer = DecoderLayer(config, mask, positions, cosines, sines)
        hidden_states = t.view(inputs_embeds, inputs_embeds.shape)
        hidden_states = repeat_layers(
            t, "layers", config.num_hidden_layers, layer, hidden_states
        )
        return rms_norm(t, "norm", hidden_states)


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """`Phi3DecoderLayer`: Llama's, with fused projections and dropouts."""

    config: Phi3Config
    mask: Tensor | None
    positions: Tensor
    """An argument of the layer, which a checkpoint of it holds too."""
    cosines: Tensor
    sines: Tensor

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        probability = self.config.resid_pdrop
        residual = x
        hidden_states = rms_norm(t, "input_layernorm", x)
        hidden_states = self.attention(t, hidden_states)
        hidden_states = add(t, residual, dropout(t, hidden_states, probability))

        residual = hidden_states
        hidden_states = rms_norm(t, "post_attention_layernorm", hidden_states)
        hidden_states = self.mlp(t, hidden_states)
        hidden_states = add(t, residual, dropout(t, hidden_states, probability))
        return hidden_states

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`Phi3Attention`: query, key and value are slices of one projection."""
        config = self.config
        B, L, D = x.shape
        H, G, K = config.num_attention_heads, config.kv_heads, config.head_size
        with t.scope("self_attn"):
            qkv = linear(t, "qkv_proj", x, (H + 2 * G) * K, bias=False)
            query, key, value = (
                t.view(part(t, qkv, (B, L, heads * K)), (B, heads, L, K))
                for heads in (H, G, G)
            )
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
            return linear(t, "o_proj", attn_output, D, bias=False)

    def mlp(self, t: Tape, x: Tensor) -> Tensor:
        """`Phi3MLP`: gate and up are halves of one projection."""
        B, L, D = x.shape
        F = self.config.intermediate_size
        with t.scope("mlp"):
            up_states = linear(t, "gate_up_proj", x, 2 * F, bias=False)
            gate, up_states = t.split(up_states, [(B, L, F)] * 2)
            gate = activation(t, self.config.hidden_act, gate)
            return linear(t, "down_proj", multiply(t, up_states, gate), D, bias=False)
