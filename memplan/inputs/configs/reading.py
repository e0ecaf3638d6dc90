"""Configuration files in, fields of a plan out.

    asked = read_files([Path("fsdp.yaml"), Path("train.yaml")])
    TrainingPlan(**asked.fields)

Of two files that say the same the later wins; what one leaves open, another may say.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memplan.errors import ConfigError
from memplan.inputs.configs.documents import load
from memplan.inputs.configs.format import Format, Reading, Source

FORMATS: tuple[Format, ...] = ()
"""The first that knows a document reads it: those with keys of their own come first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadFile:
    """One file that was read."""

    file: Path
    format: Format
    reading: Reading

    @property
    def line(self) -> str:
        """What it was taken for, in a line."""
        beside = "".join(f", with {file}" for file in self.reading.files)
        return f"{self.file} read as {self.format.title}{beside}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What files and flags say together."""

    fields: dict[str, Any]
    """Of a TrainingPlan."""
    files: tuple[ReadFile, ...] = ()
    not_read: tuple[str, ...] = field(default=())
    """Keys that can move memory and are in no field, each with its file."""


def read_files(files: Sequence[Path]) -> Asked:
    """What files say, the later ones over the earlier.

    Raises:
        ConfigError: one of them cannot be read, or is of no known format.
    """
    read = tuple(read_file(file) for file in files)
    fields: dict[str, Any] = {}
    for one in read:
        fields |= one.reading.fields
    left = {name for one in read for name in one.reading.open_fields} - fields.keys()
    return Asked(
        fields=fields,
        files=read,
        not_read=(
            *(
                f"{one.file.name}: {key}"
                for one in read
                for key in one.reading.not_read
            ),
            *(f"{name} is left open by all files" for name in sorted(left)),
        ),
    )


def read_file(file: Path) -> ReadFile:
    """What one file says.

    Raises:
        ConfigError: it cannot be read, or is of no known format; or a value of it is
            not what its key takes.
    """
    source = source_of(file)
    kind = format_of(source)
    try:
        return ReadFile(file=file, format=kind, reading=kind.read(source))
    except ConfigError as error:
        if str(file) in error.message:
            raise
        raise ConfigError(f"{file}: {error.message}", hint=error.hint) from error


def source_of(file: Path) -> Source:
    """A file, opened; what it names is looked for here, then beside it."""

    def named(name: str) -> Source:
        tried = (Path(name), file.parent / name)
        for path in tried:
            if path.is_file():
                return source_of(path)
        raise ConfigError(
            f"{file} names {name}, and there is no such file.",
            hint="It is looked for in the working folder, then beside the file.",
        )

    return Source(file=file, document=load(file), named=named)


def format_of(source: Source) -> Format:
    """The format of a document, by its keys.

    Raises:
        ConfigError: none has them.
    """
    for kind in FORMATS:
        if kind.knows(source.document):
            return kind
    raise ConfigError(
        f"{source.file} is of no format that memplan knows.",
        hint=f"It reads: {', '.join(kind.title for kind in FORMATS)}.",
    )
