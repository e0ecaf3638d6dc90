"""OPT, whose 350M model is built in another way than the others."""

from dataclasses import dataclass

from memplan.errors import ModelConfigError
from memplan.models.checks import check_activation, check_architectures, check_heads

POSITION_OFFSET = 2
"""Rows of the table of positions that no position has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    hidden_size: int
    ffn_dim: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int = 2048
    word_embed_proj_dim: int | None = None
    """Width of the word embeddings, projected where it is not the hidden size."""
    do_layer_norm_before: bool = True
    """OPT-350M normalises after attention and MLP, and has no norm at its end."""
    layer_norm_elementwise_affine: bool = True
    enable_bias: bool = True
    activation_function: str = "relu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    layerdrop: float = 0.0
    tie_word_embeddings: bool = True
    architectures: tuple[str, ...] | None = None

    @property
    def embed_size(self) -> int:
        return self.word_embed_proj_dim or self.hidden_size

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads


def check(config: OptConfig) -> None:
    """What cannot be built, and what moves memory and is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    heads = config.num_attention_heads
    check_heads(config.hidden_size, heads, heads)
    check_activation(config.activation_function)
    check_architectures(config.architectures)
    if config.layerdrop:
        raise ModelConfigError(
            "Layers that are left out at random are not covered.",
            hint='Set "layerdrop" to 0 in its config.json.',
        )
