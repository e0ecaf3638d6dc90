"""`with memplan.phase("name"):` marks a stage of a user's own program.

It costs nothing outside a rehearsal or a profile, and needs no PyTorch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Marks(Protocol):
    """Whoever wants to know of marked stages."""

    def begin_mark(self, name: str) -> None: ...

    def end_mark(self, name: str) -> None: ...


listeners: list[Marks] = []
"""The runner, where there is one."""


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Report the memory of what runs inside as a stage of its own."""
    for listener in listeners:
        listener.begin_mark(name)
    try:
        yield
    finally:
        for listener in listeners:
            listener.end_mark(name)
