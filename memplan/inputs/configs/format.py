"""What is known of a format that users configure their runs in.

A format reads its documents into fields of a plan, and says which keys a plan would
have in it. Everything else follows from these two, the same for all: a plan is written
as its keys, a file is changed by the keys that differ between two plans, and what a
format has no keys for is found by reading back what was written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from memplan.errors import ConfigError
from memplan.plan import TrainingPlan

Document = dict[str, Any]
"""A parsed file: tables in tables, the keys text."""
Keys = dict[tuple[str, ...], Any]
"""Values by where they stand in a document: `("training", "seq_len")`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A document that is read, and what it may name."""

    file: Path
    document: Document
    named: Callable[[str], "Source"]
    """Opens another file that this one names, or raises ConfigError."""


@dataclass(slots=True, kw_only=True)
class Reading:
    """What a document says, as it is found."""

    fields: dict[str, Any] = field(default_factory=dict)
    """Of a TrainingPlan."""
    origins: dict[str, str] = field(default_factory=dict)
    """Which key each of them is from: `training.seq_len`."""
    supposed: set[str] = field(default_factory=set)
    """Which of the fields give way to another file that says them: what switches that
    are off leave as it is, and, without an origin, what the format does by default."""
    not_read: list[str] = field(default_factory=list)
    """Keys that can move memory and are in no field, each with what is unknown."""
    open_fields: set[str] = field(default_factory=set)
    """Fields that are left to somebody else: DeepSpeed's "auto"."""
    files: list[Path] = field(default_factory=list)
    """Files that were read because this one names them."""

    def say(self, key: str, **fields: Any) -> None:
        """A key, and the fields that it decides."""
        self.fields |= fields
        self.origins |= dict.fromkeys(fields, key)
        self.supposed -= fields.keys()

    def suppose(self, key: str | None = None, **fields: Any) -> None:
        """Fields that give way to whoever says them; without a key, by default."""
        new = {name: v for name, v in fields.items() if name not in self.fields}
        self.fields |= new
        self.supposed |= new.keys()
        if key is not None:
            self.origins |= dict.fromkeys(new, key)

    def adopt(self, other: "Reading", file: Path | None = None) -> None:
        """All that another document says, which this one holds, or names as a file."""
        for name, value in other.fields.items():
            key = other.origins.get(name)
            if name in other.supposed:
                self.suppose(key, **{name: value})
            else:
                self.say(key or name, **{name: value})
        where = "" if file is None else f"{file.name}: "
        self.not_read += (f"{where}{line}" for line in other.not_read)
        self.open_fields |= other.open_fields
        self.files += other.files if file is None else [file, *other.files]

    def miss(self, key: str, what: str = "not known to memplan") -> None:
        """A key that can move memory and decides no field."""
        self.not_read.append(f"{key}: {what}")


class Format(Protocol):
    """One way to write a run down: a module of this folder, as an object."""

    name: str
    """What `--format` takes: `accelerate`."""
    title: str
    """In a sentence: `accelerate config`."""
    suffix: str
    """Of the files that are written: `.yaml`."""

    def knows(self, document: Document) -> bool:
        """Whether a document is one of these, by its keys."""

    def read(self, source: Source) -> Reading:
        """What a document says.

        Raises:
            ConfigError: a value is not what its key takes, or contradicts another.
        """

    def keys_of(self, plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
        """All keys by which a document of this format says what the plan says.

        Args:
            document: what is there already: of two spellings of a key the one in it is
                taken, of several places the one that it uses.
        """


def at(document: Mapping[str, Any], *path: str) -> Any:
    """What stands there in a document; None where there is nothing.

    Raises:
        ConfigError: what should hold other keys is a value.
    """
    value: Any = document
    for depth, key in enumerate(path):
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise wrong(path[:depth], value, "hold other keys")
        value = value.get(key)
    return value


def wrong(path: tuple[str, ...] | str, value: object, expected: str) -> ConfigError:
    """The error of a value that is not what its key takes.

    >>> raise wrong("training.seq_len", "long", "be a whole number")
    """
    key = path if isinstance(path, str) else ".".join(path)
    return ConfigError(
        f"{key} must {expected}, not be {_short(value)}.",
        hint="Correct it, or leave the key out.",
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
