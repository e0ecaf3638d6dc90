"""Memory over one step: its curve where a capture has that, else phase by phase."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from memplan.report import MemoryReport, PhaseMemory
from memplan.units import format_gib
from memplan.views.page.frame import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    PINK,
    SKY,
    gib,
    lay_out,
    plain,
)
from memplan.views.page.inputs import Entry
from memplan.views.page.parts import Plot, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = {"forward": SKY, "loss": PINK, "backward": BLUE, "optimizer": GREEN}
HEIGHT = 340
US_PER_MS = 1000
ON_THE_RIGHT = 0.6
"""Of the width: a peak beyond it has its name to its left."""


def timeline_plot(entry: Entry, name: str) -> Plot | None:
    """Of one report; None where it has no phases."""
    phases = steady_phases(entry.report)
    curve = (entry.process or {}).get("curve")
    table = _table(entry.report, phases)
    if curve and curve["requested_bytes"]:
        return Plot(
            name=name,
            title=f"Step {entry.report.peak.step}, {entry.label}",
            alternative=_curve_in_words(curve),
            draw=lambda: _draw_curve(curve),
            table=table,
            note=_clock(curve),
        )
    if not phases:
        return None
    return Plot(
        name=name,
        title=f"Step {entry.report.peak.step}, {entry.label}",
        alternative=_phases_in_words(phases),
        draw=lambda: _draw_phases(phases),
        table=table,
        note="Bars are the highest point of a phase, dots what is left at its end; "
        "what lies between is not known.",
    )


def steady_phases(report: MemoryReport) -> tuple[PhaseMemory, ...]:
    """The phases of the step in which the peak is."""
    return tuple(phase for phase in report.phases if phase.step == report.peak.step)


def _draw_curve(curve: Mapping[str, Any]) -> "go.Figure":
    import plotly.graph_objects as go

    points = curve["requested_bytes"]
    times = curve["times_us"]
    x = [(t - times[0]) / US_PER_MS for t in times] if times else range(len(points))
    figure = go.Figure()
    named = set()
    for phase, begins, ends in _stretches(curve):
        colour = COLOURS.get(phase, MUTED)
        figure.add_scatter(
            x=list(x[begins:ends]),
            y=[gib(size) for size in points[begins:ends]],
            mode="lines",
            line={"color": colour, "width": 1.5, "shape": "hv"},
            fill="tozeroy",
            name=plain(phase),
            legendgroup=plain(phase),
            showlegend=phase not in named,
            customdata=[format_gib(size) for size in points[begins:ends]],
            hovertemplate=f"{plain(phase)}: %{{customdata}}<extra></extra>",
        )
        named.add(phase)
    top = max(range(len(points)), key=points.__getitem__)
    _mark_peak(figure, x[top], points[top], is_late=top > ON_THE_RIGHT * len(points))
    lay_out(
        figure,
        height=HEIGHT,
        x_title="ms" if times else "allocations and frees, in their order",
    )
    figure.update_yaxes(title={"text": "GiB requested", "font": {"size": 12}})
    _lay_out_height(figure, points[top])
    figure.update_layout(meta={"zooms": True}, hovermode="x")
    return figure


def _stretches(curve: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Phases with what lies between them; each reaches to where the next begins."""
    num_points = len(curve["requested_bytes"])
    found, at = [], 0
    for phase in curve["phases"]:
        begins, ends = max(phase["begins"], at), min(phase["ends"], num_points)
        if begins > at:
            found.append(("between", at, begins + 1))
        if ends > begins:
            found.append((phase["phase"], begins, min(ends + 1, num_points)))
            at = ends
    if at < num_points:
        found.append(("after", at, num_points))
    return found


def _draw_phases(phases: Sequence[PhaseMemory]) -> "go.Figure":
    import plotly.graph_objects as go

    figure = go.Figure()
    places = list(range(len(phases)))
    for name in dict.fromkeys(phase.phase for phase in phases):
        here = [at for at in places if phases[at].phase == name]
        sizes = [phases[at].peak_allocated_bytes for at in here]
        figure.add_bar(
            x=here,
            y=[gib(size) for size in sizes],
            name=plain(name),
            width=0.7,
            marker={"color": COLOURS.get(name, MUTED)},
            customdata=[format_gib(size) for size in sizes],
            hovertemplate=f"{plain(name)}, highest: %{{customdata}}<extra></extra>",
        )
    figure.add_scatter(
        x=places,
        y=[gib(phase.end_allocated_bytes) for phase in phases],
        mode="markers",
        name="left at its end",
        marker={"color": INK, "symbol": "diamond", "size": 9},
        customdata=[format_gib(phase.end_allocated_bytes) for phase in phases],
        hovertemplate="left at its end: %{customdata}<extra></extra>",
    )
    top = max(places, key=lambda at: phases[at].peak_allocated_bytes)
    _mark_peak(figure, top, phases[top].peak_allocated_bytes, is_late=False)
    lay_out(figure, height=HEIGHT, x_title="phases, in their order")
    figure.update_xaxes(showticklabels=False, showgrid=False)
    figure.update_yaxes(title={"text": "GiB allocated", "font": {"size": 12}})
    _lay_out_height(figure, phases[top].peak_allocated_bytes)
    return figure


def _lay_out_height(figure: "go.Figure", top_bytes: int) -> None:
    """Room above the peak for its name."""
    figure.update_yaxes(range=[0, gib(max(top_bytes, 1)) * 1.15])


def _mark_peak(
    figure: "go.Figure", x: float, size_bytes: int, *, is_late: bool
) -> None:
    figure.add_scatter(
        x=[x],
        y=[gib(size_bytes)],
        mode="markers",
        marker={"color": INK, "size": 9, "symbol": "circle"},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_annotation(
        x=x,
        y=gib(size_bytes),
        text=f"peak {format_gib(size_bytes)}",
        showarrow=False,
        yanchor="bottom",
        xanchor="right" if is_late else "center",
        yshift=6,
    )


def _table(report: MemoryReport, phases: Sequence[PhaseMemory]) -> Table:
    has_requested = any(phase.peak_requested_bytes is not None for phase in phases)
    head = ["phase", "highest allocated", "left allocated"]
    if has_requested:
        head += ["highest requested", "highest reserved"]
    rows = []
    for phase in phases:
        row: list[str | int | None] = [
            phase.phase,
            phase.peak_allocated_bytes,
            phase.end_allocated_bytes,
        ]
        if has_requested:
            row += [phase.peak_requested_bytes, phase.peak_reserved_bytes]
        rows.append(tuple(row))
    return Table(
        caption=f"Step {report.peak.step}, phase by phase",
        head=tuple(head),
        rows=tuple(rows),
    )


def _clock(curve: Mapping[str, Any]) -> str:
    if curve["times_us"]:
        return ""
    return "A virtual card has no clock: the axis counts allocations and frees."


def _curve_in_words(curve: Mapping[str, Any]) -> str:
    points = curve["requested_bytes"]
    said = [
        f"{phase} from {format_gib(points[begins])} up to "
        f"{format_gib(max(points[begins:ends]))}"
        for phase, begins, ends in _stretches(curve)
    ]
    return f"Line of the bytes requested over one step. {'; '.join(said)}."


def _phases_in_words(phases: Sequence[PhaseMemory]) -> str:
    said = [
        f"{phase.phase} at most {format_gib(phase.peak_allocated_bytes)}"
        for phase in phases
    ]
    return f"Bars of the highest point of each phase. {'; '.join(said)}."
