"""Measures the plans of a campaign on the card at hand, and keeps a record of each.

    for outcome in Measuring(folder, minutes=9).run(plans): ...

One plan has the card at a time; while it runs, the next ones import their libraries,
which is most of what a small plan takes. A plan may run out of memory, crash or hang:
its record says so, and the next one runs. None begins that has a record already, or
that would not end in the minutes that are left, as far as those done so far can tell.
"""

import math
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from memplan.campaign.attempt import Answer, Attempt
from memplan.campaign.plans import Sized
from memplan.errors import MemplanError, RecordError
from memplan.report import MemoryReport
from memplan.runner.training.refusals import check
from memplan.units import GiB
from memplan.validation.records import Record, read_record, same_question, write_record

State = Literal[
    "finished",
    "out of memory",
    "failed",
    "timeout",
    "recorded",
    "left out",
    "cannot run",
    "no time",
]
"""The first four have made a record now; `recorded` had one before."""
STATES: tuple[State, ...] = get_args(State)

LIMIT_S = 120.0
"""One plan may take so long; those of the campaign take a tenth of it."""
FIRST_S = 45.0
"""What the first plan is expected to take, of which nothing is known yet."""
S_PER_GIB = 1.0
"""What a plan is expected to take for each GiB that it is larger than those seen: much
of a start-up does not grow with it."""
NEIGHBOURS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one plan."""

    sized: Sized
    state: State
    said: str = ""
    """Why it failed, or did not run."""
    seconds: float = 0.0
    """That it had the card."""
    device_bytes: int | None = None
    """The peak on the device."""

    @property
    def name(self) -> str:
        return self.sized.entry.name


class Pace:
    """How long plans take, learned from those that ran: larger ones take longer."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, float]] = []

    def add(self, needed_bytes: int | None, seconds: float) -> None:
        self._seen.append((needed_bytes or 1, seconds))

    def expected(self, needed_bytes: int | None) -> float:
        """The longest that plans near it in size took, and more if it is larger."""
        needed = needed_bytes or 1
        nearest = sorted(self._seen, key=lambda one: abs(math.log(one[0] / needed)))
        return max(
            (
                seconds + S_PER_GIB * max(0, needed - size) / GiB
                for size, seconds in nearest[:NEIGHBOURS]
            ),
            default=FIRST_S,
        )


