"""A report out of a file of either kind: JSON, or a capture.

report = read_report(Path("of3b.mplan"))
"""

from pathlib import Path

from memplan.capture_file import is_capture, read_capture
from memplan.errors import MemplanError
from memplan.report import MemoryReport, from_json
from memplan.units import MiB

ZIP = b"PK"
"""What a capture begins with, whatever it is named."""
MOST_BYTES = 64 * MiB
"""Of a report: those of the largest jobs have less than one."""


def read_report(path: Path) -> MemoryReport:
    """The report that a file holds, wherever it comes from.

    Raises:
        MemplanError: it cannot be read, or is neither a report nor a capture.
    """
    if is_capture(path):
        return read_capture(path).report
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise MemplanError(
            f"{path} cannot be read: {error.strerror or error}.",
            hint="Name a JSON report (`--json`, or -o FILE) or a capture (.mplan).",
        ) from error
    if content.startswith(ZIP):
        return read_capture(path).report
    if len(content) > MOST_BYTES:
        raise MemplanError(
            f"{path} is no memplan report: it is larger than any.",
            hint="Name a JSON report or a capture (.mplan).",
        )
    try:
        return from_json(content)
    except MemplanError as error:
        raise MemplanError(f"{path}: {error.message}", hint=error.hint) from error
