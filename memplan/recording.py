"""`with memplan.record() as run:` sees the memory of a program from within.

    with memplan.record(output="run.mplan") as run:
        for batch in batches:
            train(batch)
            run.step()
    print(run.report.peak)

The first steps are watched as `memplan profile` watches them; after them PyTorch is as
it was. Whatever goes wrong here is said in one sentence, and the program goes on.
"""

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from memplan.errors import CaptureFileError, MemplanError, PlanError
from memplan.runner.marks import phase

if TYPE_CHECKING:
    from memplan.hardware import Gpu
    from memplan.plan import TrainingPlan
    from memplan.report import MemoryReport, StepTiming
    from memplan.runner.recording import Recorder

logger = logging.getLogger("memplan")

WATCHED_STEPS = 3
"""The first makes the optimizer's states, the second and third are alike."""
MARK = "recorded"
"""What a rehearsal or a profile of the program calls the stretch."""
NO_DEVICE = (
    "memplan: there is no CUDA device, so nothing is recorded; `memplan rehearse -- "
    "python train.py` shows the memory without one"
)
MS_PER_S = 1000


def record(
    plan: "TrainingPlan | None" = None,
    output: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    watch_steps: int = WATCHED_STEPS,
) -> "Recording":
    """Watch the first training steps of a block; it runs as it would without.

    Args:
        plan: what the block trains, if it is known: the report carries it.
        output: where the capture goes, a file named *.mplan; rank 3 of a job writes
            *-rank3.mplan beside it (`memplan gather` joins them).
        force: overwrite that file.
        watch_steps: how many steps to watch; three show the steady one.

    Raises:
        MemplanError: the file exists, or its name or the number of steps is wrong.
    """
    if watch_steps < 1:
        raise PlanError(
            f"Watching {watch_steps} steps shows nothing.", hint="Watch 3 of them."
        )
    file = None if output is None else _own_file(Path(output))
    if file is not None:
        _check_file(file, force)
    return Recording(plan, file, force, watch_steps)


class Recording(AbstractContextManager["Recording"]):
    """A block whose memory is recorded. Made by `record`, used once."""

    def __init__(
        self,
        plan: "TrainingPlan | None",
        file: Path | None,
        force: bool,
        watch_steps: int,
    ) -> None:
        self.plan = plan
        self.file = file
        """Where the capture goes, if anywhere."""
        self.captured: Mapping[str, Any] | None = None
        """What this process saw, as plain data; None while it goes on."""
        self._force = force
        self._watch_steps = watch_steps
        self.is_used = False
        """Its block has been entered."""
        self._recorder: Recorder | None = None
        self._mark: AbstractContextManager[None] | None = None
        self._report: MemoryReport | None = None

    @property
    def report(self) -> "MemoryReport | None":
        """Of the watched steps, as soon as they are over; with times after the block.

        None where nothing was seen: no CUDA device, no training step.
        """
        recorder = self._recorder
        if self._report is None and recorder is not None and recorder.has_watched:
            self._report = self._reported(recorder.content())
        return self._report

    @property
    def is_watching(self) -> bool:
        """Whether the watched steps are still going on."""
        return self._recorder is not None and self._recorder.is_watching

    def step(self, samples: int | None = None, tokens: int | None = None) -> None:
        """A training step of the block is over.

        Args:
            samples: how many it trained on, on this GPU: the report has its rate.
            tokens: the same of tokens.
        """
        if self._recorder is not None:
            self._recorder.step(samples, tokens)

    def __enter__(self) -> "Recording":
        if self.is_used:
            raise MemplanError(
                "A recording is used once.", hint="Call memplan.record() for another."
            )
        self.is_used = True
        if "MEMPLAN_RUNNER" in os.environ:
            # `memplan rehearse` or `memplan profile` sees it all: it gets a mark more.
            self._mark = phase(MARK)
            self._mark.__enter__()
            return self
        self._recorder = _begun(self._watch_steps)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Keep what was seen. The program's own exception goes its way."""
        if self._mark is not None:
            self._mark.__exit__(kind, error, traceback)
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        try:
            self.captured = recorder.end(error)
            self._report = self._reported(self.captured)
            self._write()
        except MemplanError as problem:
            logger.warning("memplan: %s %s", problem.message, problem.hint)
        except Exception:  # it is not for this to end what took a day to train
            logger.warning("memplan: this recording failed", exc_info=True)

    def _reported(self, seen: Mapping[str, Any]) -> "MemoryReport | None":
        from memplan.running.card_at_hand import card_in_use
        from memplan.running.rehearsal import (
            Subject,
            completed,
            has_something_to_report,
            out_of_memory_of,
            report_of,
        )

        capture = completed(seen)
        if not capture["device"] or not has_something_to_report(capture):
            return None
        card = card_in_use(capture["device"]["index"]).gpu
        subject = Subject(gpu=card, command=tuple(sys.orig_argv))
        report = report_of({**capture, "timing": None}, subject)
        return replace(
            report,
            plan=self.plan,
            command=None if self.plan is not None else report.command,
            out_of_memory=out_of_memory_of(capture),
            timing=_timing(capture["timing"], card),
        )

    def _write(self) -> None:
        """The capture, where there is anything to tell."""
        if self.captured is None or self._report is None:
            logger.warning(
                "memplan: no training step was seen, so there is no report: no "
                "optimizer step after a backward pass on a CUDA device"
            )
            return
        if self.file is None:
            return
        from memplan.captures.capture_file import CaptureFile, write_capture

        capture = CaptureFile(report=self._report, processes=(self.captured,))
        write_capture(capture, self.file, force=self._force)


