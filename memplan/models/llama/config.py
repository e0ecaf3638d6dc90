"""Llama and the families that share its blocks: Mistral, Qwen2, Qwen3."""

from dataclasses import dataclass, replace

from memplan.errors import ModelConfigError, PlanError
from memplan.models.checks import (
    check_activation,
    check_architectures,
    check_heads,
    check_rotation,
)
from memplan.units import ceil_div

ABSENT = 0
"""A field that a config.json leaves out, where that is not the same as null."""

KEY_VALUE_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32}
"""What transformers takes where a config.json names none; Llama as many as heads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    model_type: str = "llama"
    num_key_value_heads: int | None = ABSENT
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    sliding_window: int | None = ABSENT
    use_sliding_window: bool = False
    """Of Qwen2 and Qwen3; Mistral's window is there unless it is null."""
    max_window_layers: int = 28
    """Layers before the first with a window."""
    layer_types: tuple[str, ...] | None = None
    architectures: tuple[str, ...] | None = None

    @property
    def kv_heads(self) -> int:
        if self.num_key_value_heads == ABSENT:
            return KEY_VALUE_HEADS.get(self.model_type, self.num_attention_heads)
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        if self.head_dim is None and self.model_type == "qwen3":
            return 128
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def window(self) -> int | None:
        """Keys that a query sees, where not all before it."""
        size = 4096 if self.sliding_window == ABSENT else self.sliding_window
        if self.model_type == "mistral":
            return size
        return size if "sliding_attention" in self.types_of_layers else None

    @property
    def types_of_layers(self) -> frozenset[str]:
        """`layer_types` of Qwen2 and Qwen3, each once."""
        if self.model_type not in ("qwen2", "qwen3"):
            return frozenset()
        if self.layer_types is not None:
            return frozenset(self.layer_types)
        types = set()
        if not self.use_sliding_window or self.max_window_layers > 0:
            types.add("full_attention")
        if self.use_sliding_window and self.max_window_layers < self.num_hidden_layers:
            types.add("sliding_attention")
        return frozenset(types)

    @property
    def has_qkv_bias(self) -> bool:
        """Qwen2 has biases on query, key and value alone, Mistral none."""
        if self.model_type == "mistral":
            return False
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def has_output_bias(self) -> bool:
        return self.attention_bias and self.model_type in ("llama", "qwen3")

    @property
    def has_mlp_bias(self) -> bool:
        return self.mlp_bias and self.model_type == "llama"

    @property
    def has_head_norms(self) -> bool:
        """Qwen3 normalises each head of query and key."""
        return self.model_type == "qwen3"


def check(config: LlamaConfig) -> None:
    """What cannot be built, and what moves memory and is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    check_heads(
        config.hidden_size,
        config.num_attention_heads,
        config.kv_heads,
        config.head_dim,
    )
    check_rotation(config.head_size)
    check_activation(config.hidden_act)
    if len(config.types_of_layers) > 1:
        raise ModelConfigError(
            "Layers with a sliding window among layers without are not covered.",
            hint='Set "use_sliding_window" to false in its config.json.',
        )
    check_architectures(config.architectures)


def divide(config: LlamaConfig, tensor: int, pipeline: int) -> LlamaConfig:
    """The configuration of one rank: Megatron's shares of heads, MLP and vocabulary.

    Key-value heads that are fewer than the ranks are copied to each.

    Raises:
        PlanError: heads or MLP cannot be divided, or layers cannot fill the stages.
    """
    for name in ("num_attention_heads", "intermediate_size"):
        if getattr(config, name) % tensor:
            raise PlanError(
                f"{name} {getattr(config, name)} cannot be divided by "
                f"--tensor-parallel {tensor}.",
                hint="Use a divisor of it.",
            )
    if config.num_hidden_layers < pipeline:
        raise PlanError(
            f"{config.num_hidden_layers} layers cannot fill {pipeline} stages.",
            hint=f"Use --pipeline-parallel {config.num_hidden_layers} or less.",
        )
    return replace(
        config,
        num_attention_heads=config.num_attention_heads // tensor,
        num_key_value_heads=ceil_div(config.kv_heads, tensor),
        head_dim=config.head_size,
        intermediate_size=config.intermediate_size // tensor,
        vocab_size=ceil_div(config.vocab_size, tensor),
        num_hidden_layers=ceil_div(config.num_hidden_layers, pipeline),
    )
