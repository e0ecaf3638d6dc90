"""GPT-2 and the models that share its config.json."""

from dataclasses import dataclass, replace

from memplan.errors import ModelConfigError, PlanError
from memplan.models.checks import check_activation
from memplan.units import ceil_div


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpt2Config:
    """The fields of a config.json that decide sizes, under their own names."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    tie_word_embeddings: bool = True
    add_cross_attention: bool = False
    reorder_and_upcast_attn: bool = False
    scale_attn_by_inverse_layer_idx: bool = False
    head_size: int | None = None
    """Of a rank's share; a config.json leaves it out: n_embd over n_head."""

    @property
    def size_of_head(self) -> int:
        return self.head_size or self.n_embd // self.n_head

    @property
    def inner_size(self) -> int:
        return self.n_inner or 4 * self.n_embd


def check(config: Gpt2Config) -> None:
    """What cannot be built, and what moves memory and is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    if config.n_embd % config.n_head:
        raise ModelConfigError(
            f"n_embd {config.n_embd} is no multiple of {config.n_head} heads.",
            hint="Correct n_head in its config.json.",
        )
    check_activation(config.activation_function)
    for name in ("add_cross_attention", "reorder_and_upcast_attn"):
        if getattr(config, name):
            raise ModelConfigError(
                f"GPT-2 with {name} is not covered.",
                hint="Use eager attention without it, or leave it out.",
            )


def divide(config: Gpt2Config, tensor: int, pipeline: int) -> Gpt2Config:
    """The configuration of one rank: Megatron's shares of heads, MLP and vocabulary.

    Raises:
        PlanError: heads or MLP cannot be divided, or layers cannot fill the stages.
    """
    for name, size in (("n_head", config.n_head), ("n_inner", config.inner_size)):
        if size % tensor:
            raise PlanError(
                f"{name} {size} cannot be divided by --tensor-parallel {tensor}.",
                hint="Use a divisor of it.",
            )
    if config.n_layer < pipeline:
        raise PlanError(
            f"{config.n_layer} layers cannot fill {pipeline} stages.",
            hint=f"Use --pipeline-parallel {config.n_layer} or less.",
        )
    return replace(
        config,
        n_head=config.n_head // tensor,
        head_size=config.size_of_head,
        n_inner=config.inner_size // tensor,
        vocab_size=ceil_div(config.vocab_size, tensor),
        n_layer=ceil_div(config.n_layer, pipeline),
    )
