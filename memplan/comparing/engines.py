"""The three ways to look at a plan, one like the other: plans in, reports out.

    for plan, found in engine.look(plans):
        ...                                    # a report, or why there is none

A rehearsal or a measurement runs in a process of its own, and is kept by plan and
versions: a comparison that was stopped goes on where it was.
"""

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from memplan.campaign.attempt import Attempt
from memplan.campaign.plans import Entry
from memplan.comparing.comparison import By
from memplan.errors import MemplanError
from memplan.estimate import estimate, needed_bytes
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport
from memplan.runner.training.refusals import check
from memplan.running.apart import Apart, StoppedError
from memplan.running.card_at_hand import CardAtHand, card_at_hand
from memplan.units import GiB
from memplan.validation.elsewhere import Found as Found
from memplan.validation.elsewhere import reason_of, rehearsed_by
from memplan.validation.kept import KeptReports
from memplan.validation.replay import Replays, replays_folder

LIMIT_S = 900.0
"""What one measurement may take."""
BYTES_OF_A_REHEARSAL = 4 * GiB
"""Of the host: PyTorch with CUDA's libraries, and a model's worth of bookkeeping."""
CORES_OF_A_REHEARSAL = 2


class Engine(Protocol):
    """Who looks at plans."""

    by: By

    def look(
        self, plans: Iterable[TrainingPlan]
    ) -> Iterator[tuple[TrainingPlan, Found]]:
        """Each plan with what was found, as it comes."""


class Estimates:
    """The closed form, in this process."""

    by: By = "estimate"

    def look(
        self, plans: Iterable[TrainingPlan]
    ) -> Iterator[tuple[TrainingPlan, Found]]:
        for plan in plans:
            try:
                yield plan, estimate(plan)
            except MemplanError as error:
                yield plan, reason_of(error)


class Rehearsals:
    """The virtual card: so many at once, each in a process of its own.

    Here, or wherever an executor has room: who hands one in shuts it down.
    """

    by: By = "rehearse"

    def __init__(
        self,
        jobs: int | None = None,
        folder: Path | None = None,
        executor: Executor | None = None,
    ) -> None:
        """Get ready.

        Args:
            jobs: how many at once here; None: as many as the machine has room for.
            folder: where they are kept; None: the user's cache.
            executor: runs them, so many at once as it likes; None: threads here do.
        """
        self._jobs = jobs or jobs_here()
        self._folder = folder or replays_folder()
        self._executor = executor

    def look(
        self, plans: Iterable[TrainingPlan]
    ) -> Iterator[tuple[TrainingPlan, Found]]:
        apart = Apart()
        replays = Replays(self._folder, apart)
        if self._executor is not None:
            yield from rehearsed_by(self._executor, plans, replays.kept)
            return
        pool = ThreadPoolExecutor(max_workers=self._jobs)
        try:
            asked: dict[Future[Found], TrainingPlan] = {
                pool.submit(_rehearsed, replays, plan): plan for plan in plans
            }
            for done in as_completed(asked):
                yield asked[done], done.result()
        finally:
            apart.stop()  # nothing runs any more, unless this is Ctrl-C
            pool.shutdown(cancel_futures=True)


class Measurements:
    """The card at hand, one plan after another, each in a process of its own."""

    by: By = "profile"

    def __init__(self, folder: Path | None = None) -> None:
        """Find the card.

        Args:
            folder: where measurements are kept; None: the user's cache.

        Raises:
            DeviceError: there is none.
        """
        self._card = card_at_hand(sys.executable)
        self._replays = Replays(folder or replays_folder())
        measured = (folder or replays_folder()).parent / "measurements"
        self._kept = KeptReports(measured, _card_words(self._card))

    def look(
        self, plans: Iterable[TrainingPlan]
    ) -> Iterator[tuple[TrainingPlan, Found]]:
        for plan in plans:
            try:
                report = self._kept.report(plan, partial(_measured, plan))
                yield plan, self._with_need(report)
            except MemplanError as error:
                yield plan, reason_of(error)

    def _with_need(self, report: MemoryReport) -> MemoryReport:
        """What ran out of memory, with what a virtual card says it would take.

        Raises:
            MemplanError: nothing says that.
        """
        error, plan = report.out_of_memory, report.plan
        if error is None or error.needed_bytes is not None or plan is None:
            return report
        try:
            other = self._replays.rehearse(plan)
            failed = other.out_of_memory
            needed = failed.needed_bytes if failed else other.peak.device_bytes
            how = "a rehearsal"
        except MemplanError:
            needed, how = needed_bytes(plan), "an estimate"
        line = f"it ran out of memory here: what it takes is known from {how}"
        return replace(
            report,
            out_of_memory=replace(error, needed_bytes=needed),
            assumptions=(*report.assumptions, line),
        )


def engine_of(
    by: By, jobs: int | None = None, executor: Executor | None = None
) -> Engine:
    """The engine of that name; an executor takes rehearsals.

    Raises:
        DeviceError: there is no card to measure on.
    """
    match by:
        case "estimate":
            return Estimates()
        case "rehearse":
            return Rehearsals(jobs, executor=executor)
        case "profile":
            return Measurements()


def jobs_here() -> int:
    """How many rehearsals this machine can run at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    by_cores = cores // CORES_OF_A_REHEARSAL
    return max(1, min(by_cores, _free_bytes() // BYTES_OF_A_REHEARSAL))


def _free_bytes() -> int:
    """Of the host; elsewhere than on Linux nothing is rehearsed."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0
    [line] = [line for line in text.splitlines() if line.startswith("MemAvailable:")]
    return int(line.split()[1]) * 1024


def _rehearsed(replays: Replays, plan: TrainingPlan) -> Found:
    try:
        check(plan)  # what cannot be run costs no process
        return replays.rehearse(plan)
    except StoppedError:
        return "it was stopped"
    except MemplanError as error:
        return reason_of(error)


def _measured(plan: TrainingPlan) -> MemoryReport:
    """Raises MemplanError where it cannot be measured."""
    check(plan)
    with tempfile.TemporaryDirectory(prefix="memplan-compare-") as name:
        attempt = Attempt(Entry(name="plan", group="", plan=plan), Path(name))
        try:
            attempt.let_in()
            answer = attempt.wait(LIMIT_S)
        finally:
            attempt.stop()
    if answer is None:
        raise MemplanError(f"It took longer than {LIMIT_S:.0f} s.", hint="")
    if answer.report is None:
        raise MemplanError(answer.error or "It failed.", hint="")
    return answer.report


def _card_words(card: CardAtHand) -> str:
    return f"{card.gpu.slug} {card.gpu.total_bytes} {card.is_virtual}"
