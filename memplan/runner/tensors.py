"""Tensors within whatever holds them, and the blocks they lie in."""

from collections.abc import Iterator
from typing import Any

import torch

DEEPEST = 4
"""Levels of lists and dictionaries that are looked into."""


def tensors_in(thing: Any, depth: int = DEEPEST) -> Iterator[torch.Tensor]:
    """The tensors in nested lists, tuples and dictionaries."""
    if isinstance(thing, torch.Tensor):
        yield thing
    elif depth and isinstance(thing, (list, tuple)):
        for item in thing:
            yield from tensors_in(item, depth - 1)
    elif depth and isinstance(thing, dict):
        for item in thing.values():
            yield from tensors_in(item, depth - 1)


def named_tensors_in(
    thing: Any, name: str = "", depth: int = DEEPEST
) -> Iterator[tuple[str, torch.Tensor]]:
    """The same, with the key or index that leads to each."""
    if isinstance(thing, torch.Tensor):
        yield name, thing
    elif depth and isinstance(thing, (list, tuple, dict)):
        items = thing.items() if isinstance(thing, dict) else enumerate(thing)
        for key, item in items:
            inner = f"{name}.{key}" if name else str(key)
            yield from named_tensors_in(item, inner, depth - 1)


def address_of(tensor: torch.Tensor) -> int:
    """Where its block begins; 0 for one that is not on a card, or is no real tensor."""
    if not tensor.is_cuda:
        return 0
    local = getattr(tensor, "_local_tensor", tensor)
    if hasattr(local, "fake_mode"):  # a compiler's stand-in, left in its caches
        return 0
    try:
        return int(local.untyped_storage().data_ptr())
    except (RuntimeError, NotImplementedError):
        # A wrapper, as tensors of a quantization library or of a tracer are.
        return 0


def addresses_of(tensor: torch.Tensor) -> Iterator[int]:
    """Its block, or those of the tensors that a wrapper is made of."""
    address = address_of(tensor)
    if address:
        yield address
    elif hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            inner = getattr(tensor, name)
            if isinstance(inner, torch.Tensor):  # a DTensor names its mesh too
                yield from addresses_of(inner)
