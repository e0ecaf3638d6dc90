"""Captures: what a run showed, in one file that other commands and machines can read.

    write_capture(CaptureFile(report=report, processes=processes), Path("run.mplan"))
    report = read_capture(Path("run.mplan")).report

A capture is a zip of JSON (docs/captures.md): a header that says what it is, the
report, and what each process saw. It is written whole or not at all. Reading trusts
nothing of it: no name in it is a path, sizes are bounded before anything is unpacked,
and numbers and texts are checked for what they are.
"""

import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memplan.captures.process import Process, process_of
from memplan.errors import CaptureFileError, MemplanError
from memplan.files import whole_file
from memplan.report import MemoryReport, from_json, to_json
from memplan.units import MiB
from memplan.untrusted import plain_data

SUFFIX = ".mplan"
FORMAT = "memplan capture"
FORMAT_VERSION = 1
HEADER = "header.json"
REPORT = "report.json"
PROCESS = re.compile(r"processes/(0|[1-9][0-9]{0,5})\.json")

MOST_BYTES = 128 * MiB
"""Of all that is unpacked: as Python objects it may take twenty times as much."""
MOST_BYTES_OF_A_MEMBER = 16 * MiB
MOST_BYTES_OF_DETAILS = 32 * MiB
"""Blocks and curves of all processes together, as they are written."""
MOST_BYTES_OF_A_LIST = 8 * MiB
"""Of the zip's list of members, at the end of the file."""
DETAILS = ("blocks", "curve")
"""The bulk of what a process saw."""

END = struct.Struct("<4s4H2LH")
END_OF_ZIP = b"PK\x05\x06"
LARGE_ZIP = b"PK\x06\x07"
LARGE_ZIP_SIZE = 20
Members = Mapping[str, zipfile.ZipInfo]
DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,  # a member asks for a password; or a compression nobody has
    MemoryError,
)
"""What Python's zipfile raises where a zip is not what it says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptureFile:
    """A report, and what it was made of."""

    report: MemoryReport
    processes: tuple[Process, ...]
    is_redacted: bool = False
    """Paths, commands and names of machines were taken out."""
    left_out: tuple[int, ...] = ()
    """Ranks whose blocks and curve had no room in the file."""
    memplan_version: str = field(default="")
    """That wrote it; of one that is not written yet, the report's."""


WRITTEN_BY = (
    "`memplan rehearse -o run.mplan` and `memplan profile -o run.mplan` write captures."
)


class _DamageError(Exception):
    """Why a file is no capture."""


def is_capture(path: Path) -> bool:
    """Whether a file is named as a capture."""
    return path.suffix == SUFFIX


def write_capture(capture: CaptureFile, path: Path, *, force: bool = False) -> None:
    """Write a capture: all of it, or what was there before stays.

    Raises:
        CaptureFileError: it exists and `force` is not given, or cannot be written.
    """
    content = _packed(capture)
    try:
        with whole_file(path, overwrite=force) as file:
            file.write(content)
    except FileExistsError as error:
        raise CaptureFileError(
            f"{path} exists already.", hint="Overwrite it with --force."
        ) from error
    except OSError as error:
        raise CaptureFileError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="Name a file in a folder that exists, is yours and has room.",
        ) from error


def read_capture(path: Path) -> CaptureFile:
    """Read a capture, wherever it comes from.

    Raises:
        CaptureFileError: it cannot be read, or is damaged, or no capture, or newer.
    """
    try:
        if not path.is_file():
            path.stat()  # says what is wrong, where it is not there
            raise _DamageError("it is no ordinary file")
        with path.open("rb") as file:
            _check_end(file)
            with zipfile.ZipFile(file) as archive:
                return _read(archive, path)
    except OSError as error:
        raise CaptureFileError(
            f"{path} cannot be read: {error.strerror or error}.",
            hint=WRITTEN_BY,
        ) from error
    except _DamageError as error:
        raise _refused(path, str(error)) from error
    except DAMAGES as error:
        raise _refused(path, "it is damaged") from error


