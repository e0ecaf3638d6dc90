"""Where results go: stdout or a file, as tables for people or as JSON."""

import errno
import json
import os
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memplan.errors import MemplanError
from memplan.views.stdout import writing

if TYPE_CHECKING:
    from memplan.report import MemoryReport


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
OutputOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="Write the JSON report here.")
]
ForceOption = Annotated[
    bool, typer.Option("-f", "--force", help="Overwrite the output file.")
]


def chosen(output_format: Format, wants_json: bool) -> Format:
    """The format that two flags name."""
    return Format.JSON if wants_json else output_format


def emit_report(
    report: "MemoryReport", wanted: Format, file: Path | None, force: bool
) -> None:
    """Write a report: its JSON to the file, if there is one, and print it as wanted."""
    from memplan.report import as_dict

    if file is not None:
        emit(as_json(as_dict(report)), file, force=force)
    match wanted:
        case Format.JSON if file is None:
            emit(as_json(as_dict(report)))
        case Format.QUIET:
            emit(str(report.peak.device_bytes))
        case Format.HUMAN:
            from memplan.views.terminal import show_report

            show_report(report)


def emit(text: str, file: Path | None = None, *, force: bool = False) -> None:
    """Write a result, whole or not at all.

    Raises:
        MemplanError: the file exists and `force` is not given, or cannot be written.
    """
    if not text.endswith("\n"):
        text += "\n"
    if file is None:
        with writing(sys.stdout):
            sys.stdout.write(text)
        return
    check_output(file, force=force)
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
        raise _unwritable(file, error) from error


def check_output(file: Path | None, *, force: bool) -> None:
    """Say that a file cannot be written before a long run, not after it.

    Raises:
        MemplanError: it exists and `force` is not given, or cannot be written.
    """
    if file is None:
        return
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if file.exists() and not force:
            raise MemplanError(
                f"{file} exists already.", hint="Overwrite it with --force."
            )
        file.parent.stat()
        if not os.access(file.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> MemplanError:
    return MemplanError(
        f"{file} cannot be written: {error.strerror}.",
        hint="Name a file in a folder that exists and is yours.",
    )


def as_json(data: Any) -> str:
    """JSON text of plain data."""
    return json.dumps(data, indent=2)
