"""The real PyTorch on a virtual card: a plan or a program in, a memory report out.

    report = rehearse(TrainingPlan(model="llama-2-7b", gpu="a100-80gb"))
    report = rehearse_program(["python", "train.py"], gpu="rtx-4090")

A plan becomes a program too (`memplan.runner.training`): there is one way of running,
the environment of the card, the launcher with the runner inside, the captures, the
report. Out of memory is a result. The run is then repeated on a card without limit, to
know what it needs, and held against changes that would have made it fit.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from memplan.card import card_of, outside_allocator
from memplan.errors import PlanError, ProgramError
from memplan.hardware import custom_gpu, find_gpu
from memplan.plan import TrainingPlan
from memplan.rehearsal import (
    Capture,
    Subject,
    has_something_to_report,
    most_loaded,
    out_of_memory_of,
    report_of,
)
from memplan.remedies import cards_that_hold, changes_that_fit
from memplan.report import MemoryReport, OutOfMemory, Remedy
from memplan.requirements import check_requirements
from memplan.runner.command import find_command
from memplan.runner.launch import DEVICES_OF_A_NODE, Outcome, Program, launch
from memplan.virtual import virtual_environment

UNLIMITED_BYTES = 2**42
"""A card of 4 TiB: no run needs more on one GPU."""
ALLOCATOR_SETTINGS = "PYTORCH_CUDA_ALLOC_CONF"
EXPANDABLE = "expandable_segments:True"

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """A program, the card it meets, and how far it is to go."""

    subject: Subject
    words: tuple[str, ...]
    interpreter: str
    num_devices: int
    context_bytes: int
    rank: int | None = None
    world_size: int | None = None
    steps: int = 3
    snapshot: Path | None = None
    total_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    is_quiet: bool = False


def rehearse(
    plan: TrainingPlan,
    *,
    rank: int = 0,
    steps: int = 3,
    snapshot: Path | None = None,
    require: Sequence[str] = (),
    say: Say = lambda line: None,
) -> MemoryReport:
    """Build a plan's model and train it on the virtual card, as one of its ranks.

    `say` is told what happens meanwhile, a line at a time.

    Raises:
        MemplanError: the plan cannot be rehearsed, or not on this machine.
    """
    _check_plan(plan)
    _check_range(rank, plan.num_gpus, steps)
    check_requirements(sys.executable, require)
    gpu = card_of(plan)
    context, basis = outside_allocator(gpu, plan.context_bytes, plan.num_gpus)
    with tempfile.TemporaryDirectory(prefix="memplan-") as folder:
        file = Path(folder) / "plan.json"
        file.write_text(json.dumps(asdict(plan)), encoding="utf-8")
        run = _Run(
            subject=Subject(
                gpu=gpu,
                plan=plan,
                headroom_fraction=plan.headroom_fraction,
                assumptions=(*basis, *_as_rank(rank, plan.num_gpus)),
            ),
            words=(sys.executable, "-m", "memplan.runner.training", str(file)),
            interpreter=sys.executable,
            num_devices=min(plan.num_gpus, DEVICES_OF_A_NODE),
            context_bytes=context,
            rank=rank if plan.num_gpus > 1 else None,
            world_size=plan.num_gpus if plan.num_gpus > 1 else None,
            steps=steps,
            snapshot=snapshot,
        )
        return _rehearse(run, say)


def rehearse_program(
    command: Sequence[str],
    *,
    gpu: str = "h100-80gb",
    gpu_memory_bytes: int | None = None,
    context_bytes: int | None = None,
    num_gpus: int | None = None,
    rank: int = 0,
    steps: int = 3,
    snapshot: Path | None = None,
    require: Sequence[str] = (),
    headroom_fraction: float = 0.05,
    say: Say = lambda line: None,
) -> MemoryReport:
    """Run a program, unchanged, on the virtual card.

    With `num_gpus` one process plays `rank` of so many; without, the program starts
    what it starts, and the report is that of the process that holds most.

    Raises:
        MemplanError: it cannot be started, fails by itself, or makes no training step.
    """
    _check_range(rank, num_gpus or 1, steps)
    if not 0 <= headroom_fraction < 1:
        raise PlanError("The headroom must be below 1.", hint="5% is 0.05.")
    found = find_command(command)
    check_requirements(found.interpreter, require)
    card = find_gpu(gpu)
    if gpu_memory_bytes is not None:
        if gpu_memory_bytes <= 0:
            raise PlanError("A card needs memory.", hint="Write it like 24GiB.")
        card = custom_gpu(card, gpu_memory_bytes)
    num_ranks = num_gpus or found.num_processes
    context, basis = outside_allocator(card, context_bytes, num_ranks)
    return _rehearse(
        _Run(
            subject=Subject(
                gpu=card,
                command=tuple(command),
                headroom_fraction=headroom_fraction,
                assumptions=(*basis, *_as_rank(rank, num_gpus or 1)),
            ),
            words=found.words,
            interpreter=found.interpreter,
            num_devices=min(num_ranks, DEVICES_OF_A_NODE),
            context_bytes=context,
            rank=None if num_gpus in (None, 1) else rank,
            world_size=None if num_gpus == 1 else num_gpus,
            steps=steps,
            snapshot=snapshot,
        ),
        say,
    )


def _check_plan(plan: TrainingPlan) -> None:
    if plan.model is None:
        raise PlanError(
            "A parameter count alone cannot be rehearsed: there is no model to run.",
            hint="Name a model, or ask `memplan estimate`.",
        )
    if plan.accounting != "torch":
        raise PlanError(
            f"A rehearsal holds what PyTorch holds; the accounting {plan.accounting!r} "
            "is a convention.",
            hint="Drop --accounting, or ask `memplan estimate`.",
        )
    if plan.torch is not None:
        raise PlanError(
            "A rehearsal runs the torch that is installed.",
            hint=f"--require 'torch=={plan.torch}.*' refuses any other.",
        )


def _check_range(rank: int, num_gpus: int, steps: int) -> None:
    if not 0 <= rank < num_gpus:
        raise PlanError(
            f"There is no rank {rank} of {num_gpus}.",
            hint=f"Ranks are 0 to {num_gpus - 1}: see --num-gpus.",
        )
    if steps < 1:
        raise PlanError(
            f"A rehearsal of {steps} steps shows nothing.", hint="Pass --steps 3."
        )


def _as_rank(rank: int, num_gpus: int) -> tuple[str, ...]:
    if num_gpus == 1:
        return ()
    return (
        f"one process plays rank {rank} of {num_gpus}: collectives take their memory "
        "and bring no values, object broadcasts from other ranks leave what is there",
    )


def _rehearse(run: _Run, say: Say) -> MemoryReport:
    """Run, and where memory ends, find out what would have been needed."""
    outcome, assumptions = _launch(run, say)
    capture = _chosen(outcome, run)
    subject = replace(
        run.subject,
        assumptions=(
            *run.subject.assumptions,
            *assumptions,
            *_of_the_run(outcome, run),
        ),
    )
    report = report_of(capture, subject)
    error = out_of_memory_of(capture)
    if error is None:
        return report
    return _with_need(replace(run, subject=subject), report, error, say)


def _launch(run: _Run, say: Say) -> tuple[Outcome, tuple[str, ...]]:
    """Start the program in the environment of its card."""
    environ = {**os.environ, **run.environment}
    virtual = virtual_environment(
        run.interpreter,
        run.subject.gpu,
        num_devices=run.num_devices,
        total_bytes=run.total_bytes,
        context_bytes=run.context_bytes,
        environ=environ,
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
    return outcome, virtual.assumptions


def _chosen(outcome: Outcome, run: _Run) -> Capture:
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
    raise ProgramError(
        f"{name} left with exit code {outcome.exit_code}"
        + (f" ({errors[0]})." if errors else "."),
        hint="That is the program's own error, printed above; without --, and on a "
        "card, it would be the same."
        if errors
        else "What it printed is above.",
        exit_code=outcome.exit_code,
    )


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


def _of_the_run(outcome: Outcome, run: _Run) -> list[str]:
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


def _with_need(
    run: _Run, at_error: MemoryReport, error: OutOfMemory, say: Say
) -> MemoryReport:
    """The report of a run that ran out of memory: what it needs, what would fit."""
    say("Out of memory. Rehearsing once more on a card without limit, for the need.")
    again = replace(run, snapshot=None, is_quiet=True)
    capture = _capture_of(replace(again, total_bytes=UNLIMITED_BYTES), say)
    if capture is None:
        remedies = _expandable(again, say)
        return replace(
            at_error, fits=False, out_of_memory=replace(error, remedies=remedies)
        )
    needed = report_of(capture, run.subject)
    device_bytes = needed.peak.device_bytes
    remedies = ()
    if needed.peak.allocated_bytes + run.context_bytes < run.subject.gpu.total_bytes:
        remedies += _expandable(again, say)
    if run.subject.plan is not None:
        remedies += changes_that_fit(run.subject.plan, device_bytes)
    remedies += cards_that_hold(
        device_bytes, run.subject.gpu, run.subject.headroom_fraction
    )
    return replace(
        needed,
        fits=False,
        assumptions=(
            *needed.assumptions,
            "peak, components, phases and holders are those of a second rehearsal, on "
            "a card without limit",
        ),
        out_of_memory=replace(error, needed_bytes=device_bytes, remedies=remedies),
    )


def _expandable(run: _Run, say: Say) -> tuple[Remedy, ...]:
    """Whether segments that grow in place would have been enough."""
    settings = os.environ.get(ALLOCATOR_SETTINGS, "")
    if "expandable_segments" in settings:
        return ()
    settings = ",".join(filter(None, [settings, EXPANDABLE]))
    say(f"Rehearsing with {ALLOCATOR_SETTINGS}={settings}.")
    capture = _capture_of(replace(run, environment={ALLOCATOR_SETTINGS: settings}), say)
    if capture is None:
        return ()
    return (
        Remedy(
            change=f"{ALLOCATOR_SETTINGS}={settings}",
            basis="rehearsed",
            device_bytes=report_of(capture, run.subject).peak.device_bytes,
        ),
    )


def _capture_of(run: _Run, say: Say) -> Capture | None:
    """The capture of one more run; None if that comes to nothing either."""
    outcome, _ = _launch(run, say)
    try:
        capture = _chosen(outcome, run)
    except ProgramError:
        return None
    return None if out_of_memory_of(capture) else capture
