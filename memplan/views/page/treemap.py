"""Whose the bytes of the peak are: modules as areas; of a report, its tensors."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memplan.captures.breakdown import Breakdown, Row, breakdown_of, flat, folded
from memplan.report import Holder, MemoryReport, Term
from memplan.units import format_gib
from memplan.views.page.frame import BLUE, GREY, PAPER, lay_out, plain
from memplan.views.page.inputs import Entry
from memplan.views.page.parts import Cell, Plot, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

DEPTH = 5
MOST_AREAS = 40
"""Parts of one module that are drawn; the others are one area."""
MOST_ROWS = 20
TABLE_DEPTH = 3
HEIGHT = 460
ROOT = "peak"


@dataclass(frozen=True, kw_only=True, slots=True)
class Area:
    """One area, and the one that it lies in."""

    key: str
    parent: str
    name: str
    bytes: int
    is_module: bool


def treemap_plot(entry: Entry, name: str) -> Plot | None:
    """Of one report; None where nothing says whose the bytes are."""
    report, process = entry.report, entry.process
    if process is not None and process.get("blocks") and process.get("peak"):
        deep = breakdown_of(process, "module", depth=DEPTH)
        flat_enough = breakdown_of(process, "module", depth=TABLE_DEPTH)
        return Plot(
            name=name,
            title=f"By module, {entry.label}",
            alternative=_in_words("module", flat_enough.rows, deep.allocated_bytes),
            draw=lambda: _draw(list(_areas(folded(deep.rows, MOST_AREAS)))),
            table=_table(flat_enough),
            note="Areas are bytes alive at the peak, and add up to what was allocated. "
            "A click opens a module; grey belongs to none.",
        )
    if report.explanation is not None:
        rows = _by_component((t.component, t.name, t.bytes, 1) for t in _terms(report))
        return Plot(
            name=name,
            title=f"Term by term, {entry.label}",
            alternative=_in_words("term", rows, report.peak.device_bytes),
            draw=lambda: _draw(list(_areas(rows))),
            table=_terms_table(report),
            note="The terms of the estimate add up to what the device holds.",
        )
    if not report.holders:
        return None
    rows = _by_component(
        (one.component, _tensor(one), one.bytes, one.count) for one in report.holders
    )
    return Plot(
        name=name,
        title=f"The largest, {entry.label}",
        alternative=_in_words("tensor", rows, report.peak.allocated_bytes),
        draw=lambda: _draw(list(_areas(rows))),
        table=_holders_table(report),
        note="Tensors alive at the peak, alike ones as one. Of the rest a report has "
        "no names; a capture does.",
    )


def _draw(areas: Sequence[Area]) -> "go.Figure":
    import plotly.graph_objects as go

    figure = go.Figure()
    total = sum(area.bytes for area in areas if area.parent == ROOT)
    figure.add_treemap(
        ids=[ROOT, *(area.key for area in areas)],
        parents=["", *(area.parent for area in areas)],
        labels=["all", *(plain(area.name) for area in areas)],
        values=[total, *(area.bytes for area in areas)],
        text=[format_gib(size) for size in (total, *(area.bytes for area in areas))],
        branchvalues="total",
        maxdepth=4,
        textinfo="label+text",
        hovertemplate="%{label}<br>%{text}, %{percentRoot:.1%} of all<extra></extra>",
        marker={
            "colors": [GREY, *(BLUE if area.is_module else GREY for area in areas)],
            "line": {"color": PAPER, "width": 1},
            "pad": {"t": 22, "l": 2, "r": 2, "b": 2},
        },
        tiling={"pad": 1},
        textfont={"color": "#ffffff"},
        pathbar={"textfont": {"color": "#ffffff"}},
        root={"color": GREY},
    )
    lay_out(figure, height=HEIGHT, x_title="")
    figure.update_layout(uniformtext={"minsize": 10, "mode": "hide"})
    return figure


def _areas(rows: Iterable[Row], parent: str = ROOT) -> Iterator[Area]:
    """Every row as an area in that of which it is a part."""
    for number, row in enumerate(rows):
        if row.bytes > 0:
            key = f"{parent}/{number}"  # names need not be unique
            yield Area(
                key=key,
                parent=parent,
                name=row.name,
                bytes=row.bytes,
                is_module=not row.is_last,
            )
            yield from _areas(row.rows, key)


def _by_component(parts: Iterable[tuple[str, str, int, int]]) -> tuple[Row, ...]:
    """Components, and in each what is named: its name, bytes and number."""
    found: dict[str, list[Row]] = {}
    for component, name, size_bytes, count in parts:
        row = Row(name=name, bytes=size_bytes, count=count)
        found.setdefault(component.replace("_", " "), []).append(row)
    return tuple(
        Row(
            name=component,
            bytes=sum(row.bytes for row in rows),
            count=sum(row.count for row in rows),
            rows=tuple(rows),
        )
        for component, rows in found.items()
    )


def _tensor(holder: Holder) -> str:
    return ": ".join(filter(None, (holder.module, holder.name))) or "(no name)"


def _terms(report: MemoryReport) -> tuple[Term, ...]:
    return report.explanation.terms if report.explanation else ()


def _terms_table(report: MemoryReport) -> Table:
    """The largest with their formulas, what the others are together, and the sum."""
    terms = sorted(_terms(report), key=lambda term: -term.bytes)
    rows: list[tuple[Cell, ...]] = [
        (term.name, term.component.replace("_", " "), term.formula, term.bytes)
        for term in terms[:MOST_ROWS]
    ]
    rest = terms[MOST_ROWS:]
    if rest:
        size_bytes = sum(term.bytes for term in rest)
        rows.append((f"and {len(rest)} more", None, None, size_bytes))
    rows.append(("on the device", None, None, sum(term.bytes for term in terms)))
    return Table(
        caption="The terms of the estimate",
        head=("term", "component", "formula", "held"),
        rows=tuple(rows),
        texts=(0, 1, 2),
    )


def _table(breakdown: Breakdown) -> Table:
    """The largest, what the others are together, and the sum."""
    lines = sorted(flat(breakdown.rows), key=lambda line: -line["bytes"])
    first, rest = lines[:MOST_ROWS], lines[MOST_ROWS:]
    rows = [(line["name"], line["bytes"]) for line in first]
    if rest:
        rows.append((f"and {len(rest)} more", sum(line["bytes"] for line in rest)))
    rows.append(("allocated", breakdown.allocated_bytes))
    total = max(breakdown.allocated_bytes, 1)
    return Table(
        caption="Alive at the peak, by module",
        head=("module", "held", "share"),
        rows=tuple((name, size, f"{size / total:.1%}") for name, size in rows),
    )


def _holders_table(report: MemoryReport) -> Table:
    return Table(
        caption="The largest tensors at the peak",
        head=("module", "tensor", "component", "number", "held"),
        rows=tuple(
            (
                one.module or None,
                one.name or None,
                one.component.replace("_", " "),
                str(one.count),
                one.bytes,
            )
            for one in report.holders
        ),
        texts=(0, 1, 2),
    )


def _in_words(what: str, rows: Sequence[Row], total_bytes: int) -> str:
    largest = sorted(rows, key=lambda row: -row.bytes)[:3]
    said = [f"{row.name} {format_gib(row.bytes)}" for row in largest]
    return (
        f"Treemap by {what} of {format_gib(total_bytes)} allocated at the peak. "
        f"The largest: {', '.join(said)}."
    )