def _begun(watch_steps: int) -> "Recorder | None":
    """A recorder that watches, where there is a card and nobody else watches it."""
    try:
        import torch
    except ImportError:
        torch = None  # type: ignore[assignment]
    if torch is None or not torch.cuda.is_available():
        if _rank() == 0:
            logger.warning(NO_DEVICE)
        return None
    from memplan.runner.recording import Recorder
    from memplan.runner.watch import Watch

    if Watch.current is not None:
        logger.warning(
            "memplan: this process is being recorded already, so this recording "
            "within it sees nothing"
        )
        return None
    recorder = Recorder(watch_steps)
    recorder.begin()
    return recorder


def _rank() -> int:
    """As a launcher says it."""
    text = os.environ.get("RANK", "0")
    return int(text) if text.isdecimal() else 0


def _own_file(path: Path) -> Path:
    """Each rank writes one of its own."""
    rank = _rank()
    return path.with_stem(f"{path.stem}-rank{rank}") if rank else path


def _check_file(path: Path, force: bool) -> None:
    """Now, and not after a day of training."""
    from memplan.captures.capture_file import SUFFIX, is_capture

    if not is_capture(path):
        raise CaptureFileError(
            f"{path} is not named as a capture.", hint=f"Name it *{SUFFIX}."
        )
    if path.exists() and not force:
        raise CaptureFileError(
            f"{path} exists already.", hint="Pass force=True to overwrite it."
        )
    if not path.absolute().parent.is_dir():
        raise CaptureFileError(
            f"There is no folder {path.parent}.", hint="Make it first."
        )


def _timing(seen: Mapping[str, Any] | None, card: "Gpu") -> "StepTiming | None":
    """Times of the steps, with the rates of what the program said they trained on."""
    from memplan.running.timing import timing_of

    timing = timing_of(seen, None, card)
    if timing is None or seen is None:
        return timing
    seconds = sum(seen["step_ms"]) / MS_PER_S
    samples, tokens = seen["samples"], seen["tokens"]
    return replace(
        timing,
        samples_per_s=None if samples is None else samples / seconds,
        tokens_per_s=None if tokens is None else tokens / seconds,
    )
