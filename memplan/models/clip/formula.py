"""CLIP's forward pass with its loss, as in transformers' `modeling_clip.py`.

Letters: B pairs of a picture and a text, P the size of the space they share.
"""

from memplan.formulas.layers import cast, copy, lower, multiply, upper
from memplan.formulas.linear import linear
from memplan.formulas.loss import cross_entropy, keep_as_fp32
from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.clip.config import ClipConfig
from memplan.models.clip.towers import text_model, vision_model


def batch_bytes(config: ClipConfig, batch: Batch) -> int:
    """Pictures in fp32 and token ids in int64; there are no labels."""
    num_pixels = config.vision_config.num_channels * batch.image_size**2
    return batch.size * (4 * num_pixels + 8 * batch.seq_len)


def forward(t: Tape, config: ClipConfig, batch: Batch) -> Tensor:
    """`CLIPModel.forward` with return_loss."""
    B, size = batch.size, batch.image_size
    pixel_values = t.input((B, config.vision_config.num_channels, size, size), "fp32")
    with t.scope("vision_model"):
        patches, pooled_picture = vision_model(t, config.vision_config, pixel_values)
    image_embeds = linear(
        t, "visual_projection", pooled_picture, config.projection_dim, bias=False
    )
    del pooled_picture
    with t.scope("text_model"):
        tokens, pooled_text = text_model(t, config.text_config, (B, batch.seq_len))
    text_embeds = linear(
        t, "text_projection", pooled_text, config.projection_dim, bias=False
    )
    del pooled_text
    outputs = (image_embeds, text_embeds)

    image_embeds = normalized(t, image_embeds)
    text_embeds = normalized(t, text_embeds)
    logits_per_text = similarity(t, text_embeds, image_embeds)
    logit_scale = t.apply("exp", (t.weight("logit_scale", ()),), (), "fp32")
    logits_per_text = multiply(t, logits_per_text, logit_scale)
    t.end_phase("forward")
    loss = contrastive_loss(t, logits_per_text)
    # CLIPOutput holds the towers' own outputs with the rest, until the loss is kept.
    keep_as_fp32(t, *outputs, patches, tokens, logits_per_text, logits_per_text)
    return loss


def normalized(t: Tape, embeds: Tensor) -> Tensor:
    """`embeds / _get_vector_norm(embeds)`: squares, their sum and its root in fp32.

    Saved: the fp32 embeds for the square, the sum for the root, both for the division.
    """
    B, P = embeds.shape
    source = upper(t, embeds)
    squares = t.apply("pow", (source,), (B, P), source.dtype, saved=(source,))
    total = t.apply("sum", (squares,), (B, 1), squares.dtype)
    norm = t.apply(
        "pow", (total,), (B, 1), total.dtype, saved=(total,), saves_output=True
    )
    dtype = "fp32" if "fp32" in (embeds.dtype, norm.dtype) else embeds.dtype
    return t.apply("div", (embeds, norm), (B, P), dtype, saved=(embeds, norm))


def similarity(t: Tape, text_embeds: Tensor, image_embeds: Tensor) -> Tensor:
    """`matmul(text_embeds, image_embeds.t())`: saves both factors."""
    rows, columns = lower(t, text_embeds), lower(t, image_embeds)
    shape = (rows.shape[0], columns.shape[0])
    return t.apply("mm", (rows, columns), shape, rows.dtype, saved=(rows, columns))


def contrastive_loss(t: Tape, similarity: Tensor) -> Tensor:
    """`image_text_contrastive_loss`: cross-entropy over rows, then over columns."""
    caption_loss = cross_entropy(t, similarity)
    image_loss = cross_entropy(t, copy(t, similarity))
    return cast(t, t.apply("mean", (caption_loss, image_loss), (), "fp32"), "fp32")
