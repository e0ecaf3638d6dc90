"""MPT, as transformers builds it: ALiBi, no biases, a norm without a shift."""

from dataclasses import dataclass, field

from memplan.errors import ModelConfigError
from memplan.models.checks import check_architectures, check_heads


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig:
    """Of `attn_config` what its module reads."""

    attn_pdrop: float = 0.0
    """Also of what attention and MLP add to the hidden states."""
    clip_qkv: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MptConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    d_model: int
    n_heads: int
    n_layers: int
    vocab_size: int
    max_seq_len: int = 2048
    attn_config: AttentionConfig = field(default_factory=AttentionConfig)
    tie_word_embeddings: bool = True
    architectures: tuple[str, ...] | None = None

    @property
    def head_size(self) -> int:
        return self.d_model // self.n_heads


def check(config: MptConfig) -> None:
    """What cannot be built, and what moves memory and is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    check_heads(config.d_model, config.n_heads, config.n_heads)
    check_architectures(config.architectures)
    if config.attn_config.clip_qkv:
        raise ModelConfigError(
            "Clipped queries, keys and values are not covered.",
            hint='Set "clip_qkv" to null in its config.json.',
        )
