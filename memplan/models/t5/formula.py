"""T5's forward pass, in the shape of transformers' `modeling_t5.py`.

Letters: B batch, L tokens of the encoder or the decoder, S keys, D d_model, H heads,
K size of a head, V vocabulary.
"""

from collections.abc import Callable

from memplan.formulas.layers import dropout, scale, token_embedding
from memplan.formulas.linear import linear
from memplan.formulas.loss import cross_entropy, keep_as_fp32
from memplan.formulas.parameters import Shape
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor, Weight
from memplan.models.t5.blocks import (
    DecoderBlock,
    EncoderBlock,
    relative_position_bias,
    rms_norm,
    zero_position_bias,
)
from memplan.models.t5.config import T5Config

Embed = Callable[[Tape, Weight, Shape], Tensor]


def forward(t: Tape, config: T5Config, batch: Batch) -> Tensor:
    """`T5ForConditionalGeneration.forward` with labels: the loss."""
    shared = shared_table(t, config)
    loss, outputs = seq2seq(
        t,
        config,
        batch,
        token_embedding(t, shared, (batch.size, batch.seq_len)),
        shared,
        token_embedding,
    )
    keep_as_fp32(t, *outputs)
    return loss


def batch_bytes(config: T5Config, batch: Batch) -> int:
    """Token ids of the encoder, and labels of the decoder, as int64."""
    return 8 * batch.size * (batch.seq_len + target_len(batch))


def target_len(batch: Batch) -> int:
    """Tokens of the decoder: generation runs it once for each, with a cache."""
    return batch.target_seq_len if batch.has_labels else 1


def shared_table(t: Tape, config: T5Config) -> Weight:
    """The one table of words of encoder, decoder, and of a tied head."""
    with t.scope("shared"):
        return t.weight("weight", (config.vocab_size, config.d_model))


def seq2seq(
    t: Tape,
    config: T5Config,
    batch: Batch,
    inputs_embeds: Tensor,
    shared: Weight,
    embed: Embed,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """From the encoder's embeddings on: the loss, without an upcast of the logits.

    With it are returned the logits and the encoder's output. `embed` looks up what the
    decoder reads.
    """
    encoder_last_hidden_state = encoder(t, config, inputs_embeds)
    del inputs_embeds
    if not batch.has_labels:
        t.end_phase("prompt")
    shape = (batch.size, target_len(batch))
    decoder_input_ids = t.tensor(shape, "int64")
    decoder_last_hidden_state = decoder(
        t, config, embed(t, shared, shape), encoder_last_hidden_state
    )
    sequence_output = decoder_last_hidden_state
    if config.tie_word_embeddings:
        sequence_output = scale(t, sequence_output)
    head = shared if config.tie_word_embeddings else None
    lm_logits = linear(
        t, "lm_head", sequence_output, config.vocab_size, bias=False, weight=head
    )
    if not batch.has_labels:
        return lm_logits, ()
    t.end_phase("forward")
    loss = cross_entropy(t, lm_logits)
    del decoder_input_ids
    return loss, (lm_logits, encoder_last_hidden_state)


def encoder(t: Tape, config: T5Config, inputs_embeds: Tensor) -> Tensor:
    """`T5Stack.forward` of the encoder, after its embedding: [B, L, D]."""
    L = inputs_embeds.shape[1]
    with t.scope("encoder"):
        hidden_states = dropout(t, inputs_embeds, config.dropout_rate)
        if hidden_states is inputs_embeds:
            hidden_states = t.view(inputs_embeds, inputs_embeds.shape)
        position_bias = relative_position_bias(t, config, L)
        hidden_states = repeat_layers(
            t,
            "block",
            config.num_layers,
            EncoderBlock(config, position_bias),
            hidden_states,
        )
        hidden_states = rms_norm(t, "final_layer_norm", hidden_states)
        return dropout(t, hidden_states, config.dropout_rate)


def decoder(
    t: Tape, config: T5Config, inputs_embeds: Tensor, encoder_hidden_states: Tensor
) -> Tensor:
    """`T5Stack.forward` of the decoder, after its embedding: [B, L, D]."""
    L, S = inputs_embeds.shape[1], encoder_hidden_states.shape[1]
    with t.scope("decoder"):
        hidden_states = dropout(t, inputs_embeds, config.dropout_rate)
        if hidden_states is inputs_embeds:
            hidden_states = t.view(inputs_embeds, inputs_embeds.shape)
        block = DecoderBlock(
            config,
            relative_position_bias(t, config, L),
            encoder_hidden_states,
            zero_position_bias(t, config, L, S, hidden_states.dtype),
        )
        hidden_states = repeat_layers(
            t, "block", config.decoder_layers, block, hidden_states
        )
        hidden_states = rms_norm(t, "final_layer_norm", hidden_states)
        return dropout(t, hidden_states, config.dropout_rate)
