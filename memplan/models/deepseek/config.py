"""DeepSeek-V2's and V3's configuration.

Sizes that a config.json leaves out are those of transformers' `DeepseekV2Config` and
`DeepseekV3Config`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from memplan.errors import ModelConfigError
from memplan.models.checks import check_activation, check_architectures

DEFAULTS = {
    "deepseek_v2": {
        "vocab_size": 102400,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "moe_intermediate_size": 1407,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "n_shared_experts": 2,
        "n_routed_experts": 64,
        "first_k_dense_replace": 0,
        "max_position_embeddings": 2048,
    },
    "deepseek_v3": {
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "n_shared_experts": 1,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "max_position_embeddings": 4096,
    },
}
"""Where the two configuration classes differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepseekConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    model_type: Literal["deepseek_v2", "deepseek_v3"]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    n_shared_experts: int
    n_routed_experts: int
    num_experts_per_tok: int
    first_k_dense_replace: int = 0
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    q_lora_rank: int | None = 1536
    """Null: queries are projected at once."""
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    hidden_act: str = "silu"
    norm_topk_prob: bool = True
    rope_interleave: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    output_router_logits: bool = False
    architectures: tuple[str, ...] | None = None

    @property
    def is_v3(self) -> bool:
        """Real rotations, and a router of sigmoids that are normalised."""
        return self.model_type == "deepseek_v3"

    @property
    def head_size(self) -> int:
        """Of query and key: what is rotated, and what is not."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim


def complete(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config.json with the sizes that its configuration class has by default."""
    return {**DEFAULTS.get(str(data.get("model_type")), {}), **data}


def check(config: DeepseekConfig) -> None:
    """What cannot be built, and what moves memory and is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    heads = config.num_key_value_heads
    if heads not in (None, config.num_attention_heads):
        raise ModelConfigError(
            f"Latent attention of {config.num_attention_heads} heads with {heads} for "
            "keys and values is not covered.",
            hint="Correct num_key_value_heads in its config.json.",
        )
    if config.qk_rope_head_dim % 2:
        raise ModelConfigError(
            f"{config.qk_rope_head_dim} of a head cannot be rotated: the size is odd.",
            hint="Correct qk_rope_head_dim in its config.json.",
        )
    if config.num_experts_per_tok > config.n_routed_experts:
        raise ModelConfigError(
            f"A token cannot go to {config.num_experts_per_tok} of "
            f"{config.n_routed_experts} experts.",
            hint="Correct num_experts_per_tok in its config.json.",
        )
    if config.is_v3 and not config.rope_interleave:
        raise ModelConfigError(
            "A DeepSeek-V3 without rope_interleave is not covered.",
            hint="Leave rope_interleave out of its config.json.",
        )
    if config.output_router_logits:
        raise ModelConfigError(
            "A router whose logits are returned is not covered.",
            hint="Leave output_router_logits out of its config.json.",
        )
    check_activation(config.hidden_act)
    check_architectures(config.architectures)
