"""Parameters: names, shapes, and how they are kept on the device."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]

GROUPED = re.compile(r"\.\[\d+\]\.\*")
"""What `Tape.layers` adds to the path of layers that it traces in groups."""
IN_GROUP = re.compile(r"\.(\*|\d+)\.\[\d+\]\.\d+")
"""The same with the number of a layer in its group, which says little."""


def module_path(name: str) -> str:
    """A parameter's name in the model, however its layer is traced."""
    return GROUPED.sub("", name)


@dataclass(frozen=True, slots=True)
class Stored:
    """How a parameter is kept on the device."""

    dtype: str
    """What it is computed in; the compute dtype of a quantized weight."""
    is_trainable: bool
    num_bytes: int
    """Bytes on the device, quantization constants included."""
    is_quantized: bool = False
    kept_dtype: str | None = None
    """What the weight itself is kept in, where it is not what it is computed in."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named tensor of weights, or `count` equal ones in repeated layers."""

    name: str
    """Dotted module path; `*` stands for the index of a repeated layer."""
    shape: Shape
    count: int
    stored: Stored
    is_embedding: bool = False
    """Whether it is looked up by index, as `nn.Embedding` is."""
    is_tied: bool = False
    """Whether it is that of the head as well."""
    is_used: bool = True
    """Whether the loss depends on it; else it gets no gradient, and so no states."""

    @property
    def num_elements(self) -> int:
        """Elements of one."""
        return prod(self.shape)


WeightPolicy = Callable[[str, Shape, bool], Stored]
"""Decides how a parameter is kept, from its name, its shape and whether it is the
weight or bias of a linear layer."""
