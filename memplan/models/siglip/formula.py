"""SigLIP's forward pass with its loss, as in transformers' `modeling_siglip.py`.

Letters: B pairs of a picture and a text, P the size of the space they share.
"""

from memplan.formulas.layers import add, multiply, upper
from memplan.formulas.loss import keep_as_fp32
from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.clip.formula import similarity
from memplan.models.siglip.config import SiglipConfig
from memplan.models.siglip.towers import text_model, vision_model


def batch_bytes(config: SiglipConfig, batch: Batch) -> int:
    """Pictures in fp32 and token ids in int64; there are no labels."""
    num_pixels = config.vision_config.num_channels * batch.image_size**2
    return batch.size * (4 * num_pixels + 8 * batch.seq_len)


def forward(t: Tape, config: SiglipConfig, batch: Batch) -> Tensor:
    """`SiglipModel.forward` with return_loss."""
    B, size = batch.size, batch.image_size
    pixel_values = t.input((B, config.vision_config.num_channels, size, size), "fp32")
    with t.scope("vision_model"):
        patches, pooled_picture = vision_model(t, config.vision_config, pixel_values)
    with t.scope("text_model"):
        tokens, pooled_text = text_model(t, config.text_config, (B, batch.seq_len))
    image_embeds = normalized(t, pooled_picture)
    text_embeds = normalized(t, pooled_text)
    logits_per_text = similarity(t, text_embeds, image_embeds)
    scale = t.apply("exp", (t.weight("logit_scale", (1,)),), (1,), "fp32")
    logits_per_text = multiply(t, logits_per_text, scale)
    logits_per_text = add(t, logits_per_text, t.weight("logit_bias", (1,)))
    loss = sigmoid_loss(t, logits_per_text)
    # SiglipOutput holds the towers' own outputs with the rest, until the loss is kept.
    keep_as_fp32(
        t,
        logits_per_text,
        logits_per_text,
        text_embeds,
        image_embeds,
        tokens,
        pooled_text,
        patches,
        pooled_picture,
    )
    t.end_phase("forward")  # the loss is computed within it, by no loss function
    return loss


def normalized(t: Tape, embeds: Tensor) -> Tensor:
    """`embeds / embeds.norm(p=2, dim=-1, keepdim=True)`: autocast takes norms in fp32.

    Saved: the embeds as the norm reads them and the norm; both for the division too.
    """
    B, P = embeds.shape
    source = upper(t, embeds)
    norm = t.apply(
        "norm", (source,), (B, 1), source.dtype, saved=(source,), saves_output=True
    )
    return t.apply("div", (embeds, norm), (B, P), norm.dtype, saved=(embeds, norm))


def sigmoid_loss(t: Tape, logits: Tensor) -> Tensor:
    """A sign for each pair, plus on the diagonal: logsigmoid of the signed logits.

    Saved: the signs, the signed logits, and what logsigmoid keeps beside them.
    """
    signs = t.tensor(logits.shape, "fp32")
    signed = multiply(t, signs, logits)
    likelihood = t.apply(
        "logsigmoid",
        (signed,),
        signed.shape,
        signed.dtype,
        saved=(signed,),
    )
    total = t.apply("sum", (likelihood,), logits.shape[:1], "fp32")
    return t.apply("mean", (total,), (), "fp32")
