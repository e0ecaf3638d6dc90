"""Plots of a validation, as figures of plotly and as pictures that stand still.

A picture is SVG, made by kaleido in a browser of the Chrome family. Both are extras
(`memplan[images]`): without them a page has its tables alone, and says so.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from memplan.units import GiB
from memplan.validation.cases import COMPONENTS, Case, Engine
from memplan.validation.validate import Validation
from memplan.views.validation import Row, component_rows, signed, trick_rows

if TYPE_CHECKING:
    import plotly.graph_objects as go

INSTALL = "pip install 'memplan[images]'"
WIDTH = 760
ROW_HEIGHT = 22
FRAME_HEIGHT = 150
MOST_ROWS = 40
COLOURS: dict[str, str] = {
    "measured": "#222222",
    "estimated": "#0072b2",
    "rehearsed": "#d55e00",
}
"""Told apart by the colour-blind too (Okabe and Ito's palette), and by symbol."""
SYMBOLS = {
    "measured": "line-ns-open",
    "estimated": "circle-open",
    "rehearsed": "diamond-open",
}
MADE_UP = re.compile(r"(?:defs-|clip|trace|legend)([0-9a-f]{6})")
"""Names by chance, in what plotly draws."""


Points = dict[Engine, list[tuple[str, list[float]]]]
"""Names with their errors, by engine."""


class PictureError(Exception):
    """No picture can be made here; its text says why and what would help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One plot."""

    name: str
    """Of its file, without the ending."""
    title: str
    alternative: str
    """What it shows, for those who do not see it."""
    draw: Callable[[], "go.Figure"]
    """Makes the figure, with plotly."""


def problem() -> str | None:
    """What is missing for pictures, as far as can be told without a browser."""
    for name in ("plotly", "kaleido"):
        if find_spec(name) is None:
            return f"{name} is not installed: {INSTALL}"
    return None


def pictures_of(validation: Validation) -> Iterator[Picture]:
    """The peaks side by side, errors by component, errors by what plans set."""
    if not any(case.difference for case in validation.cases):
        return
    yield Picture(
        name="peaks",
        title=f"Allocated peak, predicted and {validation.reference}",
        alternative=_peaks_text(validation),
        draw=lambda: _peaks(validation),
    )
    yield Picture(
        name="components",
        title="Error by component",
        alternative=_rows_text(validation, "component", component_rows),
        draw=lambda: _components(validation),
    )
    yield Picture(
        name="settings",
        title="Error of the allocated peak by what plans set",
        alternative=_rows_text(validation, "what plans set", trick_rows),
        draw=lambda: _settings(validation),
    )


def as_svg(picture: Picture) -> str:
    """The picture as text, the same each time it is drawn.

    Raises:
        PictureError: kaleido finds no browser, or cannot start it.
    """
    lacking = problem()
    if lacking is not None:
        raise PictureError(lacking)
    try:
        svg: bytes = picture.draw().to_image(format="svg")
    except (RuntimeError, OSError, TimeoutError) as error:
        first = str(error).strip().partition("\n")[0].rstrip(".")
        raise PictureError(
            f"kaleido made no picture ({first or type(error).__name__}): it needs "
            "Chrome or Chromium, which plotly_get_chrome installs"
        ) from error
    return _settled(svg.decode("utf-8"))


def shown_cases(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Those that fit a picture and a table, the worst first."""
    return tuple(case for case in cases if case.difference is not None)[:MOST_ROWS]


def _settled(svg: str) -> str:
    """Without the names that plotly makes up by chance."""
    names = {name: n for n, name in enumerate(dict.fromkeys(MADE_UP.findall(svg)))}
    return MADE_UP.sub(
        lambda found: found[0].replace(found[1], f"{names[found[1]]:06d}"), svg
    )


def _peaks(validation: Validation) -> "go.Figure":
    """A dumbbell a record: what was measured, and each prediction of it."""
    import plotly.graph_objects as go

    cases = shown_cases(validation.worst_first())
    labels = list(dict.fromkeys(map(_label, cases)))
    figure = go.Figure()
    for case in cases:
        figure.add_scatter(
            x=[_gib(case, "a"), _gib(case, "b")],
            y=[_label(case)] * 2,
            mode="lines",
            line={"color": "#bbbbbb", "width": 3},
            hoverinfo="skip",
            showlegend=False,
        )
    for engine in validation.engines:
        name = f"{engine} today" if engine == validation.reference else engine
        of_engine = [case for case in cases if case.engine == engine]
        _dots(figure, engine, of_engine, "b", name)
    _dots(figure, validation.reference, cases, "a")
    _lay_out(figure, len(labels), "GiB allocated at the peak")
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=labels[::-1])
    return figure


def _dots(
    figure: "go.Figure", kind: str, cases: Sequence[Case], side: str, name: str = ""
) -> None:
    figure.add_scatter(
        x=[_gib(case, side) for case in cases],
        y=[_label(case) for case in cases],
        mode="markers",
        name=name or kind,
        marker={
            "color": COLOURS[kind],
            "symbol": SYMBOLS[kind],
            "size": 11,
            "line": {"width": 2},
        },
    )


def _components(validation: Validation) -> "go.Figure":
    rows: Points = {
        engine: [
            (name.replace("_", " "), _errors(validation.of(engine), name))
            for name in COMPONENTS
        ]
        for engine in validation.engines
    }
    return _spread(rows, "error, part of the allocated peak")


def _settings(validation: Validation) -> "go.Figure":
    rows: Points = {
        engine: [
            (_as_label(name), _errors(cases, "allocated"))
            for name, cases in validation.by_trick(engine).items()
        ]
        for engine in validation.engines
    }
    return _spread(rows, "error of the allocated peak")


def _spread(rows: Points, title: str) -> "go.Figure":
    """Every error as a point beside a box of its kind."""
    import plotly.graph_objects as go

    figure = go.Figure()
    names = list(dict.fromkeys(name for found in rows.values() for name, _ in found))
    for engine, found in rows.items():
        points = [(name, error) for name, errors in found for error in errors]
        figure.add_box(
            x=[error for _, error in points],
            y=[name for name, _ in points],
            name=engine,
            orientation="h",
            boxpoints="all",
            jitter=0.4,
            pointpos=0,
            marker={"color": COLOURS[engine], "size": 5},
            line={"width": 1},
        )
    _lay_out(figure, len(names) * len(rows) + 1, title)
    figure.update_layout(boxmode="group")
    figure.update_xaxes(tickformat="+.1%", zeroline=True, zerolinecolor="#222222")
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1])
    return figure


def _lay_out(figure: "go.Figure", num_rows: int, x_title: str) -> None:
    figure.update_layout(
        template="plotly_white",
        width=WIDTH,
        height=FRAME_HEIGHT + ROW_HEIGHT * num_rows,
        margin={"l": 10, "r": 10, "t": 40, "b": 50},
        font={"family": "sans-serif", "size": 12},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        xaxis={"title": {"text": x_title}},
        yaxis={"automargin": True},
    )


def _label(case: Case) -> str:
    return _as_label(f"{case.entry}, {case.plan.gpu}")


def _as_label(text: str) -> str:
    """plotly reads labels as HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _gib(case: Case, side: str) -> float:
    assert case.difference is not None
    allocated = case.difference.allocated
    size_bytes = allocated.a_bytes if side == "a" else allocated.b_bytes
    return (size_bytes or 0) / GiB


def _errors(cases: Sequence[Case], term: str) -> list[float]:
    found = [case.error_fraction(term) for case in cases]
    return [error for error in found if error is not None]


def _peaks_text(validation: Validation) -> str:
    said = []
    for engine in validation.engines:
        errors = validation.errors(engine, "allocated")
        if errors is not None:
            said.append(
                f"{engine}: {errors.num_cases} plans, median error "
                f"{errors.median_fraction:.2%}, worst {signed(errors.worst_fraction)}"
            )
    return (
        f"Dumbbell plot of the allocated peak of each plan, {validation.reference} and "
        f"predicted. {'; '.join(said)}."
    )


def _rows_text(
    validation: Validation,
    what: str,
    rows: Callable[[Validation, Engine], list[Row]],
) -> str:
    said = []
    for engine in validation.engines:
        found = rows(validation, engine)
        if found:
            name, errors = max(found, key=lambda row: abs(row[1].worst_fraction))
            said.append(
                f"{engine}: the largest is {signed(errors.worst_fraction)}, of {name}"
            )
    return f"Box plot of errors by {what}, a point a plan. {'; '.join(said)}."
