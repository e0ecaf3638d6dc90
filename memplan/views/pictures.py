"""Plots of a validation, as figures of plotly and as pictures that stand still.

A picture is SVG, made by kaleido in a browser of the Chrome family. Both are extras
(`memplan[images]`): without them a page has its tables alone, and says so.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
MOST_ROWS = 30
MOST_POINTS = 100
"""Of a row, each drawn beside its box; of more the outliers alone."""
LEAST_ERROR = 1e-4
"""A hundredth of a percent: where the axis of errors begins."""
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
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
MARKERS = ("circle", "diamond", "square", "cross", "x", "triangle-up", "star")
PLOT_ROWS = 14
"""The height of a plot without rows of its own."""
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


def pictures_of(validation: Validation, prefix: str = "") -> Iterator[Picture]:
    """All errors at once, the worst peaks side by side, and errors by what they are of.

    Args:
        prefix: of the names, where one page shows two validations.
    """
    for picture in _pictures_of(validation):
        yield replace(picture, name=f"{prefix}{picture.name}")


def _pictures_of(validation: Validation) -> Iterator[Picture]:
    if not any(case.difference for case in validation.cases):
        return
    yield Picture(
        name="errors",
        title="Error of the allocated peak, by its size",
        alternative=_errors_text(validation),
        draw=lambda: _by_size(validation),
    )
    yield Picture(
        name="within",
        title="How many plans are within which error",
        alternative=_within_text(validation),
        draw=lambda: _within(validation),
    )
    yield Picture(
        name="peaks",
        title=f"Allocated peak, predicted and {validation.reference}, worst first",
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


def shown_tricks(validation: Validation, engine: Engine) -> dict[str, Sequence[Case]]:
    """Those that fit a picture: what most plans set."""
    found = validation.by_trick(engine)
    most = sorted(found, key=lambda name: len(found[name]), reverse=True)[:MOST_ROWS]
    return {name: cases for name, cases in found.items() if name in most}


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


def _by_size(validation: Validation) -> "go.Figure":
    """A point a plan, told apart by class."""
    import plotly.graph_objects as go

    figure = go.Figure()
    kinds = {case.kind for case in validation.cases if case.kind is not None}
    for number, kind in enumerate(sorted(kinds)):
        cases = [case for case in validation.cases if case.kind == kind]
        figure.add_scatter(
            x=[_gib(case, "a") for case in cases],
            y=_errors(cases, "allocated"),
            mode="markers",
            name=kind,
            marker={
                "color": PALETTE[number % len(PALETTE)],
                "symbol": MARKERS[number % len(MARKERS)],
                "size": 6,
                "opacity": 0.75,
            },
        )
    _lay_out(figure, PLOT_ROWS, f"GiB allocated at the peak, {validation.reference}")
    figure.update_layout(legend={"y": -0.2, "yanchor": "top"})
    figure.update_xaxes(type="log", tickformat="~g")
    figure.update_yaxes(
        title={"text": "error"},
        tickformat="+.1%",
        zeroline=True,
        zerolinecolor="#222222",
    )
    return figure


def _within(validation: Validation) -> "go.Figure":
    """The part of the plans whose error is no larger, over all sizes of errors."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for engine in validation.engines:
        errors = sorted(map(abs, _errors(validation.of(engine), "allocated")))
        figure.add_scatter(
            x=[max(error, LEAST_ERROR) for error in errors],
            y=[number / len(errors) for number in range(1, len(errors) + 1)],
            mode="lines",
            name=engine,
            line={"color": COLOURS[engine], "shape": "hv"},
        )
    _lay_out(figure, PLOT_ROWS, "size of the error of the allocated peak")
    figure.update_layout(showlegend=True)
    figure.update_xaxes(type="log", tickformat="~%", dtick=1)
    figure.update_yaxes(title={"text": "part of the plans"}, tickformat=".0%")
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
            for name, cases in shown_tricks(validation, engine).items()
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
            boxpoints="all" if len(points) <= MOST_POINTS else "outliers",
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


def _errors_text(validation: Validation) -> str:
    sizes = [_gib(case, "a") for case in validation.cases if case.difference]
    return (
        f"Scatter plot of the error of {len(sizes)} predictions over the allocated "
        f"peak, from {min(sizes):.1f} to {max(sizes):.1f} GiB. "
        f"{'; '.join(_peak_texts(validation))}."
    )


def _within_text(validation: Validation) -> str:
    said = []
    for engine in validation.engines:
        errors = validation.errors(engine, "allocated")
        if errors is not None:
            said.append(
                f"{engine}: half of the plans within {errors.median_fraction:.2%}, 95% "
                f"within {errors.ninety_fifth_fraction:.2%}"
            )
    return f"Cumulative distribution of the sizes of errors. {'; '.join(said)}."


def _peaks_text(validation: Validation) -> str:
    return (
        f"Dumbbell plot of the allocated peak of each plan, {validation.reference} and "
        f"predicted. {'; '.join(_peak_texts(validation))}."
    )


def _peak_texts(validation: Validation) -> Iterator[str]:
    for engine in validation.engines:
        errors = validation.errors(engine, "allocated")
        if errors is not None:
            yield (
                f"{engine}: {errors.num_cases} plans, median error "
                f"{errors.median_fraction:.2%}, worst {signed(errors.worst_fraction)}"
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
    return f"Box plot of errors by {what}. {'; '.join(said)}."
