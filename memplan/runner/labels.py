"""What a block of memory can be, and which component of the report that is."""

from dataclasses import dataclass
from enum import Enum

import torch

COMPONENTS = (
    "weights",
    "gradients",
    "optimizer_states",
    "activations",
    "temporary_buffers",
    "functionality_specific",
    "unattributed",
)


class Role(Enum):
    """The part a block plays, and its component."""

    WEIGHT = ("weight", "weights")
    STATE = ("state", "optimizer_states")
    GRADIENT = ("gradient", "gradients")
    EXTRA = ("extra", "functionality_specific")
    BATCH = ("batch", "temporary_buffers")
    SHARDING = ("sharding", "temporary_buffers")
    CAST = ("cast", "temporary_buffers")
    SAVED = ("saved", "activations")
    LEAF_GRADIENT = ("leaf gradient", "gradients")
    PASSING = ("passing", "temporary_buffers")
    WORKSPACE = ("workspace", "temporary_buffers")
    COPY = ("copy", "functionality_specific")
    UNKNOWN = ("unknown", "unattributed")

    @property
    def component(self) -> str:
        return self.value[1]


OWNERS = (Role.WEIGHT, Role.STATE, Role.GRADIENT, Role.EXTRA)
"""Who holds a block for long; the first counts, where several do."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a block is, as far as known."""

    role: Role
    module: str = ""
    name: str = ""
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    num_bytes: int = 0
    """Of the tensor, which may be a part of its block or lie in several."""

    @classmethod
    def of(cls, tensor: torch.Tensor, role: Role, module: str, name: str) -> "Label":
        """With the tensor's shape and dtype."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(role, module, name, tuple(tensor.shape), dtype, tensor.nbytes)
