"""Reads a snapshot of PyTorch's allocator that may come from anywhere.

`torch.cuda.memory._dump_snapshot` and `memplan rehearse --snapshot` write a pickle, and
a pickle can run any program when it is read as pickles are. A snapshot is plain data:
here everything else in it is refused, and nothing of the file is ever called.

    snapshot = read_snapshot(Path("out.pickle"))
    held = totals_of(snapshot, device=0)
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from memplan.errors import SnapshotError

Snapshot = Mapping[str, Any]

SEGMENT = {
    "device": int,
    "total_size": int,
    "allocated_size": int,
    "active_size": int,
    "blocks": list,
}
BLOCK = {"size": int, "state": str}
ALLOCATED = "active_allocated"
INACTIVE = "inactive"
"""States of a block; what is in neither is freed and waits for a stream."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """What the blocks of one device add up to."""

    reserved_bytes: int
    active_bytes: int
    allocated_bytes: int
    num_segments: int
    num_blocks: int


class _PlainUnpickler(pickle.Unpickler):
    """Makes lists, dictionaries, texts and numbers, and looks no name up."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def read_snapshot(file: Path) -> Snapshot:
    """The snapshot that a file holds.

    Raises:
        SnapshotError: it cannot be read, is cut off, or is more or other than that.
    """
    try:
        with file.open("rb") as stream:
            content = _PlainUnpickler(stream).load()
    except OSError as error:
        raise _refused(file, error.strerror or str(error)) from error
    except Exception as error:  # a pickle that is damaged fails in any way
        raise _refused(file, str(error) or type(error).__name__) from error
    problem = _problem(content)
    if problem is not None:
        raise _refused(file, problem)
    snapshot: Snapshot = content
    return snapshot


def totals_of(snapshot: Snapshot, device: int) -> Totals:
    """The blocks of a device, added up."""
    segments = [s for s in snapshot["segments"] if s["device"] == device]
    blocks = [block for segment in segments for block in segment["blocks"]]
    return Totals(
        reserved_bytes=sum(block["size"] for block in blocks),
        active_bytes=sum(b["size"] for b in blocks if b["state"] != INACTIVE),
        allocated_bytes=sum(b["size"] for b in blocks if b["state"] == ALLOCATED),
        num_segments=len(segments),
        num_blocks=len(blocks),
    )


def _problem(content: Any) -> str | None:
    """Why it is no snapshot, if it is none."""
    segments = content.get("segments") if isinstance(content, dict) else None
    if not isinstance(segments, list):
        return "it has no segments"
    for segment in segments:
        if not _has(segment, SEGMENT):
            return "a segment of it is incomplete"
        if not all(_has(block, BLOCK) for block in segment["blocks"]):
            return "a block of it is incomplete"
    return None


def _has(thing: Any, fields: Mapping[str, type]) -> bool:
    return isinstance(thing, dict) and all(
        isinstance(thing.get(name), kind) for name, kind in fields.items()
    )


def _refused(file: Path, why: str) -> SnapshotError:
    return SnapshotError(
        f"{file} is no snapshot that can be read: {why}.",
        hint="memplan rehearse --snapshot, or torch.cuda.memory._dump_snapshot, "
        "writes one.",
    )
