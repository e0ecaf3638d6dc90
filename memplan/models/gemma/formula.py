"""Gemma's forward pass, in the shape of transformers' `modeling_gemma*.py`.

Letters: B batch, L sequence length, D hidden size, H heads, G key-value heads,
K size of a head.
"""

from dataclasses import dataclass, replace

from memplan.formulas.attention import attend, causal_mask, rotary
from memplan.formulas.decoder import gated_mlp, predict
from memplan.formulas.layers import (
    add,
    cast,
    embedding,
    input_embedding,
    mean_of_squares,
    multiply,
    rsqrt,
    scale,
)
from memplan.formulas.linear import linear
from memplan.formulas.plain_attention import require_eager
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import repeat_kinds
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.gemma.config import FULL, SLIDING, GemmaConfig


def forward(t: Tape, config: GemmaConfig, batch: Batch) -> Tensor:
    """`GemmaForCausalLM.forward` with labels, or that of 2 and 3: the loss."""
    if config.is_always_eager:
        require_eager(t, "Gemma 2")
        t.setting = replace(t.setting, attention="eager")
    with t.scope("model.embed_tokens"):
        table = t.weight(
            "weight",
            (config.vocab_size, config.hidden_size),
            is_tied=config.tie_word_embeddings,
        )
        rows = embedding(t, table, (batch.size, batch.seq_len))
        t.leave_table(table)
        inputs_embeds = input_embedding(t, scale(t, rows))
        del rows
    hidden_states = decoder(t, config, inputs_embeds)
    del inputs_embeds
    return predict(
        t,
        batch,
        hidden_states,
        config.vocab_size,
        table=table if config.tie_word_embeddings else None,
        is_capped=config.caps_logits,
    )


def decoder(t: Tape, config: GemmaConfig, inputs_embeds: Tensor) -> Tensor:
    """`GemmaModel.forward` from the embeddings on: all layers and the last norm."""
    with t.scope("model"):
        B, L, _ = inputs_embeds.shape
        dtype = inputs_embeds.dtype
        positions = t.tensor((1, L), "int64")
        windows: dict[str, int | None] = {FULL: None}
        if config.model_type != "gemma":
            windows[SLIDING] = config.sliding_window
        masks = {
            kind: causal_mask(t, (B, L, L), dtype, window)
            for kind, window in windows.items()
        }
        tables = rotary_tables(t, config, L, dtype)
        kinds = {
            kind: DecoderLayer(config, masks[kind], positions, *tables[kind])
            for kind in tables
        }
        layers = [kinds[kind] for kind in config.types_of_layers]
        hidden_states = t.view(inputs_embeds, inputs_embeds.shape)
        hidden_states = repeat_kinds(t, "layers", layers, hidden_states)
        return rms_norm(t, "norm", hidden_states)


def rotary_tables(
    t: Tape, config: GemmaConfig, L: int, dtype: str
) -> dict[str, tuple[Tensor, Tensor]]:
    """Cosines and sines by kind of layer; Gemma 3 has another base for each kind."""
    shape = (1, 1, L, config.head_dim)
    kinds = sorted(set(config.types_of_layers))
    if config.model_type != "gemma3_text":
        return dict.fromkeys(kinds, (t.tensor(shape, dtype), t.tensor(shape, dtype)))
    return {kind: (t.tensor(shape, dtype), t.tensor(shape, dtype)) for kind in kinds}


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """`GemmaDecoderLayer`, and `Gemma2DecoderLayer` with its sandwich norms."""

    config: GemmaConfig
    mask: Tensor | None
    positions: Tensor
    """An argument of the layer, which a checkpoint of it holds too."""
    cosines: Tensor
    sines: Tensor

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        config = self.config
        residual = x
        hidden_states = rms_norm(t, "input_layernorm", x)
        hidden_states = self.attention(t, hidden_states)
        if config.has_sandwich_norms:
            hidden_states = rms_norm(t, "post_attention_layernorm", hidden_states)
        hidden_states = add(t, residual, hidden_states)

        residual = hidden_states
        before = "pre_feedforward" if config.has_sandwich_norms else "post_attention"
        hidden_states = rms_norm(t, f"{before}_layernorm", hidden_states)
        hidden_states = gated_mlp(
            t, hidden_states, config.intermediate_size, config.activation
        )
        if config.has_sandwich_norms:
            hidden_states = rms_norm(t, "post_feedforward_layernorm", hidden_states)
        hidden_states = add(t, residual, hidden_states)
        return hidden_states

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`GemmaAttention`: B, L, D in and out; heads of a size of their own."""
        config = self.config
        with t.scope("self_attn"):
            query = self.heads(t, "q_proj", x, config.num_attention_heads)
            key = self.heads(t, "k_proj", x, config.num_key_value_heads)
            value = self.heads(t, "v_proj", x, config.num_key_value_heads)
            if config.has_head_norms:
                query = rms_norm(t, "q_norm", query)
                key = rms_norm(t, "k_norm", key)
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
                caps_scores=config.caps_scores,
            )
            return linear(
                t, "o_proj", attn_output, x.shape[-1], bias=config.attention_bias
            )

    def heads(self, t: Tape, name: str, x: Tensor, num_heads: int) -> Tensor:
        """A projection as [B, H, L, K]."""
        K = self.config.head_dim
        B, L, _ = x.shape
        states = linear(t, name, x, num_heads * K, bias=self.config.attention_bias)
        return t.view(states, (B, num_heads, L, K))


def rms_norm(t: Tape, name: str, x: Tensor) -> Tensor:
    """`GemmaRMSNorm`: all in fp32, times 1 + weight, then back to the input's dtype.

    Saved: the input in fp32, the reciprocal root, and what is multiplied by the weight,
    in fp32 as well: 8 bytes an element in every precision.
    """
    with t.scope(name):
        hidden_states = cast(t, x, "fp32")
        roots = rsqrt(t, mean_of_squares(t, hidden_states))
        output = multiply(t, hidden_states, roots)
        weight = cast(t, t.weight("weight", x.shape[-1:]), "fp32")
        output = multiply(t, output, increment(t, weight))
        return cast(t, output, x.dtype)


def increment(t: Tape, x: Tensor) -> Tensor:
    """`1.0 + x`: nothing saved, the gradient is passed on."""
    return t.apply("add", (x,), x.shape, x.dtype, passes_gradient=True)
