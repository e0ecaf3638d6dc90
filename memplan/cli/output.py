"""Where results go: stdout or a file, as tables for people or as JSON."""

import errno
import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memplan.errors import MemplanError
from memplan.files import has_no_contents, whole_file
from memplan.views.stdout import writing

if TYPE_CHECKING:
    from memplan.captures.capture_file import CaptureFile
    from memplan.captures.process import Process
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
RedactOption = Annotated[
    bool,
    typer.Option(
        "--redact", help="Leave folders, commands and errors out of what is written."
    ),
]


def chosen(output_format: Format, wants_json: bool) -> Format:
    """The format that two flags name."""
    return Format.JSON if wants_json else output_format


def emit_report(
    report: "MemoryReport",
    wanted: Format,
    file: Path | None,
    force: bool,
    *,
    processes: "Sequence[Process]" = (),
    is_redacted: bool = False,
) -> None:
    """Write a report to the file, if there is one, and print it as wanted.

    With what the processes saw, a file named `.mplan` is a capture. Redacted, neither
    tells of folders, commands and people.
    """
    from memplan.captures.capture_file import CaptureFile
    from memplan.captures.redaction import redact

    capture = CaptureFile(report=report, processes=tuple(processes))
    if is_redacted:
        capture = redact(capture)
    if file is not None:
        emit_capture(capture, file, force=force)
    print_report(capture.report, wanted, is_written=file is not None)


def emit_capture(capture: "CaptureFile", file: Path, *, force: bool = False) -> None:
    """Write a capture to a file named `.mplan`; to any other its report's JSON.

    Raises:
        MemplanError: the file exists and `force` is not given, or cannot be written.
    """
    from memplan.captures.capture_file import is_capture, write_capture
    from memplan.report import as_dict

    if is_capture(file):
        write_capture(capture, file, force=force)
    else:
        emit(as_json(as_dict(capture.report)), file, force=force)


def print_report(
    report: "MemoryReport", wanted: Format, *, is_written: bool = False
) -> None:
    """Print a report as wanted; of one that was written, no JSON a second time."""
    from memplan.report import as_dict

    match wanted:
        case Format.JSON if not is_written:
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
        with whole_file(file, overwrite=force) as whole:
            whole.write(text.encode("utf-8"))
    except FileExistsError as error:
        raise _taken(file) from error
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
        if file.is_file() and not force:
            raise _taken(file)
        if has_no_contents(file):
            return
        folder = os.path.dirname(os.path.realpath(file))
        os.stat(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(file, error) from error


def _taken(file: Path) -> MemplanError:
    return MemplanError(f"{file} exists already.", hint="Overwrite it with --force.")


def _unwritable(file: Path, error: OSError) -> MemplanError:
    return MemplanError(
        f"{file} cannot be written: {error.strerror}.",
        hint="Name a file in a folder that exists and is yours.",
    )


def as_json(data: Any) -> str:
    """JSON text of plain data."""
    return json.dumps(data, indent=2)
