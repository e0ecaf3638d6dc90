"""The frozen language models: MPT, GPT-NeoX, and the paper's Chinchilla.

Letters: B batch, L tokens, D hidden size, H heads, K size of a head, V vocabulary.
"""

from dataclasses import dataclass

from memplan.formulas.layers import (
    activation,
    add,
    cast,
    copy,
    embedding,
    masked_fill,
    rms_norm,
    scale,
)
from memplan.formulas.linear import linear
from memplan.formulas.loss import last_token
from memplan.formulas.parameters import Shape
from memplan.formulas.plain_attention import matmul, softmax
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import Layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor, Weight
from memplan.models.flamingo.config import LanguageConfig
from memplan.models.gpt_neox.config import GptNeoxConfig
from memplan.models.gpt_neox.formula import decoder
from memplan.models.mpt.config import MptConfig
from memplan.models.mpt.formula import transformer

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
    sizes = MptConfig(
        d_model=D,
        n_heads=config.num_attention_heads,
        n_layers=config.num_hidden_layers,
        vocab_size=V,
        max_seq_len=config.max_position_embeddings,
    )
    with t.scope("transformer.wte"):
        table = t.weight("weight", (V, D), is_tied=True)
        inputs_embeds = token_rows(t, table, (B, L))
        t.leave_table(table)
    hidden_states = transformer(t, sizes, inputs_embeds, layers)
    del inputs_embeds
    head_input = predicting(t, batch, hidden_states)
    logits = linear(t, "lm_head", head_input, V, bias=False, weight=table)
    return hidden_states, logits


def gpt_neox(t: Tape, config: LanguageConfig, batch: Batch, layers: Layers) -> Outputs:
    """`GPTNeoXForCausalLM.forward`: heads rotated whole, a head of its own."""
    B, L = batch.size, batch.seq_len
    D, V = config.hidden_size, config.vocab_size
    sizes = GptNeoxConfig(
        hidden_size=D,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=4 * D,
        vocab_size=V,
        max_position_embeddings=config.max_position_embeddings,
        use_parallel_residual=config.use_parallel_residual,
        rotary_pct=1.0,
    )
    with t.scope("gpt_neox.embed_in"):
        table = t.weight("weight", (V, D))
        inputs_embeds = token_rows(t, table, (B, L))
        t.leave_table(table)
    hidden_states = decoder(t, sizes, inputs_embeds, layers)
    del inputs_embeds
    head_input = predicting(t, batch, hidden_states)
    return hidden_states, linear(t, "embed_out", head_input, V, bias=False)


def token_rows(t: Tape, table: Weight, shape: Shape) -> Tensor:
    """`embedding`, which PEFT makes require a gradient where it adapts the model.

    It does so where layers are checkpointed, and takes a model that does not say, as
    Flamingo, for one where they are; not beside a quantized base (peft 0.21
    `peft_model.py`, `is_gradient_checkpointing`).
    """
    rows = embedding(t, table, shape)
    if t.setting.low_rank is None or t.setting.quantization != "none":
        return rows
    return t.require_gradient(rows)


def predicting(t: Tape, batch: Batch, hidden_states: Tensor) -> Tensor:
    """The positions that get logits: all to train, the last to generate."""
    return hidden_states if batch.has_labels else last_token(t, hidden_states)


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
        table = t.weight("weight", (V, D), is_tied=True)
    hidden_states = token_rows(t, table, (B, L))
    t.leave_table(table)
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
        """Scores of contents and of distances, added, masked, softmax in fp32.

        The projected positions are the same for all samples, and copied for each to be
        multiplied. `gather`, which picks a distance's score, saves what it picks from,
        and from which place.
        """
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
            if B > 1:
                distance = t.apply("expand", (distance,), heads, distance.dtype)
            by_distance = matmul(
                t, query, distance, (*heads[:3], L), copies_second=False
            )
            back = t.tensor((L, L), "int64")
            gathered = t.apply(
                "gather",
                (by_distance,),
                by_distance.shape,
                by_distance.dtype,
                saved=(by_distance, back),
            )
            del by_distance, back
            scores = scale(t, add(t, scores, gathered))
            del gathered
            scores = masked_fill(t, scores, t.tensor((1, 1, L, L), "bool"))
            weights = cast(t, softmax(t, scores, in_fp32=False), value.dtype)
            context = matmul(
                t, weights, value, heads, copies_first=False, copies_gradient=True
            )
            context = copy(t, t.view(context, (B, L, D)))
            return linear(t, "output", context, D, bias=False)
