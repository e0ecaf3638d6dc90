"""What configurations of decoder-only language models are refused for, in one way."""

from collections.abc import Mapping
from typing import Any

from memplan.errors import ModelConfigError
from memplan.formulas.layers import ACTIVATIONS

OTHER_HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering")


def check_heads(
    hidden_size: int, num_heads: int, num_kv_heads: int, head_dim: int | None = None
) -> None:
    """Heads share the hidden size, and groups of them a key-value head.

    Raises:
        ModelConfigError: they cannot.
    """
    if not head_dim and hidden_size % num_heads:
        raise ModelConfigError(
            f"hidden_size {hidden_size} is no multiple of {num_heads} heads.",
            hint="Correct num_attention_heads in its config.json, or give a head_dim.",
        )
    if num_heads % num_kv_heads:
        raise ModelConfigError(
            f"{num_heads} heads cannot share {num_kv_heads} key-value heads.",
            hint="Correct num_key_value_heads in its config.json.",
        )


def check_rotation(size: int) -> None:
    """What is rotated of a head is two halves.

    Raises:
        ModelConfigError: it cannot be halved.
    """
    if size % 2:
        raise ModelConfigError(
            f"Heads of {size} cannot be rotated: the size is odd.",
            hint="Correct head_dim in its config.json.",
        )


def check_activation(name: str) -> None:
    """The MLP's activation is one with a formula.

    Raises:
        ModelConfigError: it is not.
    """
    if name not in ACTIVATIONS:
        raise ModelConfigError(
            f"The activation {name!r} is not covered.",
            hint=f"Covered: {', '.join(ACTIVATIONS)}.",
        )


def check_architectures(architectures: tuple[str, ...] | None) -> None:
    """The head is that of a causal language model.

    Raises:
        ModelConfigError: it is another.
    """
    for architecture in architectures or ():
        if architecture.endswith(OTHER_HEADS):
            raise ModelConfigError(
                f"Training a {architecture} is not covered.",
                hint='Set "architectures" in its config.json to a causal LM.',
            )


def rotated_features(
    head_size: int, factor: float, rope_parameters: Mapping[str, Any] | None
) -> int:
    """How many of a head are rotated; newer files have the factor among the others."""
    factor = (rope_parameters or {}).get("partial_rotary_factor", factor)
    return int(head_size * factor)
