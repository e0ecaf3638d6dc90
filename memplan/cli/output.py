"""Where results go: stdout or a file, as tables for people or as JSON."""

import json
import os
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from memplan.errors import MemplanError


class Format(StrEnum):
    """How a result is printed."""

    HUMAN = "human"
    JSON = "json"
    QUIET = "quiet"


FormatOption = Annotated[
    Format,
    typer.Option("--format", help="quiet prints only the figure, in bytes."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as --format json.")]


def chosen(output_format: Format, wants_json: bool) -> Format:
    """The format that two flags name."""
    return Format.JSON if wants_json else output_format


def emit(text: str, file: Path | None = None, *, force: bool = False) -> None:
    """Write a result, whole or not at all.

    Raises:
        MemplanError: the file exists and `force` is not given, or cannot be written.
    """
    if not text.endswith("\n"):
        text += "\n"
    if file is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    if file.exists() and not force:
        raise MemplanError(f"{file} exists already.", hint="Overwrite it with --force.")
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            encoding="utf-8",
            dir=file.parent,
            prefix=f".{file.name}.",
            delete=False,
        ) as part:
            part.write(text)
        os.replace(part.name, file)
    except OSError as error:
        raise MemplanError(
            f"{file} cannot be written: {error.strerror}.",
            hint="Choose a folder that exists and is yours.",
        ) from error


def as_json(data: Any) -> str:
    """JSON text of plain data."""
    return json.dumps(data, indent=2)
