"""After a rehearsal that ran out of memory: what it needs, and what would have fitted.

The run is repeated on a card without limit, for the need. Single changes are rehearsed
too, each for itself: none is named that was not seen to fit. Only other cards are not
run again; they are held against the bytes of this one.
"""

import os
from collections.abc import Iterator
from dataclasses import replace

from memplan.errors import MemplanError, ProgramError
from memplan.rehearsal import Capture, lowest_capability, out_of_memory_of, report_of
from memplan.remedies import cards_that_hold, likely_changes
from memplan.report import MemoryReport, OutOfMemory, Remedy
from memplan.runner.training.refusals import check
from memplan.virtual_run import (
    ALLOCATOR_SETTINGS,
    Say,
    VirtualRun,
    perform,
    training_program,
)

UNLIMITED_BYTES = 2**42
"""A card of 4 TiB: no run needs more on one GPU."""
EXPANDABLE = "expandable_segments:True"


def with_need(
    run: VirtualRun, at_error: MemoryReport, error: OutOfMemory, say: Say
) -> MemoryReport:
    """The report of a run that ran out of memory, with what it would have taken."""
    say("Out of memory. Rehearsing once more on a card without limit, for the need.")
    run = replace(run, snapshot=None, is_quiet=True)
    capture = _capture_of(replace(run, total_bytes=UNLIMITED_BYTES), say)
    if capture is None:
        error = replace(error, remedies=tuple(_growing_segments(run, say)))
        return replace(at_error, fits=False, out_of_memory=error)
    needed = report_of(capture, run.subject)
    remedies = (
        *_growing_segments(run, say, needed),
        *_changes_of_the_plan(run, say, needed),
        *_more_room(run, needed, error, lowest_capability(capture)),
    )
    return replace(
        needed,
        fits=False,
        assumptions=(
            *needed.assumptions,
            "peak, components, phases and holders are those of a second rehearsal, on "
            "a card without limit",
        ),
        out_of_memory=replace(
            error, needed_bytes=needed.peak.device_bytes, remedies=remedies
        ),
    )


def _more_room(
    run: VirtualRun,
    needed: MemoryReport,
    error: OutOfMemory,
    lowest_capability: tuple[int, int],
) -> tuple[Remedy, ...]:
    """All of the card where the program used a share of it, or else other cards."""
    device_bytes = needed.peak.device_bytes
    gpu, headroom = run.subject.gpu, run.subject.headroom_fraction
    if not error.is_limited_by_itself:
        return cards_that_hold(device_bytes, gpu, headroom, lowest_capability)
    if not needed.fits:
        return ()
    change = "no set_per_process_memory_fraction in the program"
    return (Remedy(change=change, basis="carried over", device_bytes=device_bytes),)


def _growing_segments(
    run: VirtualRun, say: Say, needed: MemoryReport | None = None
) -> Iterator[Remedy]:
    """Segments that grow in place, where what is needed at once would find room."""
    name = next(filter(os.environ.get, ALLOCATOR_SETTINGS), ALLOCATOR_SETTINGS[0])
    settings = os.environ.get(name, "")
    if "expandable_segments" in settings:
        return
    if needed is not None:
        at_once = needed.peak.allocated_bytes + run.context_bytes
        if at_once >= run.subject.gpu.total_bytes:
            return
    settings = ",".join(filter(None, [settings, EXPANDABLE]))
    changed = replace(run, environment={name: settings})
    yield from _if_it_fits(f"{name}={settings}", changed, say)


def _changes_of_the_plan(
    run: VirtualRun, say: Say, needed: MemoryReport
) -> Iterator[Remedy]:
    """Of each kind of change the least that fits."""
    plan = run.subject.plan
    if plan is None:
        return
    found = set()
    for change in likely_changes(plan, needed.peak.device_bytes):
        if change.kind in found:
            continue
        try:
            check(change.plan)
        except MemplanError:  # it can be computed, but not run here
            continue
        changed = replace(
            run,
            subject=replace(run.subject, plan=change.plan),
            words=training_program(change.plan, run.steps),
        )
        for remedy in _if_it_fits(change.flags, changed, say):
            found.add(change.kind)
            yield replace(remedy, changes_answers=change.changes_answers)


def _if_it_fits(change: str, run: VirtualRun, say: Say) -> Iterator[Remedy]:
    """The change as a remedy, if a rehearsal with it fits."""
    say(f"Rehearsing with {change}.")
    capture = _capture_of(run, say)
    if capture is None:
        return
    report = report_of(capture, run.subject)
    if report.fits:
        yield Remedy(
            change=change, basis="rehearsed", device_bytes=report.peak.device_bytes
        )


def _capture_of(run: VirtualRun, say: Say) -> Capture | None:
    """The capture of one more run; None if that comes to nothing either."""
    try:
        capture, _ = perform(run, say)
    except ProgramError:
        return None
    return None if out_of_memory_of(capture) else capture
