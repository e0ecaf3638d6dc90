"""The bytes of a peak, by component, module or line: rows that add up to the byte.

    breakdown = breakdown_of(process, "module", depth=3)
    sum(row.bytes for row in breakdown.rows) == breakdown.allocated_bytes

Blocks are larger than what was asked for, and of some nobody knows whose they are: both
are rows like any other.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from memplan.captures.process import Process
from memplan.errors import CaptureFileError
from memplan.report import MemoryReport

By = Literal["component", "module", "line"]
Block = Mapping[str, Any]

UNATTRIBUTED = "unattributed"
ROUNDING = "rounding of blocks"
NOT_SEEN = "not in the capture"
ITSELF = "itself"
NO_MODULE = "of no module"
NO_LINE = "of no line"
NO_NAME = "of no name"
LAST = (NO_MODULE, NO_LINE, UNATTRIBUTED, NOT_SEEN, ROUNDING)
"""Rows that stand below all others, and are never folded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One name and what it holds, its parts included."""

    name: str
    bytes: int
    count: int
    """Of blocks."""
    rows: tuple["Row", ...] = ()
    """Its parts; they add up to it, or are none."""

    @property
    def is_last(self) -> bool:
        """Whether it is what remains, not a name of the program's."""
        return self.name in LAST


@dataclass(frozen=True, kw_only=True, slots=True)
class Breakdown:
    """What the allocator had given out at a peak."""

    by: By
    rank: int
    step: int | None
    phase: str
    allocated_bytes: int
    rows: tuple[Row, ...]


def breakdown_of(process: Process, by: By, *, depth: int = 1) -> Breakdown:
    """What one process held at its peak; of modules, to some depth of their names.

    Raises:
        CaptureFileError: the process had no peak, or its blocks were not kept.
    """
    peak, blocks = process.get("peak"), process.get("blocks")
    if peak is None or blocks is None:
        raise CaptureFileError(
            f"What rank {process['rank']} held at its peak is not in the capture.",
            hint="Of a large job the blocks of the most loaded ranks are kept; a "
            "process that made no step has none.",
        )
    rows = _tree([(_path(block, by, depth), block) for block in blocks])
    return Breakdown(
        by=by,
        rank=process["rank"],
        step=peak["step"],
        phase=peak["phase"],
        allocated_bytes=peak["allocated_bytes"],
        rows=_ordered([*rows, *_remainders(peak, blocks)]),
    )


def components_of(report: MemoryReport) -> Breakdown:
    """The components of a report: for these it needs no blocks."""
    held = asdict(report.components)
    held["temporary_buffers"] -= report.unattributed_bytes + report.rounding_bytes
    held[UNATTRIBUTED] = report.unattributed_bytes
    held[ROUNDING] = report.rounding_bytes
    return Breakdown(
        by="component",
        rank=report.rank,
        step=report.peak.step,
        phase=report.peak.phase,
        allocated_bytes=report.peak.allocated_bytes,
        rows=tuple(
            Row(name=name, bytes=size_bytes, count=0)
            for name, size_bytes in held.items()
        ),
    )


def folded(rows: Sequence[Row], top: int) -> tuple[Row, ...]:
    """The largest rows, and the others as one; so too the parts of each."""
    named = [row for row in rows if not row.is_last]
    shown, others = named[:top], named[top:]
    if len(others) == 1:  # a row that says so is no shorter
        shown, others = named, []
    folded_rows = [
        Row(
            name=row.name,
            bytes=row.bytes,
            count=row.count,
            rows=folded(row.rows, top),
        )
        for row in shown
    ]
    if others:
        folded_rows.append(_sum_of(f"and {len(others)} more", others))
    return (*folded_rows, *(row for row in rows if row.is_last))


def flat(rows: Iterable[Row], path: str = "") -> list[dict[str, Any]]:
    """The rows without parts, under their whole names: they add up too."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        name = path if row.name == ITSELF else ".".join(filter(None, (path, row.name)))
        if row.rows:
            lines += flat(row.rows, name)
        else:
            lines.append({"name": name, "bytes": row.bytes, "count": row.count})
    return lines


def _path(block: Block, by: By, depth: int) -> tuple[str, ...]:
    """The row of a block, below the rows that it is a part of."""
    if by == "component":
        return (block["component"],)
    name = block[by]
    if not name and block["component"] == UNATTRIBUTED:
        return (UNATTRIBUTED,)
    if by == "line":
        return (name or NO_LINE,)
    if not name:  # what the program itself makes, beside its modules
        return (NO_MODULE, block["name"] or NO_NAME)[:depth]
    return tuple(name.split(".", depth)[:depth])


def _tree(members: Iterable[tuple[tuple[str, ...], Block]]) -> list[Row]:
    """Rows of the first names; those of the next are their parts."""
    groups: dict[str, list[tuple[tuple[str, ...], Block]]] = {}
    for path, block in members:
        groups.setdefault(path[0], []).append((path[1:], block))
    return [_row(name, group) for name, group in groups.items()]


def _row(name: str, members: Sequence[tuple[tuple[str, ...], Block]]) -> Row:
    blocks = [block for _, block in members]
    has_parts = any(path for path, _ in members)
    parts = [(path or (ITSELF,), block) for path, block in members if has_parts]
    return Row(
        name=name,
        bytes=sum(block["bytes"] for block in blocks),
        count=sum(block["count"] for block in blocks),
        rows=_ordered(_tree(parts)),
    )


def _remainders(peak: Block, blocks: Iterable[Block]) -> Iterator[Row]:
    """Between the blocks and what was allocated."""
    requested = peak["requested_bytes"]
    missing = requested - sum(block["bytes"] for block in blocks)
    if missing:
        yield Row(name=NOT_SEEN, bytes=missing, count=0)
    yield Row(name=ROUNDING, bytes=peak["allocated_bytes"] - requested, count=0)


def _ordered(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The largest first; of equal ones, in the order of their numbers."""
    return tuple(
        sorted(
            rows,
            key=lambda row: (
                LAST.index(row.name) if row.is_last else -1,
                -row.bytes,
                _numbers(row.name),
            ),
        )
    )


def _numbers(name: str) -> list[tuple[int, str]]:
    """Layer 10 comes after layer 9."""
    parts = re.split(r"([0-9]+)", name)
    return [(len(part) if index % 2 else 0, part) for index, part in enumerate(parts)]


def _sum_of(name: str, rows: Sequence[Row]) -> Row:
    return Row(
        name=name,
        bytes=sum(row.bytes for row in rows),
        count=sum(row.count for row in rows),
    )
