"""What a page is made of, in whichever format it is written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from memplan.units import format_gib

if TYPE_CHECKING:
    import plotly.graph_objects as go

Cell: TypeAlias = str | int | None
"""Text; a number of bytes; or nothing known."""
UNKNOWN = "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of cells under a caption."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    texts: tuple[int, ...] = (0,)
    """The columns that are read, not compared: they stand on the left."""

    def is_text(self, column: int) -> bool:
        return column in self.texts


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A picture, what it shows in words, and its figures as a table."""

    name: str
    """Of its element and of its file."""
    title: str
    alternative: str
    """What it shows, for those who do not see it."""
    draw: Callable[[], "go.Figure"]
    table: Table
    note: str = ""
    """What has to be known to read it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Labelled lines, and the command that makes what they are about."""

    title: str
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    command: str = ""


Block: TypeAlias = Plot | Table | Facts


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading, and what stands under it."""

    name: str
    title: str
    blocks: tuple[Block, ...]
    lead: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether it fits, and by how much."""

    fits: bool
    word: str
    """`fits`, `fits, narrowly` or `does not fit`."""
    run: str
    """Model and card."""
    margin: str
    """`7.97 GiB to spare`."""
    need: str
    """The card below its headroom, against what the run takes of it."""
    source: str
    """Estimated, rehearsed or measured; of several alike, with the file."""
    advice: str = ""
    command: str = ""
    """What to run, where there is something to change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """All of it."""

    title: str
    verdicts: tuple[Verdict, ...]
    sections: tuple[Section, ...]

    @property
    def plots(self) -> tuple[Plot, ...]:
        return tuple(
            block
            for section in self.sections
            for block in section.blocks
            if isinstance(block, Plot)
        )


def shown(cell: Cell) -> str:
    """A cell as it is printed.

    >>> shown(2**30), shown(None), shown("forward")
    ('1.00 GiB', '-', 'forward')
    """
    if cell is None:
        return UNKNOWN
    return format_gib(cell) if isinstance(cell, int) else cell
