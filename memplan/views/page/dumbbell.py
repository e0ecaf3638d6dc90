"""One plan as it was estimated, rehearsed and measured: how far apart."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from memplan.diff import diff
from memplan.differing import OF_THE_CARD, Pair
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport, Source
from memplan.units import format_gib
from memplan.views.page.frame import GREY, INK, gib, lay_out_rows, plain
from memplan.views.page.inputs import Entry, run_of
from memplan.views.page.parts import Cell, Plot, Table
from memplan.views.pictures import COLOURS, SYMBOLS
from memplan.views.validation import signed

if TYPE_CHECKING:
    import plotly.graph_objects as go

SOURCES: tuple[Source, ...] = ("measured", "rehearsed", "estimated")
"""What is nearer to the truth comes first: the others are held against it."""
ROW_HEIGHT = 42
SMALLEST = 0.01
"""Of the peak: what is less in every report has no row in the picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dumbbell:
    """One figure as several reports have it; None where one does not know it."""

    name: str
    sizes: dict[Source, int | None]

    @property
    def most_bytes(self) -> int:
        return max((size or 0 for size in self.sizes.values()), default=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Reports of one plan, at most one of each kind, in the order of SOURCES."""

    entries: tuple[Entry, ...]

    @property
    def reference(self) -> Entry:
        return self.entries[0]

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(entry.report.source for entry in self.entries)

    def differing(self) -> Iterable[tuple[Source, Pair]]:
        """What is not the same, by the report that differs from the reference."""
        for entry in self.entries[1:]:
            difference = diff(self.reference.report, entry.report)
            for pair in difference.differing:
                yield entry.report.source, pair


def groups_of(entries: Sequence[Entry]) -> tuple[Group, ...]:
    """Reports of one plan that are of two kinds or more.

    Without those that ran out of memory: where they stopped is no peak.
    """
    alike: dict[object, dict[Source, Entry]] = {}
    for entry in entries:
        error = entry.report.out_of_memory
        if error is None or error.needed_bytes is not None:
            by_source = alike.setdefault(_question(entry.report), {})
            by_source.setdefault(entry.report.source, entry)
    return tuple(
        Group(entries=tuple(found[source] for source in SOURCES if source in found))
        for found in alike.values()
        if len(found) > 1
    )


def dumbbell_plot(group: Group, name: str) -> Plot:
    """Peaks and components of one plan."""
    rows = _dumbbells(group)
    reference = group.reference.report.source
    return Plot(
        name=name,
        title=f"{run_of(group.reference.report)}: {' and '.join(group.sources)}",
        alternative=_in_words(group, rows),
        draw=lambda: _draw(group, rows),
        table=_table(group, rows),
        note=f"An error is prediction less {reference}, as a fraction of what was "
        f"{reference}.",
    )


def _question(report: MemoryReport) -> object:
    """What was asked: two reports of the same answer it."""
    if report.plan is None:
        return (report.command, report.num_gpus, report.model)
    return tuple(
        getattr(report.plan, item.name)
        for item in fields(TrainingPlan)
        if item.name not in OF_THE_CARD
    )


def _dumbbells(group: Group) -> tuple[Dumbbell, ...]:
    """The peaks, then the components; those that nobody has are left out."""
    reference = group.reference.report
    others = [diff(reference, entry.report) for entry in group.entries[1:]]
    first = others[0]
    found = []
    for term in (*first.peak, *first.components):
        sizes: dict[Source, int | None] = {reference.source: term.a_bytes}
        for difference in others:
            sizes[difference.b.source] = difference.term(term.name).b_bytes
        found.append(Dumbbell(name=term.name.replace("_", " "), sizes=sizes))
    return tuple(row for row in found if row.most_bytes)


def _draw(group: Group, rows: Sequence[Dumbbell]) -> "go.Figure":
    import plotly.graph_objects as go

    peak = group.reference.report.peak.allocated_bytes
    rows = [row for row in rows if row.most_bytes >= SMALLEST * peak]
    figure = go.Figure()
    for place, row in enumerate(rows):
        known = [gib(size) for size in row.sizes.values() if size is not None]
        figure.add_scatter(
            x=[min(known), max(known)],
            y=[place, place],
            mode="lines",
            line={"color": GREY, "width": 4},
            hoverinfo="skip",
            showlegend=False,
        )
    for source in group.sources:
        here = [(place, row.sizes[source]) for place, row in enumerate(rows)]
        known_here = [(place, size) for place, size in here if size is not None]
        figure.add_scatter(
            x=[gib(size) for _, size in known_here],
            y=[place for place, _ in known_here],
            mode="markers",
            name=source,
            marker={
                "color": INK if source == "measured" else COLOURS[source],
                "symbol": SYMBOLS[source],
                "size": 13,
                "line": {"width": 2.5},
            },
            customdata=[
                [plain(rows[place].name), format_gib(size)]
                for place, size in known_here
            ],
            hovertemplate=f"%{{customdata[0]}}, {source}: %{{customdata[1]}}"
            "<extra></extra>",
        )
    lay_out_rows(figure, [row.name for row in rows], "GiB", ROW_HEIGHT)
    return figure


def _table(group: Group, rows: Sequence[Dumbbell]) -> Table:
    head = [""]
    for source in group.sources:
        head.append(source)
    for source in group.sources[1:]:
        head.append(f"error, {source}")
    reference = group.reference.report.source
    lines = []
    for row in rows:
        line: list[Cell] = [row.name, *(row.sizes[s] for s in group.sources)]
        line += [
            _error(row.sizes[source], row.sizes[reference])
            for source in group.sources[1:]
        ]
        lines.append(tuple(line))
    return Table(
        caption=f"{run_of(group.reference.report)}, per GPU",
        head=tuple(head),
        rows=tuple(lines),
    )


def differing_table(group: Group) -> Table | None:
    """What decides memory and is not the same in the reports of a group."""
    reference = group.reference.report.source
    rows = tuple(
        (pair.name.replace("_", " "), pair.a, pair.b, source)
        for source, pair in group.differing()
    )
    if not rows:
        return None
    return Table(
        caption="Not the same",
        head=("", reference, "against", "which is"),
        rows=rows,
        texts=(0, 1, 2, 3),
    )


def others_table(groups: Sequence[Group]) -> Table:
    """The allocated peaks of plans that have no picture of their own."""
    rows = []
    for group in groups:
        peaks = {e.report.source: e.report.peak.allocated_bytes for e in group.entries}
        reference = peaks[group.reference.report.source]
        predicted = list(peaks.values())[1:]
        errors = [_error(size, reference) or "-" for size in predicted]
        sizes = [peaks.get(source) for source in SOURCES]
        rows.append((group.reference.label, *sizes, ", ".join(errors)))
    return Table(
        caption="Allocated peaks of the other plans",
        head=("plan", *SOURCES, "error"),
        rows=tuple(rows),
    )


def _error(size_bytes: int | None, reference_bytes: int | None) -> str | None:
    """Of the reference; None where that is nothing, or one of both is not known."""
    if size_bytes is None or not reference_bytes:
        return None
    return signed((size_bytes - reference_bytes) / reference_bytes)


def _in_words(group: Group, rows: Sequence[Dumbbell]) -> str:
    allocated = next(row for row in rows if row.name == "allocated")
    said = [
        f"{source} {format_gib(size)}"
        for source, size in allocated.sizes.items()
        if size is not None
    ]
    return f"Dumbbells of peaks and components. Allocated peak: {', '.join(said)}."
