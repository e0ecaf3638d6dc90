"""Symbolic tensors: a size, a dtype, and who holds the bytes."""

from math import prod
from typing import TYPE_CHECKING

from memplan.formulas.allocator import block_bytes
from memplan.formulas.parameters import Shape, Stored

if TYPE_CHECKING:
    from memplan.formulas.tape import Tape

ITEM_BYTES = {
    "int64": 8,
    "fp32": 4,
    "int32": 4,
    "bf16": 2,
    "fp16": 2,
    "bool": 1,
    "int8": 1,
    "uint8": 1,
}

TEMPORARY, SAVED, GRADIENT, STATIC = range(4)
"""Kinds of storage. STATIC ones (weights, inputs) are counted outside the tape."""


class Storage:
    """Bytes on the device, and how many hold them."""

    __slots__ = (
        "block_bytes",
        "is_savable",
        "kind",
        "num_holders",
        "requested_bytes",
        "serial",
    )

    def __init__(
        self, requested_bytes: int, kind: int, is_savable: bool, serial: int = 0
    ) -> None:
        self.serial = serial
        self.requested_bytes = requested_bytes
        self.block_bytes = 0 if kind == STATIC else block_bytes(requested_bytes)
        self.kind = kind
        self.is_savable = is_savable
        self.num_holders = 0


class Tensor:
    """A handle on a storage; `edge` is its gradient's identity, None wants none."""

    __slots__ = ("dtype", "edge", "origin", "shape", "storage", "tape")

    def __init__(
        self, tape: "Tape", storage: Storage, shape: Shape, dtype: str, edge: int | None
    ) -> None:
        self.tape = tape
        self.storage = storage
        self.shape = shape
        self.dtype = dtype
        self.edge = edge
        self.origin: Tensor | None = None
        """The shard that is saved in its place, where it is gathered from shards."""
        storage.num_holders += 1

    def __del__(self) -> None:
        self.tape.drop(self.storage)

    def release(self) -> None:
        """Let go of the storage, where a caller's name would go before this handle."""
        storage, self.storage = self.storage, Storage(0, STATIC, False)
        self.storage.num_holders = 1
        self.tape.drop(storage)

    @property
    def num_bytes(self) -> int:
        """Bytes of a contiguous copy, and so of the gradient."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


class Weight(Tensor):
    """A parameter: its bytes are counted in `Tape.parameters`, its gradient here."""

    __slots__ = ("is_quantized", "name", "num_stored_bytes")

    def __init__(
        self, tape: "Tape", name: str, shape: Shape, stored: "Stored", edge: int | None
    ) -> None:
        super().__init__(tape, Storage(0, STATIC, False), shape, stored.dtype, edge)
        self.name = name
        self.is_quantized = stored.is_quantized
        self.num_stored_bytes = stored.num_bytes
