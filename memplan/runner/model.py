"""How large the model is, whole and unsharded, whatever wraps its parameters."""

from dataclasses import dataclass
from math import prod

import torch


@dataclass(frozen=True, slots=True)
class ModelSize:
    """A model's class, and how many parameters it has."""

    name: str
    parameters: int
    trainable_parameters: int


def model_size(module: torch.nn.Module) -> ModelSize:
    """Of the model within whatever wraps it."""
    inner = unwrapped(module)
    sizes = [(_num_elements(p), p.requires_grad) for p in inner.parameters()]
    return ModelSize(
        name=type(inner).__name__,
        parameters=sum(size for size, _ in sizes),
        trainable_parameters=sum(size for size, trains in sizes if trains),
    )


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The model within DDP, FSDP, DeepSpeed's engine, or a compiled module."""
    for name in ("_orig_mod", "_fsdp_wrapped_module", "module"):
        inner = getattr(module, "_modules", {}).get(name)
        if isinstance(inner, torch.nn.Module) and len(module._modules) == 1:
            return unwrapped(inner)
    return module


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
