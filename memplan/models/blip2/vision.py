"""EVA-CLIP's ViT-g/14, as in transformers' `modeling_blip_2.py`.

Letters: N pictures, L patches and the class token, D hidden size, H heads, K size of a
head.
"""

from dataclasses import dataclass

from memplan.formulas.attention import attend
from memplan.formulas.layers import activation, adapted_input, add, layer_norm, part
from memplan.formulas.linear import linear
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.formulas.vision import add_positions, patch_embedding, prepend_token
from memplan.models.blip2.config import VisionConfig


def vision_model(
    t: Tape, config: VisionConfig, pixel_values: Tensor
) -> tuple[Tensor, Tensor]:
    """`Blip2VisionModel.forward`: patches [N, L, D], and the class token [N, D].

    The second is normalised a second time, returned, and used for nothing.
    """
    with t.scope("vision_model"):
        embeddings = vision_embeddings(t, config, pixel_values)
        hidden_states = t.view(embeddings, embeddings.shape)
        hidden_states = repeat_layers(
            t, "encoder.layers", config.num_hidden_layers, Layer(config), hidden_states
        )
        N, _, D = embeddings.shape
        del embeddings
        last_hidden_state = layer_norm(t, "post_layernorm", hidden_states)
        with t.no_grad():  # its graph goes with the outputs, before backward
            pooled_output = part(t, last_hidden_state, (N, D))
            pooled_output = layer_norm(t, "post_layernorm", pooled_output)
        return last_hidden_state, pooled_output


def vision_embeddings(t: Tape, config: VisionConfig, pixel_values: Tensor) -> Tensor:
    """`Blip2VisionEmbeddings`; pictures of another size get resized positions."""
    D = config.hidden_size
    height, width = pixel_values.shape[2:]
    grid = height // config.patch_size, width // config.patch_size
    with t.scope("embeddings"):
        token = t.weight("class_embedding", (1, 1, D))
        patch_embeds = patch_embedding(
            t,
            "patch_embedding",
            pixel_values,
            D,
            (config.patch_size, config.patch_size),
            bias=True,
        )
        embeddings = prepend_token(t, token, patch_embeds)
        positions = t.weight("position_embedding", (1, config.num_positions, D))
        embeddings = add_positions(t, embeddings, positions, grid)
        return adapted_input(t, embeddings)


@dataclass(frozen=True, slots=True)
class Layer:
    """`Blip2EncoderLayer`: norms before attention and MLP."""

    config: VisionConfig

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        residual = x
        hidden_states = layer_norm(t, "layer_norm1", x)
        hidden_states = self.attention(t, hidden_states)
        hidden_states = add(t, hidden_states, residual)
        residual = hidden_states
        hidden_states = layer_norm(t, "layer_norm2", hidden_states)
        hidden_states = self.mlp(t, hidden_states)
        hidden_states = add(t, hidden_states, residual)
        return hidden_states

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`Blip2Attention`: one projection makes query, key and value.

        Each is a selection from it, whose gradient is as large as all three.
        """
        config = self.config
        N, L, D = x.shape
        shape = (N, config.num_attention_heads, L, config.head_size)
        with t.scope("self_attn"):
            mixed_qkv = linear(t, "qkv", x, 3 * D, bias=config.qkv_bias)
            query_states = part(t, mixed_qkv, shape)
            key_states = part(t, mixed_qkv, shape)
            value_states = part(t, mixed_qkv, shape)
            attn_output = attend(
                t,
                query_states,
                key_states,
                value_states,
                dropout_probability=config.attention_dropout,
                softmax_in_fp32=False,
            )
            return linear(t, "projection", attn_output, D)

    def mlp(self, t: Tape, x: Tensor) -> Tensor:
        """`Blip2MLP`."""
        config = self.config
        with t.scope("mlp"):
            hidden_states = linear(t, "fc1", x, config.intermediate_size)
            hidden_states = activation(t, config.hidden_act, hidden_states)
            hidden_states = linear(t, "fc2", hidden_states, config.hidden_size)
            return hidden_states
