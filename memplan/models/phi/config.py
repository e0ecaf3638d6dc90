"""Phi-1, Phi-1.5 and Phi-2."""

from dataclasses import dataclass
from typing import Any

from memplan.errors import ModelConfigError
from memplan.models.checks import (
    check_activation,
    check_architectures,
    check_heads,
    check_rotation,
    rotated_features,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhiConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    num_key_value_heads: int | None = None
    hidden_act: str = "gelu_new"
    max_position_embeddings: int = 2048
    resid_pdrop: float = 0.0
    embd_pdrop: float = 0.0
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    qk_layernorm: bool = False
    partial_rotary_factor: float = 0.5
    rope_parameters: dict[str, Any] | None = None
    """Newer files have the factor in it."""
    architectures: tuple[str, ...] | None = None

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def rotated_size(self) -> int:
        """Features of a head that are rotated."""
        return rotated_features(
            self.head_size, self.partial_rotary_factor, self.rope_parameters
        )


def check(config: PhiConfig) -> None:
    """What cannot be built, and what moves memory and is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    check_heads(config.hidden_size, config.num_attention_heads, config.kv_heads)
    check_rotation(config.rotated_size)
    check_activation(config.hidden_act)
    check_architectures(config.architectures)
    if config.qk_layernorm:
        raise ModelConfigError(
            "Phi with qk_layernorm is not covered.",
            hint='Set "qk_layernorm" to false in its config.json.',
        )
