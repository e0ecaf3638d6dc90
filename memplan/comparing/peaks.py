"""Where the peak went, and what a trick saves where the peak is not."""

from memplan.report import MemoryReport
from memplan.units import format_gib

LITTLE = 0.01
"""Of the peak: less is nothing to speak of."""
COUNTED = ("forward", "loss", "backward", "optimizer")


def note_on(before: MemoryReport, after: MemoryReport) -> str:
    """In a few words; empty where the peak stays and nothing is saved elsewhere.

    A trick that does not touch the phase of the peak saves nothing, or only as much as
    brings another phase to the top.
    """
    if not (_has_peak(before) and _has_peak(after)):
        return ""
    there, here = before.peak.phase, after.peak.phase
    if there != here:
        return f"peak moves from {there} to {here}"
    peak = before.peak.allocated_bytes
    if peak - after.peak.allocated_bytes > LITTLE * peak:
        return ""
    phase, saved = _most_elsewhere(before, after)
    if saved <= LITTLE * peak:
        return ""
    return f"peak stays in {here}; {phase} peaks {format_gib(saved)} lower"


def _has_peak(report: MemoryReport) -> bool:
    """A rehearsal that ran out of memory is made again on a card without limit."""
    error = report.out_of_memory
    is_played = report.source == "rehearsed"
    return error is None or (is_played and error.needed_bytes is not None)


def _most_elsewhere(before: MemoryReport, after: MemoryReport) -> tuple[str, int]:
    """The phase beside the peak's that is lower by most."""
    then, now = _phases(before), _phases(after)
    saved = {
        name: then[name] - now[name]
        for name in COUNTED
        if name in then and name in now and name != before.peak.phase
    }
    return max(saved.items(), key=lambda item: item[1], default=("", 0))


def _phases(report: MemoryReport) -> dict[str, int]:
    """The highest point of each phase of the peak's step."""
    highest: dict[str, int] = {}
    for phase in report.phases:
        if phase.step == report.peak.step:
            seen = highest.get(phase.phase, 0)
            highest[phase.phase] = max(seen, phase.peak_allocated_bytes)
    return highest
