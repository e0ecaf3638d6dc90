"""One run on the virtual card: a program is started, and what it showed is picked.

A program may start many processes; the report is made of one. It may also fail, or
never come to train: then there is no report, and a sentence that says why.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from memplan.errors import ProgramError, VirtualDeviceError
from memplan.plan import TrainingPlan
from memplan.rehearsal import (
    Capture,
    Subject,
    completed,
    has_something_to_report,
    most_loaded,
    out_of_memory_of,
)
from memplan.runner.launch import Outcome, Program, launch
from memplan.runner.settings import STEADY_STEPS
from memplan.virtual import virtual_environment

LONGEST_ERROR = 120
ALLOCATOR_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Of PyTorch's two names for them the first that is set counts."""
OWN_ERROR = "That is the program's own error; what it printed is above."
KILLED = "It was killed from outside, as a host does that runs out of memory."

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class VirtualRun:
    """A program, the card it meets, and how far it is to go."""

    subject: Subject
    words: tuple[str, ...]
    interpreter: str
    num_devices: int
    context_bytes: int
    rank: int | None = None
    world_size: int | None = None
    steps: int = STEADY_STEPS
    snapshot: Path | None = None
    total_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    is_quiet: bool = False


def training_program(plan: TrainingPlan, steps: int) -> tuple[str, ...]:
    """The words that start the program of a plan."""
    text = json.dumps(asdict(plan))
    return (
        *(sys.executable, "-m", "memplan.runner.training", text),
        *("--steps", str(steps)),
    )


def perform(run: VirtualRun, say: Say) -> tuple[Capture, tuple[str, ...]]:
    """The capture of the process that the report is about, and what it rests on.

    Raises:
        ProgramError: the program failed by itself, or there was nothing to see.
        VirtualDeviceError: this machine, or this torch, cannot play a card.
    """
    outcome, assumptions = _launch(run, say)
    capture = _chosen(outcome, run)
    return capture, (*assumptions, *_of_the_run(outcome, run))


def _launch(run: VirtualRun, say: Say) -> tuple[Outcome, tuple[str, ...]]:
    """Start the program in the environment of its card."""
    environ = {**os.environ, **run.environment}
    _check_allocator(environ)
    virtual = virtual_environment(
        run.interpreter,
        run.subject.gpu,
        num_devices=run.num_devices,
        total_bytes=run.total_bytes,
        context_bytes=run.context_bytes,
        environ=environ,
        say=say,
    )
    if not run.is_quiet:
        for warning in virtual.warnings:
            say(warning)
    outcome = launch(
        Program(
            command=run.words,
            environment={**run.environment, **virtual.variables},
            steps=run.steps,
            rank=run.rank,
            world_size=run.world_size,
            snapshot=run.snapshot,
            is_quiet=run.is_quiet,
        )
    )
    captures = tuple(dict(completed(capture)) for capture in outcome.captures)
    if outcome.exit_code:
        captures = tuple(map(_with_the_cause, captures))
    return replace(outcome, captures=captures), virtual.assumptions


def _with_the_cause(capture: dict[str, Any]) -> dict[str, Any]:
    """Who catches the error of the allocator and then fails has not gone on.

    Scripts log an error and leave with a code of their own.
    """
    error = capture["out_of_memory"]
    if error is None or capture["ended"] == "stopped":
        return capture
    went_on = len(capture["steps"]) >= max(error["step"] or 0, 1)
    is_caught = error["caught"] and went_on
    return {**capture, "out_of_memory": {**error, "caught": is_caught}}


def _check_allocator(environ: Mapping[str, str]) -> None:
    """Refuse allocators that keep no record of what they give out."""
    if environ.get("PYTORCH_NO_CUDA_MEMORY_CACHING"):
        raise VirtualDeviceError(
            "PyTorch counts no memory where PYTORCH_NO_CUDA_MEMORY_CACHING is set.",
            hint="Unset it: the figures are those of the caching allocator.",
        )
    for name in ALLOCATOR_SETTINGS:
        if "cudaMallocAsync" in environ.get(name, ""):
            raise VirtualDeviceError(
                "PyTorch keeps no history of blocks with backend:cudaMallocAsync.",
                hint=f"Leave it out of {name}.",
            )


def _chosen(outcome: Outcome, run: VirtualRun) -> Capture:
    """The capture that the report is made of.

    Raises:
        ProgramError: the program failed by itself, or there was nothing to see.
    """
    useful = [
        capture
        for capture in outcome.captures
        if capture["device"] and has_something_to_report(capture)
    ]
    if useful and (outcome.exit_code == 0 or _went_far_enough(useful)):
        return most_loaded(useful)
    name = Path(run.words[0]).name
    if outcome.exit_code == 0:
        raise _nothing_seen(outcome, name)
    errors = [capture["error"] for capture in outcome.captures if capture["error"]]
    said = f" ({shorten(errors[0], LONGEST_ERROR)})" if errors else ""
    raise ProgramError(
        f"{name} left with exit code {_exit_code(outcome.exit_code)}{said}.",
        hint=KILLED if outcome.exit_code == 128 + signal.SIGKILL else OWN_ERROR,
        exit_code=outcome.exit_code,
    )


def _exit_code(code: int) -> str:
    """`139, SIGSEGV`: from 128 on it is a signal that ended the program."""
    try:
        return f"{code}, {signal.Signals(code - 128).name}"
    except ValueError:
        return str(code)


def _went_far_enough(useful: Sequence[Capture]) -> bool:
    """Whether a process came to its last step, or to the end of memory.

    What a script does after its training may then fail: the training was cut short.
    """
    return any(
        capture["ended"] == "stopped" or out_of_memory_of(capture) for capture in useful
    )


def _nothing_seen(outcome: Outcome, name: str) -> ProgramError:
    """A program that ended well without anything to report."""
    if not outcome.captures:
        return ProgramError(
            f"{name} never imported torch.",
            hint="Give the command that trains; its Python must see PYTHONPATH "
            "(no -I or -E).",
        )
    if not any(capture["device"] for capture in outcome.captures):
        return ProgramError(
            f"{name} never used CUDA.",
            hint="Does it ask for a device? The virtual card is cuda:0.",
        )
    return ProgramError(
        f"{name} made no training step: no optimizer step after a backward pass.",
        hint='Mark what to measure: with memplan.phase("name"): ...',
    )


def _of_the_run(outcome: Outcome, run: VirtualRun) -> list[str]:
    """What the way it ran means for the figures."""
    lines = []
    with_device = [capture for capture in outcome.captures if capture["device"]]
    if len(with_device) > 1 and run.world_size is None:
        lines.append(
            f"{len(with_device)} processes used a card, each one of its own; this is "
            "the one that held most"
        )
    if outcome.exit_code and not any(map(out_of_memory_of, with_device)):
        lines.append(
            f"after the last step was rehearsed the command left with exit code "
            f"{outcome.exit_code}"
        )
    if not outcome.is_repeatable:
        lines.append(
            "this system does not let a program have the same addresses in every run: "
            "reserved memory may differ a little between rehearsals"
        )
    return lines
