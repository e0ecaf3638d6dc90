"""The real PyTorch on a virtual card: a plan or a program in, a memory report out.

    report = rehearse(TrainingPlan(model="llama-2-7b", gpu="a100-80gb"))
    report = rehearse_program(["python", "train.py"], gpu="rtx-4090")

A plan becomes a program too (`memplan.runner.training`): there is one way of running,
the environment of the card, the launcher with the runner inside, the captures, the
report. Out of memory is a result (`shortage.py`).
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from memplan.errors import MemplanError, PlanError
from memplan.estimate import need_seen_from
from memplan.estimating.card import card_of, outside_allocator
from memplan.estimating.savings import savings_of
from memplan.hardware import Gpu, custom_gpu, find_gpu
from memplan.models import Model
from memplan.models.workload import generation_of, lengths_of
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport
from memplan.runner.command import find_command
from memplan.runner.settings import DEVICES_OF_A_NODE, STEADY_STEPS
from memplan.runner.training.refusals import check
from memplan.running.rehearsal import Subject, out_of_memory_of
from memplan.running.requirements import check_requirements
from memplan.running.run import (
    Keep,
    Run,
    Say,
    VirtualCards,
    allocator_environment,
    check_headroom,
    perform,
    profiled_of,
    training_program,
)
from memplan.running.shortage import with_need
from memplan.units import format_gib


def rehearse(
    plan: TrainingPlan,
    *,
    rank: int = 0,
    steps: int = STEADY_STEPS,
    snapshot: Path | None = None,
    require: Sequence[str] = (),
    tries_changes: bool = True,
    say: Say = lambda line: None,
    keep: Keep = lambda processes: None,
) -> MemoryReport:
    """Build a plan's model and train it on the virtual card, as one of its ranks.

    `say` is told what happens meanwhile, a line at a time; `keep` is given what each
    process saw, as a capture file keeps it. Where memory ends, `tries_changes` finds
    out which changes would have fitted.

    Raises:
        MemplanError: the plan cannot be rehearsed, or not on this machine.
    """
    run = generation_of(plan, _check_plan(plan))
    _check_range(rank, plan.num_gpus, steps)
    gpu = card_of(plan)
    context, basis = outside_allocator(gpu, plan.context_bytes, plan.num_gpus)
    _check_room(gpu, context)
    check_requirements(sys.executable, require)
    rehearsal = Run(
        subject=Subject(
            gpu=gpu,
            plan=plan,
            headroom_fraction=plan.headroom_fraction,
            assumptions=(
                *lengths_of(plan, run),
                *basis,
                *_as_rank(rank, plan.num_gpus),
            ),
        ),
        words=training_program(plan, steps),
        interpreter=sys.executable,
        cards=VirtualCards(
            num_devices=min(plan.num_gpus, DEVICES_OF_A_NODE), context_bytes=context
        ),
        rank=rank if plan.num_gpus > 1 else None,
        world_size=plan.num_gpus if plan.num_gpus > 1 else None,
        steps=steps,
        snapshot=snapshot,
        environment=allocator_environment(plan.alloc_conf),
    )
    return _with_savings(plan, _rehearse(rehearsal, tries_changes, say, keep))


def rehearse_program(
    command: Sequence[str],
    *,
    gpu: str = "h100-80gb",
    gpu_memory_bytes: int | None = None,
    context_bytes: int | None = None,
    num_gpus: int | None = None,
    rank: int = 0,
    steps: int = STEADY_STEPS,
    snapshot: Path | None = None,
    require: Sequence[str] = (),
    headroom_fraction: float = 0.05,
    tries_changes: bool = True,
    say: Say = lambda line: None,
    keep: Keep = lambda processes: None,
) -> MemoryReport:
    """Run a program, unchanged, on the virtual card.

    With `num_gpus` one process plays `rank` of so many; without, the program starts
    what it starts, and the report is that of the process that holds most.

    Raises:
        MemplanError: it cannot be started, fails by itself, or makes no training step.
    """
    _check_range(rank, 1 if num_gpus is None else num_gpus, steps)
    check_headroom(headroom_fraction)
    found = find_command(command)
    card = find_gpu(gpu)
    if gpu_memory_bytes is not None:
        if gpu_memory_bytes <= 0:
            raise PlanError("A card needs memory.", hint="Write it like 24GiB.")
        card = custom_gpu(card, gpu_memory_bytes)
    num_ranks = num_gpus or found.num_processes
    context, basis = outside_allocator(card, context_bytes, num_ranks)
    _check_room(card, context)
    check_requirements(found.interpreter, require)
    return _rehearse(
        Run(
            subject=Subject(
                gpu=card,
                command=tuple(command),
                headroom_fraction=headroom_fraction,
                assumptions=(*basis, *_as_rank(rank, num_gpus or 1)),
            ),
            words=found.words,
            interpreter=found.interpreter,
            cards=VirtualCards(
                num_devices=min(num_ranks, DEVICES_OF_A_NODE), context_bytes=context
            ),
            rank=None if num_gpus in (None, 1) else rank,
            world_size=None if num_gpus == 1 else num_gpus,
            steps=steps,
            snapshot=snapshot,
        ),
        tries_changes,
        say,
        keep,
    )


def _check_plan(plan: TrainingPlan) -> Model:
    """The model of a plan; what cannot be run is refused before anything is built."""
    if plan.torch is not None:
        raise PlanError(
            "A rehearsal runs the torch that is installed.",
            hint=f"--require 'torch=={plan.torch}.*' refuses any other.",
        )
    return check(plan)


def _check_range(rank: int, num_gpus: int, steps: int) -> None:
    if num_gpus < 1:
        raise PlanError(
            f"Nothing runs on {num_gpus} GPUs.", hint="Leave --num-gpus out for one."
        )
    if not 0 <= rank < num_gpus:
        ranks = f"Ranks are 0 to {num_gpus - 1}."
        raise PlanError(
            f"There is no rank {rank} of {num_gpus}.",
            hint=ranks if num_gpus > 1 else "Say of how many with --num-gpus.",
        )
    if steps < 1:
        raise PlanError(
            f"A rehearsal of {steps} steps shows nothing.", hint="Pass --steps 3."
        )


def _check_room(gpu: Gpu, context_bytes: int) -> None:
    """A card that CUDA alone would fill is a size without its unit."""
    if gpu.total_bytes <= context_bytes:
        raise PlanError(
            f"CUDA takes {format_gib(context_bytes)}, and the card has "
            f"{format_gib(gpu.total_bytes)}.",
            hint="Write a size with its unit: --gpu-memory 24GiB.",
        )


def _as_rank(rank: int, num_gpus: int) -> tuple[str, ...]:
    if num_gpus == 1:
        return ()
    return (
        f"one process plays rank {rank} of {num_gpus}: collectives take their memory "
        "and bring no values, object broadcasts from other ranks leave what is there",
    )


def _rehearse(run: Run, tries_changes: bool, say: Say, keep: Keep) -> MemoryReport:
    """Run, and where memory ends, find out what would have been needed."""
    performed = perform(run, say)
    if performed.is_interrupted:
        raise KeyboardInterrupt
    if performed.failure is not None:
        raise performed.failure
    seen = profiled_of(performed, run.subject)
    error = out_of_memory_of(performed.chosen)
    if error is not None:
        lines = (*run.subject.assumptions, *performed.assumptions)
        subject = replace(run.subject, assumptions=lines)
        run = replace(run, subject=subject)
        seen = with_need(run, seen, error, say, tries_changes=tries_changes)
    keep(seen.processes)
    return seen.report


def _with_savings(plan: TrainingPlan, report: MemoryReport) -> MemoryReport:
    """Tricks of a generation: estimated, and shifted by what its estimate was off."""
    if not plan.generates:
        return report
    device_bytes = report.peak.device_bytes
    try:
        need = need_seen_from(plan, device_bytes)
    except MemplanError:  # a model that can be run, but has no formula
        return report
    return replace(report, savings=savings_of(plan, device_bytes, need))
