"""LLaVA's forward pass, as in transformers' `modeling_llava.py`.

Letters: B batch, N pictures, T tokens of a picture, L tokens of the prompt, D hidden
size of the language model.
"""

from memplan.formulas.decoder import predict
from memplan.formulas.layers import activation, cast, copy, part, token_embedding
from memplan.formulas.linear import linear
from memplan.formulas.prompts import check_prompt, masked_scatter
from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor, Weight
from memplan.models.clip.towers import vision_tower as clip_tower
from memplan.models.llama.formula import decoder
from memplan.models.llava.config import LlavaConfig
from memplan.models.siglip.towers import vision_tower as siglip_tower


def batch_bytes(config: LlavaConfig, batch: Batch) -> int:
    """Pictures in fp32, token ids and labels in int64."""
    pixels = config.vision_config.num_channels * batch.image_size**2
    return batch.size * (4 * batch.images_per_sample * pixels + 2 * 8 * batch.seq_len)


def forward(t: Tape, config: LlavaConfig, batch: Batch) -> Tensor:
    """`LlavaForConditionalGeneration.forward` with labels: the loss."""
    check_prompt(batch, config.num_image_tokens)
    text = config.text_config
    with t.scope("model.language_model.embed_tokens"):
        table = t.weight(
            "weight", (text.vocab_size, text.hidden_size), is_tied=config.ties_head
        )
    with t.scope("model"):
        hidden_states, image_features = multimodal_states(t, config, batch, table)
    with t.scope("lm_head"):
        shared = table if config.ties_head else None
    loss = predict(t, batch, hidden_states, text.vocab_size, table=shared)
    del image_features  # returned with the logits
    return loss


def multimodal_states(
    t: Tape, config: LlavaConfig, batch: Batch, table: Weight
) -> tuple[Tensor, Tensor]:
    """`LlavaModel.forward`: hidden states of the prompt, and the pictures' features.

    What the tower returned lives as long as the language model runs.
    """
    inputs_embeds = token_embedding(t, table, (batch.size, batch.seq_len))
    N, size = batch.size * batch.images_per_sample, batch.image_size
    pixel_values = t.input((N, config.vision_config.num_channels, size, size), "fp32")
    image_outputs = tower_outputs(t, config, pixel_values)
    image_features = project(t, config, image_outputs[0])
    _, T, D = image_features.shape
    # A list of pictures is joined again: their gradients are stacked for it.
    pictures = t.apply(
        "unbind",
        (image_features,),
        image_features.shape,
        image_features.dtype,
        alias=image_features,
    )
    joined = t.apply("cat", (pictures,), (N * T, D), pictures.dtype, passes_views=True)
    del pictures
    joined = cast(t, joined, inputs_embeds.dtype)
    inputs_embeds = masked_scatter(t, inputs_embeds, joined)
    hidden_states = decoder(
        t, config.text_config, inputs_embeds, batch.seq_len, "language_model"
    )
    del image_outputs, image_features
    return hidden_states, joined


def tower_outputs(
    t: Tape, config: LlavaConfig, pixel_values: Tensor
) -> tuple[Tensor, ...]:
    """The hidden states that are read, and what else the tower returns."""
    tower = config.vision_config
    with t.scope("vision_tower"):
        if tower.has_class_token:
            return clip_tower(t, tower.as_clip, pixel_values, config.num_read_layers)
        return siglip_tower(t, tower.as_siglip, pixel_values, config.num_read_layers)


def project(t: Tape, config: LlavaConfig, hidden_states: Tensor) -> Tensor:
    """`LlavaMultiModalProjector`; without the first token, rows are no longer dense.

    The product copies them, unless autocast does so before it.
    """
    D, bias = config.text_config.hidden_size, config.multimodal_projector_bias
    N, L, width = hidden_states.shape
    selected = hidden_states
    if config.vision_feature_select_strategy == "default":
        selected = part(t, hidden_states, (N, L - 1, width))
        if N > 1 and not _is_cast(t, selected):
            selected = copy(t, selected)
    with t.scope("multi_modal_projector"):
        states = linear(t, "linear_1", selected, D, bias=bias)
        states = activation(t, config.projector_hidden_act, states)
        return linear(t, "linear_2", states, D, bias=bias)


def _is_cast(t: Tape, x: Tensor) -> bool:
    return t.setting.autocast is not None and x.dtype == "fp32"
