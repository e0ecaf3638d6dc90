"""T5's configuration."""

from dataclasses import dataclass

from memplan.errors import ModelConfigError
from memplan.formulas.layers import ACTIVATIONS

CONDITIONAL_GENERATION = "T5ForConditionalGeneration"


@dataclass(frozen=True, kw_only=True, slots=True)
class T5Config:
    """The fields of a config.json that decide sizes, under their own names."""

    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    vocab_size: int = 32128
    relative_attention_num_buckets: int = 32
    dropout_rate: float = 0.1
    feed_forward_proj: str = "relu"
    """`relu` or another activation, or `gated-` and an activation."""
    tie_word_embeddings: bool = True
    """False in version 1.1: the head is a table of its own, and unscaled."""
    architectures: tuple[str, ...] | None = None
    model_type: str = "t5"

    @property
    def decoder_layers(self) -> int:
        return self.num_decoder_layers or self.num_layers

    @property
    def inner_size(self) -> int:
        """Size of all heads together, which need not be d_model."""
        return self.num_heads * self.d_kv

    @property
    def is_gated(self) -> bool:
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self) -> str:
        """The activation; gated-gelu means the tanh approximation by operators."""
        if self.feed_forward_proj == "gated-gelu":
            return "gelu_new"
        return self.feed_forward_proj.removeprefix("gated-")


def check(config: T5Config) -> None:
    """What cannot be built, and what is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    names = config.architectures
    if names and names[0] not in (CONDITIONAL_GENERATION, "T5WithLMHeadModel"):
        raise ModelConfigError(
            f"Training a {names[0]} is not covered.",
            hint=f'Set "architectures" in its config.json to '
            f'["{CONDITIONAL_GENERATION}"].',
        )
    if config.activation not in ACTIVATIONS:
        raise ModelConfigError(
            f"The activation {config.feed_forward_proj!r} is not covered.",
            hint=f"Covered, with or without gated-: {', '.join(ACTIVATIONS)}.",
        )
