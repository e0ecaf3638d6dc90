"""After a rehearsal that ran out of memory: what it needs, and what would have fitted.

The run is repeated on a card without limit, for the need. Single changes are rehearsed
too, each for itself: none is named that was not seen to fit. Only other cards are not
run again; they are held against the bytes of this one.
"""

import os
from collections.abc import Iterator
from dataclasses import replace

from memplan.errors import MemplanError, ProgramError
from memplan.report import MemoryReport, OutOfMemory, Remedy
from memplan.runner.training.refusals import check
from memplan.running.rehearsal import lowest_capability, out_of_memory_of, report_of
from memplan.running.remedies import cards_that_hold, likely_changes
from memplan.running.run import (
    ALLOCATOR_SETTINGS,
    Performed,
    Profiled,
    Run,
    Say,
    perform,
    profiled_of,
    training_program,
)

UNLIMITED_BYTES = 2**42
"""A card of 4 TiB: no run needs more on one GPU."""
EXPANDABLE = "expandable_segments:True"


def with_need(
    run: Run,
    at_error: Profiled,
    error: OutOfMemory,
    say: Say,
    *,
    tries_changes: bool = True,
) -> Profiled:
    """What a run showed that ran out of memory, with what it would have taken.

    With `tries_changes` what would have fitted is found out too.
    """
    error = replace(error, were_changes_tried=tries_changes)
    say("Out of memory. Rehearsing once more on a card without limit, for the need.")
    run = replace(run, snapshot=None, is_quiet=True)
    assert run.cards is not None
    unlimited = replace(run.cards, total_bytes=UNLIMITED_BYTES)
    performed = _performed(replace(run, cards=unlimited), say)
    if performed is None:
        if tries_changes:
            error = replace(error, remedies=tuple(_growing_segments(run, say)))
        report = replace(at_error.report, fits=False, out_of_memory=error)
        return replace(at_error, report=report)
    seen = profiled_of(replace(performed, assumptions=()), run.subject)
    needed = seen.report
    remedies: tuple[Remedy, ...] = ()
    if tries_changes:
        remedies = (
            *_growing_segments(run, say, needed),
            *_changes_of_the_plan(run, say, needed),
            *_more_room(run, needed, error, lowest_capability(performed.chosen)),
        )
    report = replace(
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
    return replace(seen, report=report)


def _more_room(
    run: Run,
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
    run: Run, say: Say, needed: MemoryReport | None = None
) -> Iterator[Remedy]:
    """Segments that grow in place, where what is needed at once would find room."""
    environ = {**os.environ, **run.environment}
    name = next(filter(environ.get, ALLOCATOR_SETTINGS), ALLOCATOR_SETTINGS[0])
    settings = environ.get(name, "")
    if "expandable_segments" in settings:
        return
    if needed is not None and run.cards is not None:
        at_once = needed.peak.allocated_bytes + run.cards.context_bytes
        if at_once >= run.subject.gpu.total_bytes:
            return
    settings = ",".join(filter(None, [settings, EXPANDABLE]))
    changed = replace(run, environment={**run.environment, name: settings})
    yield from _if_it_fits(f"{name}={settings}", changed, say)


def _changes_of_the_plan(run: Run, say: Say, needed: MemoryReport) -> Iterator[Remedy]:
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


def _if_it_fits(change: str, run: Run, say: Say) -> Iterator[Remedy]:
    """The change as a remedy, if a rehearsal with it fits."""
    say(f"Rehearsing with {change}.")
    performed = _performed(run, say)
    if performed is None:
        return
    report = report_of(performed.chosen, run.subject)
    if report.fits:
        yield Remedy(
            change=change, basis="rehearsed", device_bytes=report.peak.device_bytes
        )


def _performed(run: Run, say: Say) -> Performed | None:
    """One more run; None if it comes to nothing either."""
    try:
        performed = perform(run, say)
    except ProgramError:
        return None
    if performed.is_interrupted:
        raise KeyboardInterrupt
    if performed.failure or out_of_memory_of(performed.chosen):
        return None
    return performed
