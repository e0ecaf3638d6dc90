"""A table of a document, whose keys are taken one after another.

Each way to take a key says what its value must be; what nobody took can be listed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from memplan.inputs.configs.format import Keys, Reading, at, wrong


class Section:
    """One table: the document itself, or one in it.

    Keys are taken once they are asked for. None is a key that is not there, or is
    there without a value.
    """

    def __init__(self, values: Mapping[str, Any], *path: str) -> None:
        self.values = values
        self._path = path
        self._taken: set[str] = set()

    def key(self, name: str) -> str:
        """Where it stands in the document: `training.seq_len`."""
        return ".".join((*self._path, name))

    def value(self, name: str) -> Any:
        """Whatever it holds."""
        self._taken.add(name)
        return self.values.get(name)

    def flag(self, name: str) -> bool | None:
        """True or false."""
        value = self.value(name)
        if value is not None and not isinstance(value, bool):
            raise wrong(self.key(name), value, "be true or false")
        return value

    def count(self, name: str, least: int = 1) -> int | None:
        """A whole number of at least so much."""
        value = self.value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise wrong(self.key(name), value, f"be a whole number of at least {least}")
        return value

    def number(self, name: str) -> float | None:
        """A number; YAML 1.1 takes 1e-5 for a text."""
        value = self.value(name)
        if value is None:
            return None
        try:
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                raise ValueError
            return float(value)
        except (ValueError, OverflowError):
            raise wrong(self.key(name), value, "be a number") from None

    def text(self, name: str) -> str | None:
        """Words; none are no value."""
        value = self.value(name)
        if value is not None and not isinstance(value, str):
            raise wrong(self.key(name), value, "be text")
        return value or None

    def choice(self, name: str, *choices: str) -> str | None:
        """One of a few words."""
        value = self.value(name)
        if value is not None and value not in choices:
            raise wrong(self.key(name), value, f"be one of {', '.join(choices)}")
        return None if value is None else str(value)

    def texts(self, name: str) -> tuple[str, ...] | None:
        """A list of words; one alone may stand without the list."""
        value = self.value(name)
        if value is None:
            return None
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(i, str) for i in items):
            raise wrong(self.key(name), value, "be a list of names")
        return tuple(items)

    def section(self, name: str) -> "Section":
        """Another table in this one; an empty one where there is none."""
        value = self.value(name)
        if value is not None and not isinstance(value, Mapping):
            raise wrong(self.key(name), value, "hold other keys")
        return Section(value or {}, *self._path, name)

    def left(self, harmless: frozenset[str]) -> Iterator[str]:
        """Keys that are set and that nobody took, but for those that move no memory.

        A switch that is off, a zero, and a key without a value are not set.
        """
        for name, value in self.values.items():
            if value and name not in self._taken and name not in harmless:
                yield self.key(name)

    def __bool__(self) -> bool:
        return bool(self.values)


def decide(
    reading: Reading, key: str, field: str, value: Any, default: Any = None
) -> None:
    """A field by what a key says; where it says nothing, by the format's default."""
    if value is not None:
        reading.say(key, **{field: value})
    elif default is not None:
        reading.suppose(**{field: default})


def kept(document: Mapping[str, Any], *paths: tuple[str, ...]) -> Keys:
    """Keys as they stand: of what a plan says and a format has no word for."""
    there = {path: at(document, *path) for path in paths}
    return {path: value for path, value in there.items() if value is not None}
