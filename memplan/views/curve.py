"""The memory of one step as a picture of characters: time to the right, bytes up."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from memplan.units import format_gib

HEIGHT = 12
MOST_COLUMNS = 96
EIGHTHS = " ▁▂▃▄▅▆▇█"
COLOURS = {
    "forward": "cyan",
    "loss": "magenta",
    "backward": "blue",
    "optimizer": "green",
}
LABEL_WIDTH = 11
"""`123.45 GiB ` beside the picture."""
SHORTEST = 3
"""Letters of a phase that say which."""
US_PER_MS = 1000


def curve_of(curve: Mapping[str, Any], width: int) -> RenderableType:
    """Columns of bytes, each the highest of its stretch, coloured by phase."""
    num_columns = max(min(width - LABEL_WIDTH - 1, MOST_COLUMNS), 1)
    points: Sequence[int] = curve["requested_bytes"]
    columns = _columns(curve, num_columns)
    phases = [_phase_at(curve["phases"], column[0]) for column in columns]
    heights = [
        max((points[index] for index in column), default=0) for column in columns
    ]
    top = max(*heights, 1)
    lines = []
    for level in range(HEIGHT - 1, -1, -1):
        line = Text(_label(level, top).rjust(LABEL_WIDTH - 1) + " ")
        cells = [_cell(height / top, level) for height in heights]
        for phase, run in groupby(range(len(cells)), phases.__getitem__):
            line.append("".join(cells[index] for index in run), COLOURS.get(phase, ""))
        lines.append(line)
    return Group(*lines, _under(phases), Text(_below(curve)))


def _cell(share: float, level: int) -> str:
    """What of a column, filled to a share of the height, is on a line."""
    eighths = round(share * HEIGHT * 8) - level * 8
    return EIGHTHS[min(max(eighths, 0), 8)]


def _columns(curve: Mapping[str, Any], most: int) -> list[range]:
    """The points of each column; in time, where there is one, else in events.

    A column in which nothing happened has the last point before it.
    """
    points, times = curve["requested_bytes"], curve["times_us"]
    if not times or len(times) != len(points) or times[-1] <= times[0]:
        times = range(len(points))
    num_columns = min(most, len(points))
    first, last = times[0], times[-1]
    columns, index = [], 0
    for column in range(num_columns):
        until = first + (last - first) * (column + 1) / num_columns
        begin = index
        while index < len(points) and (
            times[index] < until or column == num_columns - 1
        ):
            index += 1
        columns.append(range(max(min(begin, index - 1), 0), max(index, 1)))
    return columns


def _phase_at(phases: Sequence[Mapping[str, Any]], index: int) -> str:
    for phase in phases:
        if phase["begins"] <= index < phase["ends"]:
            return str(phase["phase"])
    return ""


def _label(level: int, top: int) -> str:
    """Of the highest line, the middle one and the lowest."""
    if level == HEIGHT - 1:
        return format_gib(top)
    return format_gib(top // 2) if level == HEIGHT // 2 - 1 else ""


def _under(phases: Sequence[str]) -> Text:
    """The names of phases under their columns, as far as there is room."""
    line = Text(" " * LABEL_WIDTH)
    for name, run in groupby(phases):
        width = len(list(run))
        shown = name if len(name) < width else name[: width - 1]
        if len(shown) < SHORTEST:
            shown = ""
        line.append(shown.ljust(width), COLOURS.get(name, ""))
    return line


def _below(curve: Mapping[str, Any]) -> str:
    """How long it took; without a clock, how much happened."""
    points, times = curve["requested_bytes"], curve["times_us"]
    if times:
        span = f"{(times[-1] - times[0]) / US_PER_MS:.1f} ms"
    else:
        span = f"{len(points)} allocations and frees; a virtual card has no clock"
    return " " * LABEL_WIDTH + span
