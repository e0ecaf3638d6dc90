"""The few forms that every view is made of."""

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from memplan.units import GiB
from memplan.views.stdout import writing

LETTERS = str.maketrans("▁▂▃▄▅▆▇█▏▎▍▌▋▊▉├└│─", "..--==##...####|`|-")
"""What stands for bars and lines on a terminal that has letters only."""


def figures_table(*headings: str) -> Table:
    """Names on the left, figures on the right, and nothing between them."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    return table


def labelled(*rows: tuple[str, Iterable[str]]) -> Table:
    """Labels on the left, each beside its lines."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")  # a path that is cut helps nobody
    for label, lines in rows:
        for index, line in enumerate(lines):
            table.add_row("" if index else label, Text(line))
    return table


def gib(size_bytes: int) -> str:
    """GiB of a column whose heading has the unit; what rounds to nothing is bare."""
    text = f"{size_bytes / GiB:.2f}"
    return "0.00" if text == "-0.00" else text


def print_lines(console: Console | None, renderable: RenderableType) -> None:
    """Print without the blanks that fill rich's columns up."""
    console = console or Console(highlight=False)
    with writing(console.file):
        with console.capture() as captured:
            console.print(renderable)
        lines = (line.rstrip() for line in captured.get().splitlines())
        console.file.write(_writable("\n".join(lines) + "\n", console.encoding))


def _writable(text: str, encoding: str) -> str:
    """As it is where bars can be written; letters for them where they cannot."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(LETTERS).encode(encoding, "replace").decode(encoding)
    return text
