"""BLIP-2's forward pass, as in transformers' `modeling_blip_2.py`.

InstructBLIP differs in its Q-Former, which reads the instruction too.

Letters: B batch, N pictures, L tokens of the prompt, Q queries of a picture, D hidden
size of the language model.
"""

from memplan.formulas.layers import adapted_embedding, cast
from memplan.formulas.linear import linear
from memplan.formulas.loss import keep_as_fp32
from memplan.formulas.prompts import check_prompt, masked_scatter
from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.blip2.config import Blip2Config
from memplan.models.blip2.qformer import flat_part, qformer
from memplan.models.blip2.vision import vision_model
from memplan.models.t5.formula import seq2seq, shared_table, target_len


def batch_bytes(config: Blip2Config, batch: Batch) -> int:
    """Pictures in fp32; prompt, labels and InstructBLIP's instruction in int64.

    The instruction comes with a mask.
    """
    num_pictures = batch.size * batch.images_per_sample
    num_text_tokens = instruction_len(config, batch)
    return (
        4 * num_pictures * 3 * batch.image_size**2
        + 8 * batch.size * (batch.seq_len + target_len(batch))
        + 2 * 8 * num_pictures * num_text_tokens
    )


def instruction_len(config: Blip2Config, batch: Batch) -> int:
    """Tokens that InstructBLIP's Q-Former reads: those of the prompt but for pictures.

    The processor tokenizes the same text for both (`processing_instructblip.py`).
    """
    if not config.has_text_branch:
        return 0
    num_image_tokens = config.num_query_tokens * batch.images_per_sample
    longest = config.qformer_config.max_position_embeddings
    return min(batch.seq_len - num_image_tokens, longest)


def forward(t: Tape, config: Blip2Config, batch: Batch) -> Tensor:
    """`Blip2ForConditionalGeneration.forward` with labels: the loss."""
    return captioning_loss(t, config, batch, instruction_len(config, batch))


def captioning_loss(
    t: Tape, config: Blip2Config, batch: Batch, num_text_tokens: int
) -> Tensor:
    """Pictures, through the towers, in place of their tokens in T5's prompt."""
    check_prompt(batch, config.num_query_tokens)
    N, size = batch.size * batch.images_per_sample, batch.image_size
    pixel_values = t.input((N, 3, size, size), "fp32")
    vision_outputs = vision_model(t, config.vision_config, pixel_values)
    query_tokens = t.weight(
        "query_tokens", (1, config.num_query_tokens, config.qformer_config.hidden_size)
    )
    qformer_outputs = qformer(
        t,
        config.qformer_config,
        query_tokens,
        vision_outputs[0],
        has_text_branch=config.has_text_branch,
        num_text_tokens=num_text_tokens,
    )
    query_output = qformer_outputs
    if num_text_tokens:
        query_output = flat_part(t, qformer_outputs, config.num_query_tokens)
    image_features = linear(t, "language_projection", query_output, config.text.d_model)
    del query_output
    if not batch.has_labels:
        t.end_phase("pictures")
    with t.scope("language_model"):
        shared = shared_table(t, config.text)
        inputs_embeds = adapted_embedding(t, shared, (batch.size, batch.seq_len))
        t.leave_table(shared)
        attention_mask = t.tensor((batch.size, batch.seq_len), "int64")
        language_model_inputs = cast(t, image_features, inputs_embeds.dtype)
        inputs_embeds = masked_scatter(t, inputs_embeds, language_model_inputs)
        loss, outputs = seq2seq(
            t, config.text, batch, inputs_embeds, shared, adapted_embedding
        )
    del attention_mask, language_model_inputs, image_features, inputs_embeds
    # The logits are returned twice: by the language model, and by this one.
    keep_as_fp32(t, *outputs[:1], *outputs, qformer_outputs, *vision_outputs)
    return loss
