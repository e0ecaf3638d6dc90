"""How large the model is, whole and unsharded, whatever wraps its parameters."""

from collections.abc import Iterable
from math import prod
from typing import Any

import torch


def model_size(roots: Iterable[torch.nn.Module]) -> dict[str, Any] | None:
    """The largest of these modules: its class, and how many parameters it has."""
    sizes = [_size(unwrapped(root)) for root in roots]
    return max(sizes, key=lambda size: int(size["parameters"]), default=None)


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The model within DDP, FSDP, DeepSpeed's engine, or a compiled module."""
    for name in ("_orig_mod", "_fsdp_wrapped_module", "module"):
        inner = getattr(module, "_modules", {}).get(name)
        if isinstance(inner, torch.nn.Module) and len(module._modules) == 1:
            return unwrapped(inner)
    return module


def _size(module: torch.nn.Module) -> dict[str, Any]:
    sizes = [(_num_elements(p), p.requires_grad) for p in module.parameters()]
    return {
        "name": type(module).__name__,
        "parameters": sum(size for size, _ in sizes),
        "trainable_parameters": sum(size for size, trains in sizes if trains),
    }


def _num_elements(parameter: torch.nn.Parameter) -> int:
    """Of the whole tensor: sharding and quantization say what that was.

    DeepSpeed keeps `ds_numel`, FSDP1's flat parameters their unsharded size without
    padding, bitsandbytes the shape in `quant_state`; a DTensor counts itself whole.
    """
    if hasattr(parameter, "ds_numel"):
        return int(parameter.ds_numel)
    if hasattr(parameter, "_unpadded_unsharded_size"):
        return prod(parameter._unpadded_unsharded_size)
    state = getattr(parameter, "quant_state", None)
    if state is not None and getattr(state, "shape", None) is not None:
        return prod(state.shape)
    return parameter.numel()