class Measuring:
    """One round over the plans of a campaign."""

    def __init__(
        self,
        folder: Path,
        *,
        minutes: float | None = None,
        limit_s: float = LIMIT_S,
        again: bool = False,
        ahead: int | None = None,
    ) -> None:
        """Get ready; the minutes begin now.

        Args:
            folder: where records go.
            minutes: what the round may take; None: as long as it takes.
            limit_s: what one plan may take.
            again: measure anew what failed or took too long before.
            ahead: how many programs import libraries while another has the card; None
                is decided by the processors there are.
        """
        self._folder = folder
        self._ends = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self._limit_s = limit_s
        self._again = again
        self._ahead = ahead_of(os.cpu_count() or 1) if ahead is None else ahead
        self._pace = Pace()
        self._started: deque[tuple[Sized, Attempt]] = deque()

    def run(self, plans: Sequence[Sized]) -> Iterator[Outcome]:
        """Measure them in their order; each gives its outcome as soon as it is known.

        Raises:
            RecordError: a record cannot be written.
        """
        waiting = deque(plans)
        with tempfile.TemporaryDirectory(prefix="memplan-campaign-") as name:
            try:
                while waiting or self._started:
                    while waiting and len(self._started) <= self._ahead:
                        outcome = self._start(waiting.popleft(), Path(name))
                        if outcome is not None:
                            yield outcome
                    if self._started:
                        yield self._finish(*self._started.popleft())
            finally:
                for _, attempt in self._started:
                    attempt.stop()

    def _start(self, sized: Sized, folder: Path) -> Outcome | None:
        """Start a plan's process, or say why not."""
        outcome = self._is_decided(sized)
        if outcome is None and not self._has_time_for(sized):
            outcome = Outcome(sized=sized, state="no time")
        if outcome is None:
            self._started.append((sized, Attempt(sized.entry, folder)))
        return outcome

    def _is_decided(self, sized: Sized) -> Outcome | None:
        """What is known of a plan without running it."""
        if sized.left_out:
            return Outcome(sized=sized, state="left out", said=sized.left_out)
        outcome = self._recorded(sized)
        if outcome is not None:
            return outcome
        try:
            check(sized.entry.plan)
        except MemplanError as error:
            return Outcome(sized=sized, state="cannot run", said=error.message)
        return None

    def _recorded(self, sized: Sized) -> Outcome | None:
        """A plan that has a record, unless it shall be measured anew."""
        path = self._path(sized)
        if not path.exists():
            return None
        try:
            record = read_record(path)
        except RecordError as error:
            return Outcome(sized=sized, state="recorded", said=error.message)
        if not same_question(record.plan, sized.entry.plan):
            said = "its record is of another plan: remove that to measure this one"
            return Outcome(sized=sized, state="recorded", said=said)
        if self._again and record.ended in ("failed", "timeout"):
            return None
        said = f"{record.ended}, {record.measured_at}"
        return Outcome(
            sized=sized,
            state="recorded",
            said=said,
            device_bytes=_device_bytes(record.report),
        )

    def _has_time_for(self, sized: Sized) -> bool:
        """Whether it would end in time, after those that have been started."""
        seconds = sum(
            self._pace.expected(one.needed_bytes)
            for one in (sized, *(started for started, _ in self._started))
        )
        return time.monotonic() + seconds <= self._ends

    def _finish(self, sized: Sized, attempt: Attempt) -> Outcome:
        """Let a plan have the card, and keep what came out."""
        try:
            if not self._has_time_for(sized):
                return Outcome(sized=sized, state="no time")
            return self._measure(sized, attempt)
        finally:
            attempt.stop()

    def _measure(self, sized: Sized, attempt: Attempt) -> Outcome:
        begins = time.monotonic()
        left = self._ends - begins
        attempt.let_in()
        answer = attempt.wait(min(self._limit_s, left))
        seconds = time.monotonic() - begins
        self._pace.add(sized.needed_bytes, seconds)
        if answer is None:
            attempt.stop()
            if left < self._limit_s:
                said = f"it was stopped after {left:.0f} s, when the minutes were over"
                return Outcome(sized=sized, state="no time", said=said, seconds=seconds)
            said = f"it had not ended after {self._limit_s:.0f} s"
            answer = Answer(ended="timeout", error=said)
        self._keep(sized, attempt, answer)
        return Outcome(
            sized=sized,
            state="out of memory" if answer.ended == "out_of_memory" else answer.ended,
            said=answer.error,
            seconds=seconds,
            device_bytes=_device_bytes(answer.report),
        )

    def _keep(self, sized: Sized, attempt: Attempt, answer: Answer) -> None:
        """Write the record; of what went wrong, keep what was printed as well."""
        record = Record(
            entry=sized.entry.name,
            plan=sized.entry.plan,
            ended=answer.ended,
            error=answer.error,
            report=answer.report,
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_record(record, self._path(sized), force=self._again)
        if answer.report is None and attempt.log.exists():
            logs = self._folder / "logs"
            logs.mkdir(exist_ok=True)
            shutil.copy(attempt.log, logs)

    def _path(self, sized: Sized) -> Path:
        return self._folder / f"{sized.entry.name}.json"


def _device_bytes(report: MemoryReport | None) -> int | None:
    return None if report is None else report.peak.device_bytes


def ahead_of(num_processors: int) -> int:
    """Two more programs take two processors; on a small machine they would be in the
    way of the one that is measured."""
    return 2 if num_processors >= 8 else 1 if num_processors >= 4 else 0
