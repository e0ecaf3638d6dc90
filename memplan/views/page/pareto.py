"""Memory against speed: which plans nothing beats in both."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from memplan.comparing.comparison import Comparison, Variant
from memplan.units import format_gib
from memplan.views.page.budget import budget_bytes, need_bytes
from memplan.views.page.frame import BLUE, INK, VERMILION, gib, lay_out, mark, plain
from memplan.views.page.inputs import Entry
from memplan.views.page.parts import Plot, Table
from memplan.views.page.tricks import titles_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEIGHT = 380
MARGIN = 0.08
"""Of the width, beside the outermost points."""
LOOKS = {"measured": (BLUE, "circle"), "counted": (VERMILION, "diamond-open")}
NOTES = {
    "measured": "Speeds were measured on a card.",
    "counted": "Speeds are counted, not measured: FLOPs and bytes against the card's "
    "rates, of which only ratios mean something.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One plan that has a speed."""

    name: str
    need_bytes: int
    samples_per_s: float
    basis: str
    fits: bool


def points_of_comparison(comparison: Comparison) -> tuple[Point, ...]:
    variants = (comparison.baseline, *comparison.alone, *comparison.greedy)
    points = {one.tricks: _point(comparison, one) for one in variants}
    return tuple(point for point in points.values() if point is not None)


def points_of_entries(entries: Sequence[Entry]) -> tuple[Point, ...]:
    """Reports that were timed."""
    return tuple(
        Point(
            name=entry.label,
            need_bytes=need_bytes(entry.report),
            samples_per_s=entry.report.timing.samples_per_s,
            basis="measured",
            fits=entry.report.fits,
        )
        for entry in entries
        if entry.report.timing and entry.report.timing.samples_per_s
    )


def front_of(points: Sequence[Point]) -> tuple[Point, ...]:
    """Those that no other beats in memory and speed, the smallest first.

    Counted and measured speeds are not held against each other.
    """
    by_need = sorted(points, key=lambda p: (p.basis, p.need_bytes, -p.samples_per_s))
    front = []
    for _, alike in groupby(by_need, key=lambda point: point.basis):
        fastest = 0.0
        for point in alike:
            if point.samples_per_s > fastest:
                fastest = point.samples_per_s
                front.append(point)
    return tuple(front)


def pareto_plot(
    points: Sequence[Point], budget: int | None, name: str = "pareto"
) -> Plot | None:
    """Of two points or more."""
    if len(points) < 2:
        return None
    front = front_of(points)
    return Plot(
        name=name,
        title="Memory against speed",
        alternative=_in_words(front, len(points)),
        draw=lambda: _draw(points, front, budget),
        table=_table(points, front),
        note=" ".join(NOTES[basis] for basis in sorted({p.basis for p in points}))
        + " The line joins what nothing beats in both; its numbers are those of the "
        "table.",
    )


def budget_of(comparison: Comparison) -> int:
    return budget_bytes(comparison.baseline.report)


def _point(comparison: Comparison, variant: Variant) -> Point | None:
    if variant.speed is None:
        return None
    return Point(
        name=titles_of(comparison, variant),
        need_bytes=variant.need_bytes,
        samples_per_s=variant.speed.samples_per_s,
        basis=variant.speed.basis,
        fits=variant.report.fits,
    )


def _draw(
    points: Sequence[Point], front: Sequence[Point], budget: int | None
) -> "go.Figure":
    import plotly.graph_objects as go

    figure = go.Figure()
    for basis, (colour, symbol) in LOOKS.items():
        line = [point for point in front if point.basis == basis]
        if line:
            figure.add_scatter(
                x=[gib(point.need_bytes) for point in line],
                y=[point.samples_per_s for point in line],
                mode="lines+text",
                text=[str(_number(point, front)) for point in line],
                textposition="top left",
                textfont={"color": INK, "size": 13},
                line={"color": colour, "width": 1.5, "shape": "hv"},
                name=f"front, {basis}",
                hoverinfo="skip",
            )
        alike = [point for point in points if point.basis == basis]
        if alike:
            figure.add_scatter(
                x=[gib(point.need_bytes) for point in alike],
                y=[point.samples_per_s for point in alike],
                mode="markers",
                name=basis,
                marker={"color": colour, "symbol": symbol, "size": 9},
                customdata=[
                    [plain(point.name), format_gib(point.need_bytes)] for point in alike
                ],
                hovertemplate="%{customdata[0]}<br>%{customdata[1]}, "
                "%{y:.3g} samples/s<extra></extra>",
            )
    lay_out(figure, height=HEIGHT, x_title="GiB on the device")
    needs = [point.need_bytes for point in points]
    figure.update_xaxes(range=_span([*needs, *([budget] if budget else [])]))
    figure.update_yaxes(title={"text": "samples/s per GPU", "font": {"size": 12}})
    if budget is not None:
        mark(figure, gib(budget), "budget")
    return figure


def _span(sizes: Sequence[int]) -> list[float]:
    """GiB from the smallest to the largest, and a little beyond."""
    low, high = gib(min(sizes)), gib(max(sizes))
    margin = MARGIN * (high - low or high)
    return [max(low - margin, 0), high + margin]


def _number(point: Point, front: Sequence[Point]) -> int:
    return front.index(point) + 1


def _table(points: Sequence[Point], front: Sequence[Point]) -> Table:
    """The front, numbered, then the others, the fastest first."""
    others = sorted(
        (point for point in points if point not in front),
        key=lambda point: -point.samples_per_s,
    )
    rows = [
        (
            str(_number(point, front)) if point in front else None,
            point.name,
            point.need_bytes,
            f"{point.samples_per_s:.3g} samples/s",
            point.basis,
            "yes" if point.fits else "no",
        )
        for point in (*front, *others)
    ]
    return Table(
        caption="Memory and speed; a number: nothing beats it in both",
        head=("front", "plan", "on the device", "speed", "how known", "fits"),
        rows=tuple(rows),
        texts=(0, 1, 4, 5),
    )


def _in_words(front: Sequence[Point], num_points: int) -> str:
    said = [
        f"{point.name} with {format_gib(point.need_bytes)} and "
        f"{point.samples_per_s:.3g} samples/s"
        for point in front
    ]
    return f"{num_points} plans; nothing beats these in both: {'; '.join(said)}."
