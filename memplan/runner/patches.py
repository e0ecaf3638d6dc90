"""Functions of other libraries that are replaced, and put back as they were.

A program may hold a replacement by another name (`from torch.nn.functional import
cross_entropy`), so what replaces a function also passes straight on to it once its
owner has let go.
"""

from typing import Any

ABSENT = object()
"""In place of an attribute that its owner only inherits."""


class Patches:
    """What was replaced, in order."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, str, Any, Any]] = []

    def replace(self, owner: Any, name: str, replacement: Any) -> None:
        """Set an attribute of a class or a module."""
        original = vars(owner).get(name, ABSENT)
        self._made.append((owner, name, original, replacement))
        setattr(owner, name, replacement)

    def restore(self) -> None:
        """Put all back, but for what somebody else has replaced since."""
        while self._made:
            owner, name, original, replacement = self._made.pop()
            if vars(owner).get(name) is not replacement:
                continue
            if original is ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
