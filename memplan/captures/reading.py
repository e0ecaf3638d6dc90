"""A report out of a file of either kind: JSON, or a capture.

report = read_report(Path("of3b.mplan"))
"""

import os
from pathlib import Path

from memplan.captures.capture_file import CaptureFile, is_capture, read_capture
from memplan.errors import MemplanError
from memplan.report import MemoryReport, from_json
from memplan.units import MiB

ZIP = b"PK"
"""What a capture begins with, whatever it is named."""
MOST_BYTES = 16 * MiB
"""Of a report: those of the largest jobs have less than one."""
AT_ONCE = getattr(os, "O_NONBLOCK", 0)
"""Windows has no pipes with names that one could wait for."""


def read_report(path: Path) -> MemoryReport:
    """The report that a file holds, wherever it comes from.

    Raises:
        MemplanError: it cannot be read, or is neither a report nor a capture.
    """
    return read_either(path).report


def read_either(path: Path) -> CaptureFile:
    """A capture; of a report by itself one without processes.

    Raises:
        MemplanError: it cannot be read, or is neither a report nor a capture.
    """
    content = text_of(path)
    if content is None:
        return read_capture(path)
    try:
        return CaptureFile(report=from_json(content), processes=())
    except MemplanError as error:
        raise MemplanError(f"{path}: {error.message}", hint=error.hint) from error


def text_of(path: Path) -> bytes | None:
    """What a file of JSON says; None: it is a capture, by its name or its beginning.

    Raises:
        MemplanError: it cannot be read, or is larger than any report.
    """
    if is_capture(path):
        return None
    try:
        content = _beginning(path)
    except OSError as error:
        raise MemplanError(
            f"{path} cannot be read: {error.strerror or error}.",
            hint="Name a JSON report (`--json`, or -o FILE) or a capture (.mplan).",
        ) from error
    if content.startswith(ZIP):
        return None
    if len(content) > MOST_BYTES:
        raise MemplanError(
            f"{path} is no memplan report: it is larger than any.",
            hint="Name a JSON report or a capture (.mplan).",
        )
    return content


def _beginning(path: Path) -> bytes:
    """The file, or as much of it as shows that it is no report.

    Of a pipe that nobody writes to there is nothing: it is not waited for.
    """

    def opened(name: str, flags: int) -> int:
        return os.open(name, flags | AT_ONCE)

    with open(path, "rb", opener=opened) as file:
        if AT_ONCE:
            os.set_blocking(file.fileno(), True)
        return file.read(MOST_BYTES + 1)
