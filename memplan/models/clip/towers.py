"""CLIP's two transformers, in the shape of transformers' `modeling_clip.py`.

Letters: B batch, L tokens or patches with the class token, D hidden size, H heads,
K size of a head.
"""

from dataclasses import dataclass

from memplan.formulas.attention import attend
from memplan.formulas.layers import (
    activation,
    add,
    embedding,
    input_embedding,
    layer_norm,
    part,
    token_embedding,
)
from memplan.formulas.linear import linear
from memplan.formulas.stacks import Body, repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.formulas.vision import add_positions, patch_embedding, prepend_token
from memplan.models.clip.config import TextConfig, TowerConfig, VisionConfig


def vision_model(
    t: Tape, config: VisionConfig, pixel_values: Tensor
) -> tuple[Tensor, Tensor]:
    """`CLIPVisionModel.forward`: all patches [B, L, D], and the class token [B, D]."""
    hidden_states = vision_embeddings(t, config, pixel_values)
    hidden_states = layer_norm(t, "pre_layrnorm", hidden_states)
    hidden_states = repeat_layers(
        t,
        "encoder.layers",
        config.num_hidden_layers,
        Layer(config, False),
        hidden_states,
    )
    B, _, D = hidden_states.shape
    pooled_output = part(t, hidden_states, (B, D))
    pooled_output = layer_norm(t, "post_layernorm", pooled_output)
    return hidden_states, pooled_output


def vision_tower(
    t: Tape, config: VisionConfig, pixel_values: Tensor, num_read_layers: int
) -> tuple[Tensor, ...]:
    """`CLIPVisionModel` of a model that reads hidden states [B, L, D] of a layer.

    The layers behind it run too, and return all patches and the class token. Nobody
    reads these: what they saved goes with them, before backward.
    """
    hidden_states = vision_embeddings(t, config, pixel_values)
    hidden_states = layer_norm(t, "pre_layrnorm", hidden_states)
    layer = Layer(config, causal=False)
    read, last = layers_beyond(
        t, config.num_hidden_layers, num_read_layers, layer, hidden_states
    )
    del hidden_states
    B, _, D = read.shape
    with t.no_grad():
        pooled_output = part(t, last, (B, D))
        pooled_output = layer_norm(t, "post_layernorm", pooled_output)
    return read, last, pooled_output


def layers_beyond(
    t: Tape, count: int, num_read: int, layer: Body, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Hidden states behind `num_read` of `count` layers, and behind all of them."""
    y = t.view(x, x.shape)
    y = repeat_layers(t, "encoder.layers", num_read, layer, y)
    read = t.view(y, y.shape)
    with t.no_grad():
        rest = count - num_read
        last = repeat_layers(t, "encoder.layers.*.[5]", rest, layer, y)
    return read, last


def vision_embeddings(t: Tape, config: VisionConfig, pixel_values: Tensor) -> Tensor:
    """`CLIPVisionEmbeddings`: pictures of another size get resized positions."""
    D = config.hidden_size
    height, width = pixel_values.shape[2:]
    grid = height // config.patch_size, width // config.patch_size
    with t.scope("embeddings"):
        token = t.weight("class_embedding", (D,))
        patch_embeds = patch_embedding(
            t,
            "patch_embedding",
            pixel_values,
            D,
            (config.patch_size, config.patch_size),
            bias=False,
        )
        patch_embeds = input_embedding(t, patch_embeds)
        embeddings = prepend_token(t, token, patch_embeds)
        with t.scope("position_embedding"):
            table = t.weight("weight", (config.num_positions, D))
        t.mark_embedding(table)
        if grid[0] * grid[1] + 1 == config.num_positions:
            positions = embedding(t, table, (1, config.num_positions))
        else:
            positions = t.view(table, (1, config.num_positions, D))
        return add_positions(t, embeddings, positions, grid)


def text_model(
    t: Tape, config: TextConfig, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """`CLIPTextModel.forward`: all tokens [B, L, D], and the last one's [B, D]."""
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
        Layer(config, True),
        hidden_states,
    )
    last_hidden_state = layer_norm(t, "final_layer_norm", hidden_states)
    return last_hidden_state, end_of_text(t, last_hidden_state)


def text_embeddings(
    t: Tape, shape: tuple[int, int], table: tuple[int, int], num_positions: int
) -> Tensor:
    """`CLIPTextEmbeddings`: of tokens, looked up in `table`, and of their positions."""
    _, D = table
    with t.scope("embeddings"):
        with t.scope("token_embedding"):
            words = t.weight("weight", table)
        inputs_embeds = token_embedding(t, words, shape)
        with t.scope("position_embedding"):
            positions = t.weight("weight", (num_positions, D))
        position_embeddings = embedding(t, positions, (1, shape[1]))
        return add(t, inputs_embeds, position_embeddings)


def end_of_text(t: Tape, last_hidden_state: Tensor) -> Tensor:
    """`last_hidden_state[arange(B), position of the end token]`: saves both indices."""
    B, _, D = last_hidden_state.shape
    return t.apply(
        "index",
        (last_hidden_state,),
        (B, D),
        last_hidden_state.dtype,
        stats_bytes=2 * 8 * B,
    )


@dataclass(frozen=True, slots=True)
class Layer:
    """`CLIPEncoderLayer`: norms before attention and MLP."""

    config: TowerConfig
    causal: bool

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        residual = x
        hidden_states = layer_norm(t, "layer_norm1", x)
        hidden_states = self.attention(t, hidden_states)
        hidden_states = add(t, residual, hidden_states)

        residual = hidden_states
        hidden_states = layer_norm(t, "layer_norm2", hidden_states)
        hidden_states = mlp(t, self.config, hidden_states)
        hidden_states = add(t, residual, hidden_states)
        return hidden_states

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`CLIPAttention`: [B, L, D] in and out."""
        config = self.config
        with t.scope("self_attn"):
            queries = self.heads(t, "q_proj", x)
            keys = self.heads(t, "k_proj", x)
            values = self.heads(t, "v_proj", x)
            attn_output = attend(
                t,
                queries,
                keys,
                values,
                causal=self.causal,
                dropout_probability=config.attention_dropout,
            )
            return linear(t, "out_proj", attn_output, config.hidden_size)

    def heads(self, t: Tape, name: str, x: Tensor) -> Tensor:
        """A projection as [B, H, L, K]."""
        B, L, D = x.shape
        H = self.config.num_attention_heads
        return t.view(linear(t, name, x, D), (B, H, L, D // H))


def mlp(t: Tape, config: TowerConfig, x: Tensor) -> Tensor:
    """`CLIPMLP`."""
    with t.scope("mlp"):
        hidden_states = linear(t, "fc1", x, config.intermediate_size)
        hidden_states = activation(t, config.hidden_act, hidden_states)
        hidden_states = linear(t, "fc2", hidden_states, config.hidden_size)
        return hidden_states
