"""Gemma, Gemma 2, and the language model of Gemma 3."""

from dataclasses import dataclass

from memplan.errors import ModelConfigError
from memplan.models.checks import (
    check_activation,
    check_architectures,
    check_heads,
    check_rotation,
)

FULL, SLIDING = "full_attention", "sliding_attention"

ABSENT = 0.0
"""A field that a config.json leaves out, where that is not the same as null."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GemmaConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    model_type: str = "gemma"
    head_dim: int = 256
    hidden_act: str = "gelu_pytorch_tanh"
    """Of Gemma."""
    hidden_activation: str | None = None
    """Of Gemma 2 and 3, which do not read `hidden_act`."""
    max_position_embeddings: int = 8192
    attention_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = True
    sliding_window: int | None = 4096
    sliding_window_pattern: int = 6
    """Of Gemma 3: one layer of so many sees the whole sequence."""
    layer_types: tuple[str, ...] | None = None
    attn_logit_softcapping: float | None = ABSENT
    final_logit_softcapping: float | None = ABSENT
    use_bidirectional_attention: bool | None = None
    architectures: tuple[str, ...] | None = None

    @property
    def activation(self) -> str:
        """The MLP's; Gemma's `gelu` is its tanh approximation."""
        if self.model_type == "gemma":
            return "gelu_pytorch_tanh" if self.hidden_act == "gelu" else self.hidden_act
        return self.hidden_activation or "gelu_pytorch_tanh"

    @property
    def types_of_layers(self) -> tuple[str, ...]:
        """For each layer, whether it sees a window or the whole sequence."""
        if self.model_type == "gemma":
            return (FULL,) * self.num_hidden_layers
        if self.layer_types is not None:
            return self.layer_types
        every = 2 if self.model_type == "gemma2" else self.sliding_window_pattern
        return tuple(
            SLIDING if (index + 1) % every else FULL
            for index in range(self.num_hidden_layers)
        )

    @property
    def has_sandwich_norms(self) -> bool:
        """Attention and MLP are normalised before and after."""
        return self.model_type != "gemma"

    @property
    def has_head_norms(self) -> bool:
        """Gemma 3 normalises each head of query and key."""
        return self.model_type == "gemma3_text"

    @property
    def is_always_eager(self) -> bool:
        """transformers computes Gemma 2's attention step by step, capped or not."""
        return self.model_type == "gemma2"

    @property
    def caps_scores(self) -> bool:
        """Gemma 2 does unless the cap is null; Gemma 3 reads its own nowhere."""
        return self.model_type == "gemma2" and self.attn_logit_softcapping is not None

    @property
    def caps_logits(self) -> bool:
        if self.model_type == "gemma2":
            return self.final_logit_softcapping is not None
        return self.model_type == "gemma3_text" and bool(self.final_logit_softcapping)


def check(config: GemmaConfig) -> None:
    """What cannot be built, and what moves memory and is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    check_heads(
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    )
    check_rotation(config.head_dim)
    check_activation(config.activation)
    check_architectures(config.architectures)
    types = config.types_of_layers
    if len(types) != config.num_hidden_layers or not {FULL, SLIDING}.issuperset(types):
        raise ModelConfigError(
            f"layer_types does not name {config.num_hidden_layers} layers of {FULL} or "
            f"{SLIDING}.",
            hint="Correct layer_types in its config.json.",
        )
    if SLIDING in types and config.sliding_window is None:
        raise ModelConfigError(
            "There are layers with a sliding window, and no size of it.",
            hint="Set sliding_window in its config.json.",
        )
    if config.use_bidirectional_attention:
        raise ModelConfigError(
            "Attention in both directions is not covered.",
            hint='Set "use_bidirectional_attention" to false in its config.json.',
        )
