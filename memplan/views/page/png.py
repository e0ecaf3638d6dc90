"""The plots of a page as PNG files, where kaleido is there to draw them."""

from collections.abc import Iterator

from memplan.errors import MemplanError
from memplan.views.page.parts import Page, Plot
from memplan.views.pictures import INSTALL, problem

WIDTH = 760
SCALE = 2
"""Pixels of the picture for each of the page."""


def pictures(page: Page) -> Iterator[tuple[str, bytes]]:
    """The name of each file, and what is in it.

    Raises:
        MemplanError: kaleido is not installed, or finds no browser.
    """
    lacking = problem()
    if lacking is not None:
        name = lacking.partition(" ")[0]
        raise MemplanError(
            f"Pictures need {name}, which is not installed.", hint=INSTALL
        )
    for plot in page.plots:
        yield f"{plot.name}.png", _picture(plot)


def _picture(plot: Plot) -> bytes:
    figure = plot.draw()
    figure.update_layout(paper_bgcolor="#ffffff", plot_bgcolor="#ffffff")
    try:
        picture: bytes = figure.to_image(format="png", width=WIDTH, scale=SCALE)
    except (RuntimeError, OSError, TimeoutError) as error:
        first = str(error).strip().partition("\n")[0].rstrip(".")
        raise MemplanError(
            f"kaleido made no picture ({first or type(error).__name__}).",
            hint="It draws with Chrome or Chromium, which plotly_get_chrome installs.",
        ) from error
    return picture
