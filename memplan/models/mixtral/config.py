"""Mixtral's configuration.

Sizes that a config.json leaves out are those of transformers' `MixtralConfig`, which
are the published 8x7B model's.
"""

from dataclasses import dataclass

from memplan.errors import ModelConfigError
from memplan.models import llama
from memplan.models.llama.config import LlamaConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtralConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    head_dim: int | None = None
    vocab_size: int = 32000
    hidden_act: str = "silu"
    max_position_embeddings: int = 131072
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    sliding_window: int | None = None
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    router_jitter_noise: float = 0.0
    output_router_logits: bool = False
    architectures: tuple[str, ...] | None = None

    @property
    def language(self) -> LlamaConfig:
        """What its layers share with Mistral's: all but the MLP."""
        return LlamaConfig(
            model_type="mistral",
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads or self.num_attention_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            hidden_act=self.hidden_act,
            max_position_embeddings=self.max_position_embeddings,
            attention_dropout=self.attention_dropout,
            tie_word_embeddings=self.tie_word_embeddings,
            sliding_window=self.sliding_window,
            architectures=self.architectures,
        )


def check(config: MixtralConfig) -> None:
    """What cannot be built, and what moves memory and is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    llama.FAMILY.check(config.language)
    if config.num_experts_per_tok > config.num_local_experts:
        raise ModelConfigError(
            f"A token cannot go to {config.num_experts_per_tok} of "
            f"{config.num_local_experts} experts.",
            hint="Correct num_experts_per_tok in its config.json.",
        )
    if config.output_router_logits or config.router_jitter_noise:
        raise ModelConfigError(
            "A router whose logits are returned for a loss of their own, or whose "
            "input is jittered, is not covered.",
            hint="Leave output_router_logits and router_jitter_noise out.",
        )
