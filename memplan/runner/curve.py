"""Requested bytes over a step, event by event, few enough points to be drawn."""

from collections.abc import Sequence
from typing import Any

from memplan.runner.history import NEVER, History
from memplan.runner.phases import Stretch

MOST_POINTS = 4000


def curve_of(
    history: History, step: int | None, stretches: Sequence[Stretch], *, has_times: bool
) -> dict[str, Any] | None:
    """From the beginning of the first of these stretches to the end of the last."""
    points = history.between(stretches[0].begins, stretches[-1].ends or NEVER)
    if not points:
        return None
    kept = _highs_and_lows([point.num_bytes for point in points], MOST_POINTS)
    start_us = points[0].time_us
    times = [points[index].time_us - start_us for index in kept]
    return {
        "requested_bytes": [points[index].num_bytes for index in kept],
        "times_us": times if has_times else None,
        "phases": _phases([points[index].serial for index in kept], step, stretches),
    }


def _phases(
    serials: Sequence[int], step: int | None, stretches: Sequence[Stretch]
) -> list[dict[str, Any]]:
    """Each stretch by the number of its first point, and of the first one after it."""
    begins = [_first(serials, stretch.begins) for stretch in stretches]
    ends = [*begins[1:], len(serials)]
    return [
        {"step": step, "phase": stretch.name, "begins": first, "ends": last}
        for stretch, first, last in zip(stretches, begins, ends, strict=True)
    ]


def _first(serials: Sequence[int], serial: int) -> int:
    """Threads write down their events in turn: numbers may go back for a moment."""
    return next(
        (index for index, one in enumerate(serials) if one >= serial), len(serials)
    )


def _highs_and_lows(values: Sequence[int], most: int) -> list[int]:
    """The numbers of the points to keep: of each part the highest and the lowest."""
    if len(values) <= most:
        return list(range(len(values)))
    num_parts = most // 2
    kept: set[int] = set()
    for part in range(num_parts):
        first = len(values) * part // num_parts
        last = len(values) * (part + 1) // num_parts
        kept.add(max(range(first, last), key=values.__getitem__))
        kept.add(min(range(first, last), key=values.__getitem__))
    return sorted(kept)
