"""What each run holds at its peak, stacked, against what the card has for it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from memplan.report import MemoryReport
from memplan.units import format_gib
from memplan.views.page.frame import (
    BAR,
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PINK,
    SKY,
    VERMILION,
    gib,
    lay_out_rows,
    mark,
    plain,
)
from memplan.views.page.inputs import Entry
from memplan.views.page.parts import Cell, Plot, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = {
    "weights": BLUE,
    "gradients": VERMILION,
    "optimizer states": GREEN,
    "activations": ORANGE,
    "temporary buffers": PINK,
    "functionality-specific": SKY,
    "reserved, not allocated": GREY,
    "outside the allocator": MUTED,
}
"""From the bottom of the stack to its top: they add up to what the device holds."""
MOST_COLUMNS = 4
"""Reports that stand side by side in a table; more of them stand below each other."""


def budget_bytes(report: MemoryReport) -> int:
    """What of the card the run may take: all of it below the headroom."""
    return report.headroom_bytes + need_bytes(report)


def need_bytes(report: MemoryReport) -> int:
    """What the run takes on the device, also where it ran out of memory."""
    error = report.out_of_memory
    if error is not None and error.needed_bytes is not None:
        return error.needed_bytes
    return report.peak.device_bytes


def parts_of(report: MemoryReport) -> dict[str, int]:
    """The stack of a report, in the order of COLOURS."""
    peak = report.peak
    held = [*asdict(report.components).values()]
    held.append(peak.reserved_bytes - peak.allocated_bytes)
    held.append(peak.device_bytes - peak.reserved_bytes)
    return dict(zip(COLOURS, held, strict=True))


def budget_plot(
    entries: Sequence[Entry],
    name: str = "budget",
    title: str = "Held at the peak, against the card",
) -> Plot:
    """All entries on one axis, with the budget of each card that occurs."""
    return Plot(
        name=name,
        title=title,
        alternative=_in_words(entries),
        draw=lambda: _draw(entries),
        table=_table(entries),
        note=_note(entries),
    )


def _note(entries: Sequence[Entry]) -> str:
    """What the budget is; of runs out of memory, which moment is shown."""
    said = ["The budget is the card below the headroom that shall stay free."]
    errors = [e.report.out_of_memory for e in entries if e.report.out_of_memory]
    if any(error.needed_bytes is not None for error in errors):
        said.append("A run that ended out of memory is shown on a card without limit.")
    if any(error.needed_bytes is None for error in errors):
        said.append("Of a run that ended out of memory, this is where it stopped.")
    return " ".join(said)


def _draw(entries: Sequence[Entry]) -> "go.Figure":
    import plotly.graph_objects as go

    stacks = [parts_of(entry.report) for entry in entries]
    figure = go.Figure()
    for part, colour in COLOURS.items():
        sizes = [stack[part] for stack in stacks]
        if any(sizes):
            figure.add_bar(
                name=part,
                orientation="h",
                y=list(range(len(entries))),
                x=[gib(size) for size in sizes],
                width=BAR,
                marker={"color": colour, "line": {"color": PAPER, "width": 1}},
                customdata=[
                    [format_gib(size), plain(entry.label)]
                    for size, entry in zip(sizes, entries, strict=True)
                ],
                hovertemplate=f"%{{customdata[1]}}<br>{part}: %{{customdata[0]}}"
                "<extra></extra>",
            )
    lay_out_rows(figure, [entry.label for entry in entries], "GiB")
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    _limits(figure, entries)
    return figure


def _limits(figure: "go.Figure", entries: Sequence[Entry]) -> None:
    """One line where all have the same budget; else one at each row."""
    budgets = [budget_bytes(entry.report) for entry in entries]
    if len(set(budgets)) == 1:
        mark(figure, gib(budgets[0]), f"budget {format_gib(budgets[0])}")
        return
    for row, size in enumerate(budgets):
        figure.add_shape(
            type="line",
            x0=gib(size),
            x1=gib(size),
            y0=row - BAR / 2 - 0.08,
            y1=row + BAR / 2 + 0.08,
            line={"color": INK, "width": 3},
        )


def _table(entries: Sequence[Entry]) -> Table:
    """A row a part where few reports stand side by side; else a row a report."""
    head = (*COLOURS, "on the device", "budget")
    columns: list[tuple[Cell, ...]] = [
        (
            *parts_of(entry.report).values(),
            entry.report.peak.device_bytes,
            budget_bytes(entry.report),
        )
        for entry in entries
    ]
    labels = [entry.label for entry in entries]
    caption = "Bytes on the device at the peak, per GPU"
    if len(entries) > MOST_COLUMNS:
        of_reports = [
            (name, *sizes) for name, sizes in zip(labels, columns, strict=True)
        ]
        return Table(caption=caption, head=("", *head), rows=tuple(of_reports))
    of_parts = [(name, *sizes) for name, *sizes in zip(head, *columns, strict=True)]
    return Table(caption=caption, head=("", *labels), rows=tuple(of_parts))


def _in_words(entries: Sequence[Entry]) -> str:
    said = []
    for entry in entries:
        parts = parts_of(entry.report)
        most = max(parts, key=lambda part: parts[part])
        said.append(
            f"{entry.label}: {format_gib(entry.report.peak.device_bytes)} of a budget "
            f"of {format_gib(budget_bytes(entry.report))}, most of it {most} "
            f"({format_gib(parts[most])})"
        )
    return f"Stacked bars of what is held at the peak. {'; '.join(said)}."
