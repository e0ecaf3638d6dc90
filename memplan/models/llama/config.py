"""Llama and the families that share its blocks: Mistral, Qwen2, Qwen3."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    model_type: str = "llama"
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    sliding_window: int | None = None
    use_sliding_window: bool | None = None

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def has_qkv_bias(self) -> bool:
        """Qwen2 has biases on query, key and value alone."""
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def has_output_bias(self) -> bool:
        return self.attention_bias and self.model_type != "qwen2"

    @property
    def has_head_norms(self) -> bool:
        """Qwen3 normalises each head of query and key."""
        return self.model_type == "qwen3"
