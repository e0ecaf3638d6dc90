"""GPT-NeoX's forward pass, in the shape of transformers' `modeling_gpt_neox.py`.

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
from memplan.formulas.stacks import Layers, repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.gpt_neox.config import GptNeoxConfig


def forward(t: Tape, config: GptNeoxConfig, batch: Batch) -> Tensor:
    """`GPTNeoXForCausalLM.forward` with labels: the loss."""
    with t.scope("gpt_neox.embed_in"):
        table = t.weight(
            "weight",
            (config.vocab_size, config.hidden_size),
            is_tied=config.tie_word_embeddings,
        )
        inputs_embeds = token_embedding(t, table, (batch.size, batch.seq_len))
    hidden_states = decoder(
        t,
        config,
        inputs_embeds,
        lambda t, layer, x: repeat_layers(
            t, "layers", config.num_hidden_layers, layer, x
        ),
    )
    del inputs_embeds
    shared = table if config.tie_word_embeddings else None
    return predict(t, batch, hidden_states, config.vocab_size, table=shared)


def decoder(
    t: Tape, config: GptNeoxConfig, inputs_embeds: Tensor, layers: Layers
) -> Tensor:
    """`GPTNeoXModel.forward` from the embeddings on; `layers` runs the layers."""
    with t.scope("gpt_neox"):
        B, L, _ = inputs_embeds.shape
        dtype = inputs_embeds.dtype
        positions = t.tensor((1, L), "int64")
        mask = causal_mask(t, (B, L, L), dtype)
        embeds = dropout(t, inputs_embeds, config.hidden_dropout)
        cosines = t.tensor((1, 1, L, config.rotated_size), dtype)
        sines = t.tensor((1, 1, L, config.rotated_size), dtype)
        layer = Layer(config, mask, positions, cosines, sines)
        hidden_states = t.view(embeds, embeds.shape)
        del embeds
        hidden_states = layers(t, layer, hidden_states)
        return layer_norm(t, "final_layer_norm", hidden_states)


@dataclass(frozen=True, slots=True)
class Layer:
    """`GPTNeoXLayer`, on sequences without padding."""

    config: GptNeoxConfig
    mask: Tensor | None
    positions: Tensor
    """An argument of the layer, which a checkpoint of it holds too."""
    cosines: Tensor
    sines: Tensor

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        probability = self.config.hidden_dropout
        attn_output = self.attention(t, layer_norm(t, "input_layernorm", x))
        attn_output = dropout(t, attn_output, probability)
        if self.config.use_parallel_residual:
            mlp_output = self.mlp(t, layer_norm(t, "post_attention_layernorm", x))
            mlp_output = dropout(t, mlp_output, probability)
            return add(t, add(t, mlp_output, attn_output), x)
        attn_output = add(t, attn_output, x)
        mlp_output = self.mlp(t, layer_norm(t, "post_attention_layernorm", attn_output))
        mlp_output = dropout(t, mlp_output, probability)
        return add(t, mlp_output, attn_output)

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`GPTNeoXAttention`: one projection; a part of query and key is rotated."""
        config = self.config
        B, L, D = x.shape
        heads = (B, config.num_attention_heads, L, config.head_size)
        with t.scope("attention"):
            bias = config.attention_bias
            qkv = linear(t, "query_key_value", x, 3 * D, bias=bias)
            query, key, value = t.split(qkv, [heads] * 3)
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
            return linear(t, "dense", attn_output, D, bias=bias)

    def mlp(self, t: Tape, x: Tensor) -> Tensor:
        """`GPTNeoXMLP`."""
        with t.scope("mlp"):
            inner_size = self.config.intermediate_size
            hidden_states = linear(t, "dense_h_to_4h", x, inner_size)
            hidden_states = activation(t, self.config.hidden_act, hidden_states)
            return linear(t, "dense_4h_to_h", hidden_states, x.shape[-1])
