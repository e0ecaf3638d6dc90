"""What stands in for the peers of a rank that is alone.

A store answers what the others would have written into it, and PyTorch's fake process
group stands in for Gloo, and on a real card for NCCL: its collectives return at once,
with this rank's own values or none.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import FakeProcessGroup, Store

UNIQUE_ID_BYTES = 128
"""Of an ncclUniqueId (nccl.h), which rank 0 leaves in the store for the others."""


class AnsweringStore(Store):
    """Nobody else writes into it, and nobody waits.

    A key that nobody set reads as an NCCL id would; a counter stands where it would if
    every rank had counted.
    """

    def __init__(self, world_size: int) -> None:
        super().__init__()
        self._world_size = world_size
        self._values: dict[str, bytes] = {}

    def clone(self) -> "AnsweringStore":
        """Of a group that is split off; there is one store for all."""
        return self

    def set(self, key: str, value: str | bytes) -> None:
        self._values[key] = value.encode() if isinstance(value, str) else bytes(value)

    def get(self, key: str) -> bytes:
        return self._values.get(key, bytes(UNIQUE_ID_BYTES))

    def add(self, key: str, value: int) -> int:
        total = int(self._values.get(key, b"0")) + value * self._world_size
        self._values[key] = str(total).encode()
        return total

    def compare_set(self, key: str, expected_value: str, desired_value: str) -> bytes:
        self.set(key, desired_value)
        return self.get(key)

    def check(self, keys: list[str]) -> bool:
        """Nobody signals an error, so only what this rank has set is there."""
        return all(key in self._values for key in keys)

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        return

    def delete_key(self, key: str) -> bool:
        return self._values.pop(key, None) is not None

    def num_keys(self) -> int:
        return len(self._values)

    def set_timeout(self, timeout: timedelta) -> None:
        return

    def append(self, key: str, value: str | bytes) -> None:
        added = value.encode() if isinstance(value, str) else bytes(value)
        self._values[key] = self._values.get(key, b"") + added

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def multi_set(self, keys: list[str], values: Sequence[str | bytes]) -> None:
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)


class Peerless:
    """Makes a fake process group where one is asked for that needs its peers."""

    def __new__(cls, store: Any, rank: int, size: int, *_: Any, **__: Any) -> Any:
        return FakeProcessGroup._create_internal(rank, size)


def without_peers(group: type[Any]) -> type[Any]:
    """What a program makes in place of `group`; its options it makes as before."""
    kept = {
        name: value
        for name, value in vars(group).items()
        if name == "Options" or name.isupper()
    }
    return type(group.__name__, (Peerless,), kept)
