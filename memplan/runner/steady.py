"""The peak of the steady step: where it was reached, and what it was held by."""

from dataclasses import asdict
from typing import Any

from memplan.runner.attribution import (
    Attribution,
    all_blocks,
    components_of,
    largest_holders,
)
from memplan.runner.counters import NOTHING
from memplan.runner.curve import curve_of
from memplan.runner.device import is_virtual
from memplan.runner.history import NEVER, History
from memplan.runner.phases import Stretch, Timeline
from memplan.runner.settings import STEADY_STEPS
from memplan.runner.tags import Tags
from memplan.units import format_gib

NOTHING_SEEN: dict[str, Any] = {
    "peak": None,
    "components": None,
    "holders": [],
    "blocks": [],
    "curve": None,
    "assumptions": [],
}
"""Of a process that made no step and marked nothing."""


def peak_of(
    timeline: Timeline,
    tags: Tags,
    snapshot: dict[str, Any],
    device: int,
    about: str | None = None,
) -> dict[str, Any]:
    """Where the peak of the steady step was reached, and what it was held by.

    Args:
        about: the name of a mark; its peak is asked for, not the steady step's.
    """
    if about is None:
        step, stretches = _steady(timeline, device)
    else:
        named = [stretch for stretch in timeline.marked if stretch.name == about]
        step, stretches = None, named[-1:]
    if not stretches:
        return dict(NOTHING_SEEN)
    highest = max(stretches, key=lambda stretch: _requested(stretch, device))
    history = History(snapshot, device)
    ends = highest.ends or NEVER
    moment = history.highest(since=highest.begins, until=ends)
    attribution = Attribution(history, tags)
    held = attribution.held(moment)
    place, line = attribution.place_of(moment)
    figures = figures_of(highest, device)
    peak = {
        "step": step if about is None else place.step,
        "phase": highest.name if about is None else place.phase,
        "module": place.module,
        "line": line,
        "requested_bytes": figures["peak_requested_bytes"],
        "allocated_bytes": figures["peak_allocated_bytes"],
        "active_bytes": figures["peak_active_bytes"],
        "reserved_bytes": max(
            figures_of(stretch, device)["peak_reserved_bytes"] for stretch in stretches
        ),
    }
    return {
        "peak": peak,
        "components": components_of(held),
        "holders": largest_holders(held),
        "blocks": all_blocks(held),
        "curve": curve_of(history, step, stretches, has_times=not is_virtual()),
        "assumptions": _incomplete(moment.num_bytes, figures["peak_requested_bytes"])
        + _unsteady(timeline, device),
    }


def figures_of(stretch: Stretch, device: int) -> dict[str, int]:
    return asdict(stretch.readings.get(device, NOTHING))


def _steady(timeline: Timeline, device: int) -> tuple[int | None, list[Stretch]]:
    """The steady step, which is the last one; or else the highest that was marked."""
    if timeline.steps:
        return timeline.steps[-1].number, timeline.steps[-1].phases
    marked = sorted(timeline.marked, key=lambda stretch: _requested(stretch, device))
    return None, marked[-1:]


def _requested(stretch: Stretch, device: int) -> int:
    return figures_of(stretch, device)["peak_requested_bytes"]


def _incomplete(seen_bytes: int, requested_bytes: int) -> list[str]:
    if seen_bytes == requested_bytes:
        return []
    return [
        f"what is held at the peak adds up to {format_gib(seen_bytes)}, of "
        f"{format_gib(requested_bytes)} requested: the allocator's history does not "
        "reach back to it"
    ]


def _unsteady(timeline: Timeline, device: int) -> list[str]:
    """Batches of unequal size make unequal steps; the first has no states yet."""
    if len(timeline.steps) < STEADY_STEPS:
        return []
    before, last = (
        max(_requested(phase, device) for phase in step.phases)
        for step in timeline.steps[-2:]
    )
    if before == last:
        return []
    number = timeline.steps[-1].number
    where = "above" if last > before else "below"
    return [
        f"steps differ: step {number} peaks {format_gib(abs(last - before))} {where} "
        f"step {number - 1}"
    ]
