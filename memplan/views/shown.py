"""What a capture shows where one looks closer: by component, module, line, phase, rank.

Figures stand first and names last, in their whole length: a path ends a line, and what
it is called by others is text, whatever characters are in it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memplan.captures.breakdown import Breakdown, Row, folded
from memplan.report import MemoryReport, PhaseMemory, RankMemory
from memplan.units import format_gib
from memplan.views.curve import curve_of
from memplan.views.measured import ranks_table
from memplan.views.rehearsed import phases_table
from memplan.views.tables import print_lines
from memplan.views.terminal import LABELS

BAR_WIDTH = 24
PIPED_WIDTH = 10_000
"""Who reads a pipe wants names whole."""
INDENT = (0, 0, 0, 2)


def show_breakdown(
    breakdown: Breakdown, source: str, top: int, console: Console | None = None
) -> None:
    """Print rows of bytes, shares and bars; parts are indented below their whole."""
    allocated = breakdown.allocated_bytes
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(width=BAR_WIDTH)
    table.add_column(overflow="fold")
    for guide, row in _lines(folded(breakdown.rows, top)):
        table.add_row(
            format_gib(row.bytes),
            _share(row.bytes, allocated),
            Bar(max(allocated, 1), 0, max(row.bytes, 0), width=BAR_WIDTH),
            Text(guide, "dim").append(_label(breakdown, row), _style(row)),
        )
    table.add_row(format_gib(allocated), "", "", "allocated")
    _print(
        console,
        Text(
            f"Held at the peak{_where(breakdown.step, breakdown.phase)}, by "
            f"{breakdown.by} ({source}, rank {breakdown.rank})"
        ),
        Padding(table, INDENT),
    )


def show_phases(report: MemoryReport, console: Console | None = None) -> None:
    """Print every step, phase by phase."""
    by_step: dict[int, list[PhaseMemory]] = {}
    for phase in report.phases:
        by_step.setdefault(phase.step, []).append(phase)
    parts: list[RenderableType] = []
    for step, phases in by_step.items():
        parts += [
            Text(f"Step {step}, phase by phase ({report.source}, rank {report.rank})"),
            phases_table(phases),
            Text(""),
        ]
    _print(console, *parts[:-1])


def show_ranks(ranks: Sequence[RankMemory], console: Console | None = None) -> None:
    """Print one line a rank."""
    _print(console, ranks_table(ranks))


def show_curve(
    curve: Mapping[str, Any], source: str, rank: int, console: Console | None = None
) -> None:
    """Print the memory over a step as a picture."""
    wanted = console or Console(highlight=False)
    step = curve["phases"][0]["step"] if curve["phases"] else None
    over = f"step {step}" if step else "the step"
    title = f"Requested bytes over {over} ({source}, rank {rank})"
    _print(wanted, Text(title), Text(""), curve_of(curve, wanted.width))


def _print(console: Console | None, *parts: RenderableType) -> None:
    console = console or Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_WIDTH
    print_lines(console, Group(*parts))


def _lines(rows: Sequence[Row], indent: str = "") -> Iterator[tuple[str, Row]]:
    """Rows in the order of printing, with the lines that lead to them."""
    for row in rows:
        yield indent, row
        yield from _parts(row.rows, indent)


def _parts(rows: Sequence[Row], indent: str) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(rows, 1):
        is_end = number == len(rows)
        yield indent + ("└─ " if is_end else "├─ "), row
        yield from _parts(row.rows, indent + ("   " if is_end else "│  "))


def _label(breakdown: Breakdown, row: Row) -> str:
    return LABELS.get(row.name, row.name) if breakdown.by == "component" else row.name


def _style(row: Row) -> str:
    return "dim" if row.is_last or row.name.startswith("and ") else ""


def _share(size_bytes: int, allocated_bytes: int) -> str:
    share = size_bytes / max(allocated_bytes, 1)
    return f"{share:.1%}" if share < 0.995 else f"{share:.0%}"


def _where(step: int | None, phase: str) -> str:
    """`of step 3, in backward`."""
    return f" of step {step}, in {phase}" if step else f" in {phase}"
