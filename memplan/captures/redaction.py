"""A capture to show to others: what the memory went to, not whose machine it was.

Of source files their names are left, with line and function; of a module its place in
the model. Commands, errors, the ids of jobs and processes, and every folder go. What is
not known here goes too: a field that nobody thought of may say anything.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from memplan.captures.capture_file import CaptureFile
from memplan.captures.process import process_of
from memplan.report import MemoryReport, as_dict, from_json

REDACTED = "<redacted>"
LINE = re.compile(r"(.*?:\d+ \S+?)(?: \((.*:\d+ \S+)\))?")
"""`train.py:12 main (library/file.py:3 call)`; the library is not always there."""
SEPARATOR = re.compile(r"[/\\]")
ABSOLUTE = re.compile(
    r"(?:(?<=[\s'\"=(:,])|^)(?:~?/\S|[A-Za-z]:[/\\]|\\\\).*", re.DOTALL
)
"""A path from the root, to the end of the text: folders have spaces in their names."""
RELATIVE = re.compile(r"\S*[/\\]")
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*")


def redact(capture: CaptureFile) -> CaptureFile:
    """The same figures without what tells of people, machines and folders."""
    processes = [process_of(process) for process in capture.processes]
    lines = _lines_of([as_dict(capture.report), *processes])
    return replace(
        capture,
        report=_redacted_report(capture.report, lines),
        processes=tuple(_redacted("", process, lines) for process in processes),
        is_redacted=True,
    )


def redact_report(report: MemoryReport) -> MemoryReport:
    """The same, of a report by itself."""
    return _redacted_report(report, _lines_of([as_dict(report)]))


def _redacted_report(report: MemoryReport, lines: list[str]) -> MemoryReport:
    return from_json(json.dumps(_redacted("", as_dict(report), lines)))


def _lines_of(parts: Any) -> list[str]:
    """Every line that is named, the longest first: sentences quote them."""
    return sorted(set(_values_of("line", parts)), key=len, reverse=True)


def _values_of(key: str, data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        if isinstance(data.get(key), str) and data[key]:
            yield data[key]
        data = data.values()
    elif not isinstance(data, list | tuple):
        return
    for value in data:
        yield from _values_of(key, value)


def _redacted(key: str, value: Any, lines: list[str]) -> Any:
    """A value of plain data, by the key that it is under."""
    if value is None:
        return None
    if key in GONE:
        return GONE[key]
    if isinstance(value, dict):
        return {name: _redacted(name, inner, lines) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(key, inner, lines) for inner in value]
    if not isinstance(value, str) or key in KEPT:
        return value
    return BY_KEY[key](value) if key in BY_KEY else _sentence(value, lines)


def _line(text: str) -> str:
    """`train.py:12 main` of `/home/me/train.py:12 main`."""
    match = LINE.fullmatch(text)
    if match is None:
        return REDACTED if text else ""
    user, library = match.groups()
    return _last(user) + (f" ({_last(library)})" if library else "")


def _last(path: str) -> str:
    """What stands behind the last folder."""
    return SEPARATOR.split(path)[-1]


def _exception(text: str) -> str:
    """The kind of an error; what it says may be anything."""
    match = EXCEPTION.match(text)
    return match[0] if match else text and REDACTED


def _sentence(text: str, lines: list[str]) -> str:
    """Words without folders."""
    for line in lines:
        if line in text:
            text = text.replace(line, _line(line))
    return RELATIVE.sub("", ABSOLUTE.sub(REDACTED, text))


KEPT = ("module", "trainable", "lora_targets")
"""Places in the model, and expressions that match them."""
GONE: dict[str, Any] = {
    "argv": [],
    "command": [REDACTED],
    "job": "",
    "pid": 0,
}
BY_KEY: dict[str, Callable[[str], str]] = {
    "line": _line,
    "error": _exception,
    "model": _last,  # of a plan: a name, a hub id or a folder
    "name": _last,
}
