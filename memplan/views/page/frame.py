"""What the plots of a page have in common: colours, rows, words that stay words.

Colours are those of Okabe and Ito, which the colour-blind tell apart too. INK, MUTED,
LINE and PAPER stand for the colours of the theme that the page is read in: page.js puts
those in their place.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memplan.units import GiB

if TYPE_CHECKING:
    import plotly.graph_objects as go

INK = "#1a1a1b"
MUTED = "#5a5a5b"
LINE = "#d6d6d3"
PAPER = "#fffffe"
BLUE = "#0072b2"
ORANGE = "#e69f00"
GREEN = "#009e73"
VERMILION = "#d55e00"
PINK = "#cc79a7"
SKY = "#56b4e9"
GREY = "#757575"

ROW_HEIGHT = 52
FRAME_HEIGHT = 70
BAR = 0.46
"""Of a row: its name stands above."""
LONGEST_NAME = 44
"""Letters that a row of a phone has room for."""


def plain(text: str) -> str:
    """A text that plotly, which reads its labels as HTML, prints as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def short(text: str, most: int = LONGEST_NAME) -> str:
    """The text, its end left out where it is too long; plain."""
    return plain(text if len(text) <= most else f"{text[: most - 1]}…")


def gib(size_bytes: int) -> float:
    return size_bytes / GiB


def lay_out(figure: "go.Figure", *, height: int, x_title: str) -> None:
    """Axes without ornament; the legend above, where there is one."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        hoverlabel={"align": "left"},
        dragmode=False,
        uirevision="kept",
    )
    figure.update_xaxes(
        title={"text": x_title, "font": {"size": 12}},
        gridcolor=LINE,
        zeroline=False,
        automargin=True,
    )
    figure.update_yaxes(gridcolor=LINE, zeroline=False, automargin=True)


def lay_out_rows(
    figure: "go.Figure",
    names: Sequence[str],
    x_title: str,
    row_height: int = ROW_HEIGHT,
) -> None:
    """One row a name, the first on top, each name above its row: a phone is narrow."""
    lay_out(figure, height=FRAME_HEIGHT + row_height * len(names), x_title=x_title)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(
        range=[len(names) - 0.55, -0.75], showticklabels=False, showgrid=False
    )
    for row, name in enumerate(names):
        figure.add_annotation(
            text=short(name),
            x=0,
            xref="paper",
            xanchor="left",
            y=row - BAR / 2,
            yanchor="bottom",
            showarrow=False,
        )


def mark(figure: "go.Figure", x: float, text: str, *, dash: str = "solid") -> None:
    """A line from top to bottom at a limit, named at its foot."""
    figure.add_shape(
        type="line",
        x0=x,
        x1=x,
        y0=0,
        y1=1,
        yref="paper",
        line={"color": INK, "width": 2, "dash": dash},
    )
    figure.add_annotation(
        text=plain(text),
        x=x,
        y=1,
        yref="paper",
        yanchor="top",
        xanchor="right",
        xshift=-4,
        showarrow=False,
        font={"size": 12, "color": INK},
    )
