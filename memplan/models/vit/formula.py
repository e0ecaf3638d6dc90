"""The Vision Transformer's forward pass, as in transformers' `modeling_vit.py`.

Letters: B batch, C channels, S pixels of a side, L patches and the class token,
D hidden size, H heads, K size of a head.
"""

from dataclasses import dataclass

from memplan.formulas.attention import attend
from memplan.formulas.layers import (
    activation,
    adapted_input,
    add,
    dropout,
    layer_norm,
    part,
)
from memplan.formulas.linear import linear
from memplan.formulas.loss import cross_entropy, keep_as_fp32, mean_squared_error
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.formulas.vision import add_positions, patch_embedding, prepend_token
from memplan.models.vit.config import ViTConfig


def batch_bytes(config: ViTConfig, batch: Batch) -> int:
    """Pictures in fp32, and an int64 label for each sample."""
    height, width = _sides(config, batch)
    return batch.size * (4 * config.num_channels * height * width + 8)


def forward(t: Tape, config: ViTConfig, batch: Batch) -> Tensor:
    """`ViTForImageClassification.forward` with labels: the loss."""
    B, D = batch.size, config.hidden_size
    pixel_values = t.input((B, config.num_channels, *_sides(config, batch)), "fp32")
    sequence_output = vit(t, config, pixel_values)
    logits = linear(
        t, "classifier", part(t, sequence_output, (B, D)), config.num_classes
    )
    t.end_phase("forward")
    is_regression = config.num_classes == 1 or config.problem_type == "regression"
    loss = (mean_squared_error if is_regression else cross_entropy)(t, logits)
    del sequence_output
    keep_as_fp32(t, logits)
    return loss


def vit(t: Tape, config: ViTConfig, pixel_values: Tensor) -> Tensor:
    """`ViTModel.forward` without its pooler: [B, L, D]."""
    with t.scope("vit"):
        embedding_output = embeddings(t, config, pixel_values)
        hidden_states = t.view(embedding_output, embedding_output.shape)
        hidden_states = repeat_layers(
            t, "layers", config.num_hidden_layers, Layer(config), hidden_states
        )
        return layer_norm(t, "layernorm", hidden_states)


def embeddings(t: Tape, config: ViTConfig, pixel_values: Tensor) -> Tensor:
    """`ViTEmbeddings`: pictures of another size get resized position embeddings."""
    height, width = pixel_values.shape[2:]
    grid = height // config.patch_sides[0], width // config.patch_sides[1]
    with t.scope("embeddings"):
        token = t.weight("cls_token", (1, 1, config.hidden_size))
        positions = t.weight(
            "position_embeddings", (1, config.num_positions, config.hidden_size)
        )
        with t.scope("patch_embeddings"):
            embeddings = patch_embedding(
                t,
                "projection",
                pixel_values,
                config.hidden_size,
                config.patch_sides,
                bias=True,
            )
        embeddings = adapted_input(t, embeddings)
        embeddings = prepend_token(t, token, embeddings)
        embeddings = add_positions(t, embeddings, positions, grid)
        return dropout(t, embeddings, config.hidden_dropout_prob)


@dataclass(frozen=True, slots=True)
class Layer:
    """`ViTLayer`: norms before attention and MLP."""

    config: ViTConfig

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        probability = self.config.hidden_dropout_prob
        residual = x
        hidden_states = layer_norm(t, "layernorm_before", x)
        hidden_states = self.attention(t, hidden_states)
        hidden_states = dropout(t, hidden_states, probability)
        hidden_states = add(t, hidden_states, residual)

        residual = hidden_states
        hidden_states = layer_norm(t, "layernorm_after", hidden_states)
        hidden_states = self.mlp(t, hidden_states)
        hidden_states = dropout(t, hidden_states, probability)
        hidden_states = add(t, hidden_states, residual)
        return hidden_states

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`ViTAttention`: [B, L, D] in and out."""
        config = self.config
        with t.scope("attention"):
            query = self.heads(t, "q_proj", x)
            key = self.heads(t, "k_proj", x)
            value = self.heads(t, "v_proj", x)
            attn_output = attend(
                t,
                query,
                key,
                value,
                dropout_probability=config.attention_probs_dropout_prob,
            )
            return linear(t, "o_proj", attn_output, config.hidden_size)

    def heads(self, t: Tape, name: str, x: Tensor) -> Tensor:
        """A projection as [B, H, L, K]."""
        config = self.config
        B, L, D = x.shape
        states = linear(t, name, x, D, bias=config.qkv_bias)
        return t.view(states, (B, config.num_attention_heads, L, config.head_size))

    def mlp(self, t: Tape, x: Tensor) -> Tensor:
        """`ViTMLP`."""
        config = self.config
        with t.scope("mlp"):
            hidden_states = linear(t, "fc1", x, config.intermediate_size)
            hidden_states = activation(t, config.hidden_act, hidden_states)
            hidden_states = linear(t, "fc2", hidden_states, config.hidden_size)
            return hidden_states


def _sides(config: ViTConfig, batch: Batch) -> tuple[int, int]:
    """Height and width of the batch's pictures: square where the plan sets a size."""
    height, width = config.image_sides
    if batch.image_size in (0, max(height, width)):
        return height, width
    return batch.image_size, batch.image_size
