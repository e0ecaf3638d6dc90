"""An optimizer that was made, by the name that a plan has for it."""

from collections.abc import Mapping
from typing import Any

BITSANDBYTES = ("adamw", "ademamix", "lion")
"""Its classes that come paged and in 8 bits, by the front of their names."""


def optimizer_name(optimizer: Any) -> str | None:
    """The plan's name of an optimizer that was made; None where it has none."""
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
    module, name = type(inner).__module__, type(inner).__name__
    options = inner.param_groups[0] if inner.param_groups else {}
    if module.startswith("torch.optim"):
        return _torch_name(name, options)
    if module.startswith("transformers") and name == "Adafactor":
        return "adafactor" if options.get("beta1") is None else None
    if module.startswith("bitsandbytes"):
        return _bitsandbytes_name(name, inner)
    return None


def _torch_name(name: str, options: Mapping[str, Any]) -> str | None:
    if options.get("amsgrad") or options.get("centered"):
        return None
    if name in ("Adam", "AdamW"):
        kind = name.lower()
        if options.get("fused"):
            return f"{kind}_fused"
        return f"{kind}_forloop" if options.get("foreach") is False else kind
    if name == "SGD":
        return "sgd_momentum" if options.get("momentum") else "sgd"
    if name == "RMSprop" and options.get("momentum"):
        return None
    known = {
        "Adagrad": "adagrad",
        "RMSprop": "rmsprop",
        "Adafactor": "torch_adafactor",
    }
    return known.get(name)


def _bitsandbytes_name(name: str, optimizer: Any) -> str | None:
    lowered = name.lower()
    bits = getattr(getattr(optimizer, "args", None), "optim_bits", 32)
    for algorithm in BITSANDBYTES:
        if lowered.removeprefix("paged").startswith(algorithm):
            if getattr(optimizer, "is_paged", False):
                return f"paged_{algorithm}_{bits}bit"
            if algorithm == "adamw":
                return "adamw_8bit" if bits == 8 else None
            return f"{algorithm}_8bit" if bits == 8 else algorithm
    if lowered.startswith("rmsprop"):
        return f"rmsprop_bnb_{bits}bit"
    return None
