"""One run, on a virtual card or the one at hand: started, and what it showed is picked.

A program may start many processes; the report is made of one. It may also fail, or
never come to train: then there is no report, and a sentence that says why.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from memplan.errors import PlanError, ProgramError, VirtualDeviceError
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport
from memplan.runner.launch import Outcome, Program, launch
from memplan.runner.settings import STEADY_STEPS
from memplan.running.endings import failure_of, nothing_seen
from memplan.running.ranks import rank_rows, with_ranks
from memplan.running.rehearsal import (
    Capture,
    Subject,
    completed,
    has_something_to_report,
    most_loaded,
    out_of_memory_of,
    report_of,
)
from memplan.virtual import virtual_environment

ALLOCATOR_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Of PyTorch's two names for them the first that is set counts."""
NEWER_NAME = ALLOCATOR_SETTINGS[1]

Say = Callable[[str], None]
Keep = Callable[[tuple[Capture, ...]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class VirtualCards:
    """Cards that are played to a program, each as the subject's card is."""

    num_devices: int
    context_bytes: int
    total_bytes: int | None = None
    """In place of the card's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A program, the card it meets, and how far it is to go."""

    subject: Subject
    words: tuple[str, ...]
    interpreter: str
    cards: VirtualCards | None
    """None: the program finds what this machine has."""
    is_virtual: bool = True
    """Whether the card is a virtual one, whoever plays it."""
    rank: int | None = None
    world_size: int | None = None
    steps: int = STEADY_STEPS
    timed_steps: int = 0
    """Steps after those, to be timed; of one more the operations are counted."""
    snapshot: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    is_quiet: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Performed:
    """A run that has ended with something to report."""

    chosen: Capture
    """Of the process that the report is about."""
    captures: tuple[Capture, ...]
    """Of every process that imported PyTorch, in the order of ranks."""
    assumptions: tuple[str, ...]
    """What the figures rest on, as far as it lies in how the program was run."""
    failure: ProgramError | None = None
    """How the program failed, if it did before it had come to its last step."""
    is_interrupted: bool = False
    """By Ctrl-C."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profiled:
    """The answer of a run, and what it is made of: what a capture file keeps."""

    report: MemoryReport
    processes: tuple[Capture, ...]
    """What each process saw that used a card."""


def check_headroom(fraction: float) -> None:
    """Raises PlanError where a part of the card is no part of it."""
    if not 0 <= fraction < 1:
        raise PlanError("The headroom must be below 1.", hint="5% is 0.05.")


def allocator_environment(alloc_conf: str | None) -> dict[str, str]:
    """The variable that gives a run these settings, whatever is set around it."""
    if alloc_conf is None:
        return {}
    return {next(filter(os.environ.get, ALLOCATOR_SETTINGS), NEWER_NAME): alloc_conf}


def training_program(
    plan: TrainingPlan, steps: int, watched: int | None = None
) -> tuple[str, ...]:
    """The words that start the program of a plan; `watched` are the first, else all."""
    text = json.dumps(asdict(plan))
    return (
        *(sys.executable, "-m", "memplan.runner.training", text),
        *("--steps", str(steps)),
        *(() if watched is None else ("--watched-steps", str(watched))),
    )


def perform(run: Run, say: Say) -> Performed:
    """Start the program, wait for its end, and pick the process to report about.

    Raises:
        ProgramError: there was nothing to see, whether or not the program failed.
        VirtualDeviceError: this machine, or this torch, cannot play a card.
        KeyboardInterrupt: Ctrl-C before there was anything to see.
    """
    outcome, assumptions = _launch(run, say)
    name = Path(run.words[0]).name
    useful = [
        capture
        for capture in outcome.captures
        if capture["device"] and has_something_to_report(capture)
    ]
    if outcome.is_interrupted and not useful:
        raise KeyboardInterrupt
    failure = failure_of(outcome, useful, name)
    if not useful:
        raise failure or nothing_seen(outcome.captures, name)
    return Performed(
        chosen=most_loaded(useful),
        captures=outcome.captures,
        assumptions=(*assumptions, *_of_the_run(outcome, run, failure)),
        failure=failure,
        is_interrupted=outcome.is_interrupted,
    )


def profiled_of(performed: Performed, subject: Subject) -> Profiled:
    """The report of the most loaded process, with a row for each rank."""
    lines = (*subject.assumptions, *performed.assumptions)
    report = report_of(performed.chosen, replace(subject, assumptions=lines))
    return Profiled(
        report=with_ranks(report, performed.captures),
        processes=tuple(c for c in performed.captures if c["device"]),
    )


def _launch(run: Run, say: Say) -> tuple[Outcome, tuple[str, ...]]:
    """Start the program, in the environment of its cards where they are played."""
    environ = {**os.environ, **run.environment}
    check_allocator(environ)
    environment, assumptions = dict(run.environment), tuple[str, ...]()
    if run.cards is not None:
        virtual = virtual_environment(
            run.interpreter,
            run.subject.gpu,
            num_devices=run.cards.num_devices,
            total_bytes=run.cards.total_bytes,
            context_bytes=run.cards.context_bytes,
            environ=environ,
            say=say,
        )
        if not run.is_quiet:
            for warning in virtual.warnings:
                say(warning)
        environment |= virtual.variables
        assumptions = virtual.assumptions
    outcome = launch(
        Program(
            command=run.words,
            environment=environment,
            steps=run.steps,
            timed_steps=run.timed_steps,
            counts_flops=run.timed_steps > 0,
            is_virtual=run.is_virtual,
            rank=run.rank,
            world_size=run.world_size,
            # A virtual card comes with an NCCL of its own, which needs no peers.
            has_nccl=run.cards is not None,
            snapshot=run.snapshot,
            is_quiet=run.is_quiet,
        )
    )
    captures = tuple(dict(completed(capture)) for capture in outcome.captures)
    if run.world_size is not None:
        captures = tuple({**capture, "is_alone": True} for capture in captures)
    if outcome.exit_code:
        captures = tuple(map(_with_the_cause, captures))
    return replace(outcome, captures=captures), assumptions


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


def check_allocator(environ: Mapping[str, str]) -> None:
    """Refuse allocators that keep no record of what they give out.

    Raises:
        VirtualDeviceError: the environment asks for one.
    """
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


def _of_the_run(outcome: Outcome, run: Run, failure: ProgramError | None) -> list[str]:
    """What the way it ran means for the figures."""
    lines = []
    with_device = [capture for capture in outcome.captures if capture["device"]]
    if len(with_device) > 1 and not rank_rows(outcome.captures):
        lines.append(
            f"{len(with_device)} processes used a card, each one of its own; this is "
            "the one that held most"
        )
    is_well = not (failure or any(map(out_of_memory_of, with_device)))
    if outcome.exit_code and is_well and not outcome.is_interrupted:
        lines.append(
            f"after its last step the command left with exit code {outcome.exit_code}"
        )
    if not outcome.is_repeatable and run.is_virtual:
        lines.append(
            "this system does not let a program have the same addresses in every run: "
            "reserved memory may differ a little between rehearsals"
        )
    return lines
