"""The picture of a step: columns in time, as high as their highest point."""

import io

import pytest
from rich.console import Console

from memplan.units import GiB
from memplan.views.curve import HEIGHT, LABEL_WIDTH, curve_of


def curve(points, times=None, phases=()):
    return {
        "requested_bytes": [point * GiB for point in points],
        "times_us": times,
        "phases": [
            {"step": 3, "phase": name, "begins": begins, "ends": ends}
            for name, begins, ends in phases
        ],
    }


def drawn(picture, width=80, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(curve_of(picture, width))
    return console.file.getvalue().splitlines()


def heights(lines):
    """How high each column is, in lines that are full."""
    columns = zip(
        *(line.ljust(80)[LABEL_WIDTH:] for line in lines[:HEIGHT]), strict=True
    )
    return [column.count("█") for column in columns]


def test_columns_are_as_high_as_their_points():
    assert heights(drawn(curve([3, 6, 12, 0])))[:5] == [3, 6, 12, 0, 0]


def test_the_scale_has_the_highest_and_the_half():
    lines = drawn(curve([3, 6, 12]))
    assert lines[0].split()[:2] == ["12.00", "GiB"]
    assert lines[HEIGHT // 2].split()[:2] == ["6.00", "GiB"]


def test_a_column_of_many_points_is_as_high_as_the_highest():
    points = [1] * 1000
    points[500] = 12
    columns = heights(drawn(curve(points)))
    assert columns.count(12) == 1
    assert columns.index(12) == 500 * (80 - LABEL_WIDTH - 1) // 1000


def test_where_there_is_a_clock_columns_are_time():
    times = [0, 1, 2, 1000]
    columns = heights(drawn(curve([12, 6, 3, 12], times)))
    assert columns[:4] == [12, 3, 3, 12]
    assert drawn(curve([12, 6, 3, 12], times))[-1].strip() == "1.0 ms"


def test_phases_stand_under_their_columns():
    phases = [("forward", 0, 30), ("loss", 30, 32), ("backward", 32, 60)]
    lines = drawn(curve([1] * 60, phases=phases))
    assert lines[HEIGHT].index("forward") == LABEL_WIDTH
    assert lines[HEIGHT].index("backward") == LABEL_WIDTH + 32
    assert "lo" not in lines[HEIGHT]


def test_phases_have_colours_where_there_are_any():
    phases = [("forward", 0, 2), ("backward", 2, 4)]
    line = drawn(
        curve([5, 5, 5, 5], phases=phases),
        force_terminal=True,
        color_system="standard",
    )[0]
    assert "\x1b[36m██\x1b[0m\x1b[34m██\x1b[0m" in line


@pytest.mark.parametrize("width", [1, 12, 20, 80, 10_000])
@pytest.mark.parametrize("points", [[1], [0, 0], [-5, 5], range(4000)], ids=str)
def test_any_width_and_any_points(points, width):
    lines = drawn(curve(points), width=max(width, 20))
    assert len(lines) >= HEIGHT + 2
    assert curve_of(curve(points), width)


@pytest.mark.parametrize("times", [[3, 2, 1], [5, 5, 5], [1], [-1, 0, 10**18]])
def test_clocks_that_stand_or_go_back(times):
    assert len(drawn(curve([1, 2, 3], times))) == HEIGHT + 2
