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
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from memplan.card import card_of, outside_allocator
from memplan.errors import PlanError, ProgramError
from memplan.hardware import custom_gpu, find_gpu
from memplan.plan import TrainingPlan
from memplan.rehearsal import Capture, Subject, out_of_memory_of, report_of
from memplan.remedies import cards_that_hold, changes_that_fit
from memplan.report import MemoryReport, OutOfMemory, Remedy
from memplan.requirements import check_requirements
from memplan.runner.command import find_command
from memplan.runner.launch import DEVICES_OF_A_NODE
from memplan.runner.training.refusals import check
from memplan.virtual_run import Say, VirtualRun, perform

UNLIMITED_BYTES = 2**42
"""A card of 4 TiB: no run needs more on one GPU."""
ALLOCATOR_SETTINGS = "PYTORCH_CUDA_ALLOC_CONF"
EXPANDABLE = "expandable_segments:True"


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
        run = VirtualRun(
            subject=Subject(
                gpu=gpu,
                plan=plan,
                headroom_fraction=plan.headroom_fraction,
                assumptions=(*basis, *_as_rank(rank, plan.num_gpus)),
            ),
            words=(
                *(sys.executable, "-m", "memplan.runner.training", str(file)),
                *("--steps", str(steps)),
            ),
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
        VirtualRun(
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
    """Refuse what cannot be run before anything is built."""
    if plan.torch is not None:
        raise PlanError(
            "A rehearsal runs the torch that is installed.",
            hint=f"--require 'torch=={plan.torch}.*' refuses any other.",
        )
    check(plan)


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


def _rehearse(run: VirtualRun, say: Say) -> MemoryReport:
    """Run, and where memory ends, find out what would have been needed."""
    capture, assumptions = perform(run, say)
    subject = run.subject
    subject = replace(subject, assumptions=(*subject.assumptions, *assumptions))
    report = report_of(capture, subject)
    error = out_of_memory_of(capture)
    if error is None:
        return report
    return _with_need(replace(run, subject=subject), report, error, say)


def _with_need(
    run: VirtualRun, at_error: MemoryReport, error: OutOfMemory, say: Say
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


def _expandable(run: VirtualRun, say: Say) -> tuple[Remedy, ...]:
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


def _capture_of(run: VirtualRun, say: Say) -> Capture | None:
    """The capture of one more run; None if that comes to nothing either."""
    try:
        capture, _ = perform(run, say)
    except ProgramError:
        return None
    return None if out_of_memory_of(capture) else capture
