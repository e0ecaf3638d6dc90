"""SigLIP's two transformers, in the shape of transformers' `modeling_siglip.py`.

Their layers are CLIP's. Letters: B batch, L tokens or patches, D hidden size, H heads.
"""

from memplan.formulas.layers import embedding, input_embedding, layer_norm, part
from memplan.formulas.linear import linear
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.formulas.vision import add_positions, patch_embedding
from memplan.models.clip.towers import Layer, layers_beyond, text_embeddings
from memplan.models.siglip.config import TextConfig, VisionConfig
from memplan.models.siglip.pooling import pool


def vision_model(
    t: Tape, config: VisionConfig, pixel_values: Tensor
) -> tuple[Tensor, Tensor]:
    """`SiglipVisionModel.forward`: all patches [B, L, D], and their pool [B, D].

    `_no_split_modules` names embeddings and pool beside the layers.
    """
    with t.unit():
        hidden_states = vision_embeddings(t, config, pixel_values)
    hidden_states = repeat_layers(
        t,
        "encoder.layers",
        config.num_hidden_layers,
        Layer(config, causal=False),
        hidden_states,
    )
    last_hidden_state = layer_norm(t, "post_layernorm", hidden_states)
    del hidden_states
    with t.unit():
        pooler_output = pool(t, config, last_hidden_state)
    return last_hidden_state, pooler_output


def vision_tower(
    t: Tape, config: VisionConfig, pixel_values: Tensor, num_read_layers: int
) -> tuple[Tensor, ...]:
    """`SiglipVisionModel` of a model that reads hidden states [B, L, D] of a layer.

    The layers behind it run too, and the pool where there is one; nobody reads them.
    """
    hidden_states = vision_embeddings(t, config, pixel_values)
    layer = Layer(config, causal=False)
    read, last = layers_beyond(
        t, config.num_hidden_layers, num_read_layers, layer, hidden_states
    )
    del hidden_states
    with t.no_grad():
        last = layer_norm(t, "post_layernorm", last)
        if not config.vision_use_head:
            return read, last
        return read, last, pool(t, config, last)


def vision_embeddings(t: Tape, config: VisionConfig, pixel_values: Tensor) -> Tensor:
    """`SiglipVisionEmbeddings`: pictures of another size get resized positions."""
    D = config.hidden_size
    height, width = pixel_values.shape[2:]
    grid = height // config.patch_size, width // config.patch_size
    with t.scope("embeddings"):
        embeddings = patch_embedding(
            t,
            "patch_embedding",
            pixel_values,
            D,
            (config.patch_size, config.patch_size),
            bias=True,
        )
        embeddings = input_embedding(t, embeddings)
        with t.scope("position_embedding"):
            table = t.weight("weight", (config.num_positions, D))
        t.mark_embedding(table)
        if grid[0] * grid[1] == config.num_positions:
            positions = embedding(t, table, (1, config.num_positions))
        else:
            positions = t.view(table, (1, config.num_positions, D))
        return add_positions(t, embeddings, positions, grid, has_class_token=False)


def text_model(
    t: Tape, config: TextConfig, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """`SiglipTextModel.forward`: all tokens [B, L, D], and the last one's [B, P]."""
    hidden_states = text_embeddings(
        t,
        shape,
        (config.vocab_size, config.hidden_size),
        config.max_position_embeddings,
    )
    hidden_states = repeat_layers(
        t,
        "encoder.layers",
        config.num_hidden_layers,
        Layer(config, causal=False),
        hidden_states,
    )
    last_hidden_state = layer_norm(t, "final_layer_norm", hidden_states)
    del hidden_states
    last = part(t, last_hidden_state, (shape[0], config.hidden_size))
    return last_hidden_state, linear(t, "head", last, config.output_size)