def _packed(capture: CaptureFile) -> bytes:
    """Without dates: the same capture is the same file."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in _members(capture):
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _members(capture: CaptureFile) -> Iterator[tuple[str, str]]:
    """Names and texts, in the order in which they are read."""
    report = to_json(capture.report, indent=None)
    processes, left_out = _fitting(
        capture.processes, MOST_BYTES - len(report) - MOST_BYTES_OF_A_LIST
    )
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "memplan_version": capture.report.memplan_version,
        "is_redacted": capture.is_redacted,
        "left_out": sorted(left_out.union(capture.left_out)),
    }
    yield HEADER, json.dumps(header)
    yield REPORT, report
    for number, index in enumerate(sorted(processes)):
        yield f"processes/{number}.json", processes[index]


def _fitting(
    processes: Sequence[Process], room: int
) -> tuple[dict[int, str], set[int]]:
    """What readers take, by number; and the ranks that are not there with all they saw.

    A job of thousands of ranks has more to say than anybody wants to load: of all of
    them what there is in short, and in full the most loaded.
    """
    texts: dict[int, str] = {}
    in_order = sorted(range(len(processes)), key=lambda index: -_load(processes[index]))
    for index in in_order:
        text = _text(_without_details(processes[index]))
        if len(text) <= min(room, MOST_BYTES_OF_A_MEMBER):
            texts[index] = text
            room -= len(text)
    left_out = {
        process["rank"]
        for index, process in enumerate(processes)
        if index not in texts or any(process.get(name) for name in DETAILS)
    }
    room = min(room, MOST_BYTES_OF_DETAILS)
    for index in filter(texts.__contains__, in_order):
        text = _text(processes[index])
        room -= len(text) - len(texts[index])
        if room < 0 or len(text) > MOST_BYTES_OF_A_MEMBER:
            break
        texts[index] = text
        left_out.discard(processes[index]["rank"])
    return texts, left_out


def _text(process: Process) -> str:
    return json.dumps(process, separators=(",", ":"))


def _load(process: Process) -> int:
    """Where its memory ended, or its peak."""
    known = process.get("out_of_memory") or process.get("peak") or {}
    return int(known.get("reserved_bytes", 0))


def _without_details(process: Process) -> Process:
    return {key: value for key, value in process.items() if key not in DETAILS}


def _check_end(file: Any) -> None:
    """Before the list of members is loaded, know that it is one, and not too long.

    Captures have no comment and are not of the large kind: their last bytes are the end
    of the zip.
    """
    size = file.seek(0, os.SEEK_END)
    if size > MOST_BYTES:
        raise _DamageError("it is larger than any capture")
    if size == 0:
        raise _DamageError("it is empty")
    tail_size = min(size, END.size + LARGE_ZIP_SIZE)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    if len(tail) < END.size or not tail[-END.size :].startswith(END_OF_ZIP):
        raise _DamageError("it is cut off, or something else")
    list_size = END.unpack(tail[-END.size :])[5]
    if list_size > MOST_BYTES_OF_A_LIST or tail.startswith(LARGE_ZIP):
        raise _DamageError("it has more parts than any capture")
    file.seek(0)


def _read(archive: zipfile.ZipFile, path: Path) -> CaptureFile:
    members = _known_members(archive)
    header = _json(archive, members, HEADER)
    _check_header(header, path)
    if sum(member.file_size for member in members.values()) > MOST_BYTES:
        raise _DamageError("it unpacks to more than any capture holds")
    return CaptureFile(
        report=_report(_content(archive, members, REPORT)),
        processes=tuple(_processes(archive, members)),
        is_redacted=header.get("is_redacted") is True,
        left_out=_ranks(header.get("left_out")),
        memplan_version=str(header.get("memplan_version", "")),
    )


def _known_members(archive: zipfile.ZipFile) -> Members:
    """By name; others are ignored, and no name is ever used as a path."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename
        if name in (HEADER, REPORT) or PROCESS.fullmatch(name):
            if name in members:
                raise _DamageError(f"it has {name} twice")
            members[name] = member
    return members


def _content(archive: zipfile.ZipFile, members: Members, name: str) -> bytes:
    """A member, which is as long as it says: zipfile reads no further."""
    member = members.get(name)
    if member is None:
        raise _DamageError(f"it has no {name}")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _DamageError(f"{name} is packed in another way")
    if member.file_size > MOST_BYTES_OF_A_MEMBER:
        raise _DamageError(f"{name} is too large")
    return archive.read(member)


def _json(archive: zipfile.ZipFile, members: Members, name: str) -> Any:
    try:
        return plain_data(_content(archive, members, name))
    except ValueError as error:
        raise _DamageError(f"{name} is no JSON that can be read ({error})") from error


def _check_header(header: Any, path: Path) -> None:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _DamageError("its header is that of something else")
    version = header.get("version")
    if type(version) is not int:
        raise _DamageError("its header has no version")
    if version > FORMAT_VERSION:
        by = header.get("memplan_version", "of another version")
        raise CaptureFileError(
            f"{path} has format version {version}, written by memplan {by}; this "
            f"memplan reads up to version {FORMAT_VERSION}.",
            hint="Read it with a newer memplan: pip install --upgrade memplan",
        )


def _report(text: bytes) -> MemoryReport:
    try:
        return from_json(text)
    except MemplanError as error:
        said = error.message.rstrip(".")
        raise _DamageError(f"{REPORT} cannot be used ({said})") from error


def _processes(archive: zipfile.ZipFile, members: Members) -> Iterator[Process]:
    numbered = [(PROCESS.fullmatch(name), name) for name in members]
    found = sorted((int(match[1]), name) for match, name in numbered if match)
    for _, name in found:
        content = _json(archive, members, name)
        try:
            process = process_of(content)
        except ValueError as error:
            raise _DamageError(f"{name} cannot be used ({error})") from error
        yield process


def _ranks(listed: Any) -> tuple[int, ...]:
    known = listed if isinstance(listed, list) else []
    return tuple(rank for rank in known if type(rank) is int)


def _refused(path: Path, why: str) -> CaptureFileError:
    return CaptureFileError(
        f"{path} is no capture that can be read: {why}.",
        hint=WRITTEN_BY,
    )
