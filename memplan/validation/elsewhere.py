"""Rehearsals by any executor of `concurrent.futures`: processes, a cluster of Dask.

    for plan, found in rehearsed_by(executor, plans, replays.kept):
        ...                                    # a report, or why there is none

To a worker goes plain data, and plain data comes back, so that it is told by name where
another version of memplan or of PyTorch is at work there. The worker keeps rehearsals
in its own cache, who asks keeps them too: a sweep that was stopped asks for the rest.
"""

import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from threading import Event, Thread
from typing import Any, TypedDict

from memplan.errors import ExecutorError, MemplanError
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport, from_json, to_json
from memplan.runner.training.refusals import check
from memplan.running.apart import Apart, StoppedError
from memplan.running.executors import for_another_worker, given_up, has_killed_workers
from memplan.validation.kept import KeptReports, installed, looked_up
from memplan.validation.replay import Replays, replays_folder

Found = MemoryReport | str
"""A report, or the reason why there is none."""

POLL_S = 0.5
"""How often a worker looks whether somebody still waits."""
KEPT = "What was answered is kept: the same command asks for the rest."


class Answer(TypedDict, total=False):
    """What a worker says of a plan: one of three."""

    report: str
    """As JSON."""
    reason: str
    """Why there is none."""
    refusal: str
    """Why none that is made there can be taken, now or later."""


def rehearsed_by(
    executor: Executor, plans: Iterable[TrainingPlan], kept: KeptReports
) -> Iterator[tuple[TrainingPlan, Found]]:
    """Each plan with what was found, as it comes; those that are kept come first.

    What was asked for and is not wanted any more, after an error or Ctrl-C, is
    cancelled.

    Raises:
        ExecutorError: the executor fails, or a worker has other versions.
    """
    asked: dict[Future[Answer], TrainingPlan] = {}
    try:
        for plan in plans:
            known = _known(plan, kept)
            if known is not None:
                yield plan, known
            else:
                asked[_ask(executor, plan)] = plan
        for done in as_completed(asked):
            plan, found = asked[done], _found(done)
            if isinstance(found, MemoryReport):
                kept.keep(plan, found)
            yield plan, found
    finally:
        for future in asked:
            future.cancel()


def answer(
    fields: dict[str, Any], libraries: dict[str, str], names: dict[str, str]
) -> Answer:
    """Rehearse a plan, on a worker.

    Args:
        fields: of the plan.
        libraries: what is `installed` where it was asked for.
        names: of the plan, as they were `looked_up` there.
    """
    refusal = _difference(libraries, installed())
    if refusal is not None:
        return Answer(refusal=refusal)
    plan = TrainingPlan(**fields)
    try:
        refusal = _difference(names, looked_up(plan))
    except MemplanError as error:
        refusal = f"The worker on {socket.gethostname()} says: {error.message}"
    if refusal is not None:
        return Answer(refusal=refusal)
    try:
        with _ended_when_given_up() as apart:
            report = Replays(replays_folder(), apart).rehearse(plan)
    except StoppedError as error:
        raise for_another_worker() from error
    except MemplanError as error:
        return Answer(reason=reason_of(error))
    return Answer(report=to_json(report))


def reason_of(error: MemplanError) -> str:
    """Its sentence as part of another."""
    return error.message.removesuffix(".")


def _known(plan: TrainingPlan, kept: KeptReports) -> Found | None:
    """What needs no worker: a rehearsal that is kept, and what cannot be run."""
    try:
        check(plan)
        return kept.find(plan)
    except MemplanError as error:
        return reason_of(error)


def _ask(executor: Executor, plan: TrainingPlan) -> Future[Answer]:
    """Raises ExecutorError: it is broken."""
    try:
        return executor.submit(answer, asdict(plan), installed(), looked_up(plan))
    except BrokenExecutor as error:
        raise _failed(error) from error


def _found(done: Future[Answer]) -> Found:
    """What came of it.

    Raises:
        ExecutorError: nothing, and it is not the plan's fault.
    """
    if done.cancelled():
        raise ExecutorError("The executor went away before all was done.", hint=KEPT)
    error = done.exception()
    if error is not None:
        if has_killed_workers(error):
            return "every worker that rehearsed it died"
        raise _failed(error) from error
    said = done.result()
    if refusal := said.get("refusal"):
        raise ExecutorError(refusal, hint=f"Have the same on all machines. {KEPT}")
    if reason := said.get("reason"):
        return reason
    return from_json(said["report"])


def _failed(error: BaseException) -> ExecutorError:
    if isinstance(error.__cause__, ImportError):  # Dask wraps what a machine lacks
        error = error.__cause__
    first = (str(error).splitlines() or [""])[0].rstrip(".")
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return ExecutorError(f"The executor failed: {what}.", hint=KEPT)


def _difference(theirs: dict[str, str], ours: dict[str, str]) -> str | None:
    """What differs between who asks and this worker, as who asks will read it."""
    names = [n for n in {**theirs, **ours} if theirs.get(n) != ours.get(n)]
    if not names:
        return None
    there = ", ".join(f"{name} {ours.get(name, 'missing')}" for name in names)
    here = ", ".join(f"{name} {theirs.get(name, 'missing')}" for name in names)
    return f"The worker on {socket.gethostname()} has {there}; here it is {here}."


@contextmanager
def _ended_when_given_up() -> Iterator[Apart]:
    """Commands that end when nobody waits for this task any more."""
    apart, is_over = Apart(), Event()
    is_given_up = given_up()
    if is_given_up is None:
        yield apart
        return

    def watch() -> None:
        while not is_over.wait(POLL_S):
            if is_given_up():
                apart.stop()

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield apart
    finally:
        is_over.set()
        watcher.join()
