"""GPT-NeoX, Pythia and RedPajama."""

from dataclasses import dataclass
from typing import Any

from memplan.models.checks import (
    check_activation,
    check_architectures,
    check_heads,
    check_rotation,
    rotated_features,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GptNeoxConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    hidden_act: str = "gelu"
    max_position_embeddings: int = 2048
    use_parallel_residual: bool = True
    """Attention and MLP read the same input."""
    attention_bias: bool = True
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    tie_word_embeddings: bool = False
    rotary_pct: float = 0.25
    """How much of a head is rotated."""
    rope_parameters: dict[str, Any] | None = None
    """Newer files have it in there."""
    architectures: tuple[str, ...] | None = None

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def rotated_size(self) -> int:
        """Features of a head that are rotated."""
        return rotated_features(self.head_size, self.rotary_pct, self.rope_parameters)


def check(config: GptNeoxConfig) -> None:
    """What cannot be built, and what moves memory and is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    heads = config.num_attention_heads
    check_heads(config.hidden_size, heads, heads)
    check_rotation(config.rotated_size)
    check_activation(config.hidden_act)
    check_architectures(config.architectures)
