"""Llama's forward pass, in the shape of transformers' `modeling_llama.py`.

Mistral, Qwen2 and Qwen3 differ in biases and in norms on the heads.
"""

from dataclasses import dataclass
from functools import partial

from memplan.formulas.attention import attend, causal_mask, rotary
from memplan.formulas.decoder import gated_mlp, predict
from memplan.formulas.layers import add, rms_norm, token_embedding
from memplan.formulas.linear import linear
from memplan.formulas.parallel import (
    FIRST,
    LAST,
    gather_sequence,
    receive,
    scatter_sequence,
)
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import Body, repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.llama.config import LlamaConfig


def forward(t: Tape, config: LlamaConfig, batch: Batch) -> Tensor:
    """`LlamaForCausalLM.forward` with labels: the loss.

    A first pipeline stage ends with the hidden states that it sends on, a last one
    begins with those it receives.
    """
    B, L = batch.size, batch.seq_len
    table = None
    if t.setting.stage == LAST:
        hidden_states = receive(t, (B, L, config.hidden_size))
    else:
        with t.scope("model.embed_tokens"):
            table = t.weight(
                "weight",
                (config.vocab_size, config.hidden_size),
                is_tied=config.tie_word_embeddings,
            )
        hidden_states = scatter_sequence(t, token_embedding(t, table, (B, L)))
    hidden_states = decoder(t, config, hidden_states, L)
    if t.setting.stage == FIRST:
        t.end_phase("forward")
        return hidden_states
    hidden_states = gather_sequence(t, hidden_states)
    shared = table if config.tie_word_embeddings else None
    return predict(t, batch, hidden_states, config.vocab_size, table=shared)


def decoder(
    t: Tape,
    config: LlamaConfig,
    inputs_embeds: Tensor,
    L: int,
    name: str = "model",
    feed_forward: Body | None = None,
    num_tables: int = 1,
) -> Tensor:
    """`LlamaModel.forward` from the embeddings on: all layers and the last norm.

    `L` is the whole sequence, of which the embeddings can be a shard. `feed_forward`
    stands in the place of the MLP. With `num_tables` every sample is rotated by angles
    of its own, where pictures stand in it (M-RoPE).
    """
    with t.scope(name):
        B = inputs_embeds.shape[0]
        dtype = inputs_embeds.dtype
        positions = t.tensor((1, L), "int64")
        mask = causal_mask(t, (B, L, L), dtype, config.window)
        cosines = t.tensor((num_tables, 1, L, config.head_size), dtype)
        sines = t.tensor((num_tables, 1, L, config.head_size), dtype)
        mlp = feed_forward or partial(_mlp, config)
        layer = DecoderLayer(config, mask, positions, cosines, sines, mlp)
        hidden_states = t.view(inputs_embeds, inputs_embeds.shape)
        hidden_states = repeat_layers(
            t, "layers", config.num_hidden_layers, layer, hidden_states
        )
        if t.setting.stage == FIRST:
            return hidden_states
        return rms_norm(t, "norm", hidden_states)


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """`LlamaDecoderLayer`."""

    config: LlamaConfig
    mask: Tensor | None
    positions: Tensor
    """An argument of the layer, which a checkpoint of it holds too."""
    cosines: Tensor
    sines: Tensor
    feed_forward: Body

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        residual = x
        hidden_states = rms_norm(t, "input_layernorm", x)
        hidden_states = self.attention(t, hidden_states)
        hidden_states = add(t, residual, hidden_states)

        residual = hidden_states
        hidden_states = rms_norm(t, "post_attention_layernorm", hidden_states)
        hidden_states = self.feed_forward(t, hidden_states)
        hidden_states = add(t, residual, hidden_states)
        return hidden_states

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`LlamaAttention`: B, L, D in and out."""
        config = self.config
        H, G = config.num_attention_heads, config.kv_heads
        with t.scope("self_attn"):
            whole = gather_sequence(t, x)
            query = self.heads(t, "q", whole, H)
            key = self.heads(t, "k", whole, G)
            value = self.heads(t, "v", whole, G)
            query, key = (
                rotary(t, query, self.cosines, self.sines),
                rotary(t, key, self.cosines, self.sines),
            )
            attn_output = attend(
                t,
                query,
                key,
                value,
                mask=self.mask,
                causal=self.mask is None,
                dropout_probability=config.attention_dropout,
            )
            attn_output = linear(
                t,
                "o_proj",
                attn_output,
                config.hidden_size,
                bias=config.has_output_bias,
            )
            return scatter_sequence(t, attn_output)

    def heads(self, t: Tape, name: str, x: Tensor, num_heads: int) -> Tensor:
        """A projection as [B, H, L, K]; Qwen3 normalises query and key."""
        config = self.config
        B, L, _ = x.shape
        size = num_heads * config.head_size
        states = linear(t, f"{name}_proj", x, size, bias=config.has_qkv_bias)
        if config.has_head_norms and name != "v":
            split = t.view(states, (B, L, num_heads, config.head_size))
            states = rms_norm(t, f"{name}_norm", split)
        return t.view(states, (B, num_heads, L, config.head_size))


def _mlp(config: LlamaConfig, t: Tape, x: Tensor) -> Tensor:
    """`LlamaMLP`."""
    return gated_mlp(
        t, x, config.intermediate_size, config.hidden_act, bias=config.has_mlp_bias
    )
