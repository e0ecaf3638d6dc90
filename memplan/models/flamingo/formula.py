"""Flamingo's forward pass: a frozen tower, a resampler, gated blocks in a frozen LM.

As in OpenFlamingo (`open_flamingo/src/flamingo.py`, `flamingo_lm.py`), on towers of
transformers. Letters: B batch, T pictures of a sample, V features of a picture,
N latents, L tokens, D width of what is spoken of.
"""

from memplan.errors import PlanError
from memplan.formulas.layers import copy, lower
from memplan.formulas.loss import causal_lm_loss
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import Body, repeat_kinds, repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.clip.towers import vision_model
from memplan.models.flamingo.config import FlamingoConfig
from memplan.models.flamingo.cross_attention import GatedBlock
from memplan.models.flamingo.language import language_model
from memplan.models.flamingo.nfnet import nfnet
from memplan.models.flamingo.resampler import Resampler


def batch_bytes(config: FlamingoConfig, batch: Batch) -> int:
    """Pictures as weights are stored; token ids, attention mask and labels in int64."""
    num_values = batch.images_per_sample * 3 * batch.image_size**2
    pictures = batch.stored_item_bytes * num_values
    return batch.size * (pictures + 3 * 8 * batch.seq_len)


def forward(t: Tape, config: FlamingoConfig, batch: Batch) -> Tensor:
    """`Flamingo.forward` with labels: the loss."""
    media = visual_tokens(t, config, batch)
    if not batch.has_labels:
        t.end_phase("pictures")
    with t.scope("lang_encoder"):
        hidden_states, logits = language_model(
            t,
            config.text_config,
            batch,
            lambda t, layer, x: conditioned_layers(t, config, media, layer, x),
        )
    if not batch.has_labels:
        return logits
    loss = causal_lm_loss(t, logits)
    del hidden_states
    return loss


def visual_tokens(t: Tape, config: FlamingoConfig, batch: Batch) -> Tensor:
    """`_encode_vision_x`: the tower without gradients, then 64 tokens a picture.

    Returns [B, T * N, width that the cross-attention reads].
    """
    B, T, size = batch.size, batch.images_per_sample, batch.image_size
    # Pictures come in what the weights are stored in (`module.py`, make_batch).
    vision_x = t.input((B * T, 3, size, size), t.setting.hidden_dtype)
    # `_no_split_modules` names the modules that train: of the tower there is none.
    with t.no_grad(), t.whole(), t.scope("vision_encoder"):
        features = visual_features(t, config, vision_x)
    check_frozen(t)
    _, V, D = features.shape
    x = t.view(features, (B, T, V, D))
    del features
    x = repeat_layers(t, "perceiver", 1, Resampler(config), x)
    N, width = config.resampler.num_latents, config.visual_size
    media = t.view(x, (B, T * N, x.shape[-1]))
    if config.is_paper:
        # The paper does not say how 1536 become the width of its language model: a
        # product with a matrix that its counts leave no room for, and nothing saved.
        lowered = lower(t, media)
        media = t.apply("project", (lowered,), (B, T * N, width), lowered.dtype)
    return media


def check_frozen(t: Tape) -> None:
    """The tower keeps nothing for a backward pass, so nothing in it can be trained."""
    for parameter in t.parameters.values():
        if parameter.stored.is_trainable and parameter.name.startswith("vision_"):
            raise PlanError(
                "Flamingo's vision encoder runs without gradients: "
                f"{parameter.name} cannot be trained.",
                hint="Add --trainable '^perceiver,gated_cross_attn_layer', or a set of "
                "the preset.",
            )


def visual_features(t: Tape, config: FlamingoConfig, vision_x: Tensor) -> Tensor:
    """[B * T, V, D]: CLIP's patches without the class token, or the map of an NFNet."""
    if config.nfnet_config is not None:
        feature_map = nfnet(t, config.nfnet_config, vision_x)
        BT, C, H, W = feature_map.shape
        return copy(t, t.view(feature_map, (BT, H * W, C)))
    assert config.vision_config is not None
    patches, _ = vision_model(t, config.vision_config, vision_x)
    if not config.is_paper:
        # open_clip projects the class token as well, and nobody reads it.
        width = config.vision_config.hidden_size
        t.weight("proj", (width, config.vision_config.projection_dim))
    BT, tokens, D = patches.shape
    return t.view(patches, (BT, tokens - 1, D))


def conditioned_layers(
    t: Tape, config: FlamingoConfig, media: Tensor, layer: Body, x: Tensor
) -> Tensor:
    """The layers of the language model, with a gated block before every n-th.

    The paper's first block is before layer 0, OpenFlamingo's before layer n - 1. A
    frozen layer below the first block keeps no activations unless the embeddings are
    trained, and so is traced apart from those above.
    """
    num_layers = config.text_config.num_hidden_layers
    every = config.cross_attn_every_n_layers
    block = GatedBlock(config, media)

    def gated(t: Tape, x: Tensor) -> Tensor:
        with t.scope("gated_cross_attn_layer"):
            return block(t, x)

    def decoder(t: Tape, x: Tensor) -> Tensor:
        with t.scope("decoder_layer"):
            return layer(t, x)

    num_before = 0 if config.is_paper else every - 1
    bodies = []
    for index in range(num_layers - num_before):
        bodies += [gated, decoder] if index % every == 0 else [decoder]
    y = t.view(x, x.shape)
    y = repeat_layers(t, "first", num_before, layer, y)
    return repeat_kinds(t, "layers", bodies, y)
