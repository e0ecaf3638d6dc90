"""Real steps on the card at hand: a plan or a program in, what was measured out.

    report = profile(TrainingPlan(model="gpt2", per_device_train_batch_size=8))
    report = profile_program(["torchrun", "--nproc-per-node", "8", "train.py"])

It is the run of a rehearsal (`run.py`) without the virtual card, and some more steps
whose time is taken. Where the card turns out to be a virtual one all the same, the
report says that it was rehearsed, and has no times.
"""

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from memplan.errors import PlanError, ProgramError
from memplan.hardware import find_gpu
from memplan.models import Model
from memplan.models.workload import generation_of, lengths_of
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport
from memplan.runner.command import find_command
from memplan.runner.settings import STEADY_STEPS, WARMUP_STEPS
from memplan.runner.training.refusals import check
from memplan.running.card_at_hand import CardAtHand, card_at_hand
from memplan.running.rehearsal import Subject, out_of_memory_of
from memplan.running.requirements import check_requirements
from memplan.running.run import (
    Keep,
    Run,
    Say,
    allocator_environment,
    check_headroom,
    perform,
    profiled_of,
    training_program,
)

TIMED_STEPS = 10
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


class UnfinishedError(ProgramError):
    """The program failed after there was something to report."""

    def __init__(self, cause: ProgramError, report: MemoryReport) -> None:
        super().__init__(cause.message, hint=cause.hint, exit_code=cause.exit_code)
        self.report = report


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after there was something to report."""

    def __init__(self, report: MemoryReport) -> None:
        super().__init__()
        self.report = report


def profile(
    plan: TrainingPlan,
    *,
    ranks: int | None = None,
    rank: int = 0,
    steps: int = STEADY_STEPS,
    timed_steps: int = TIMED_STEPS,
    snapshot: Path | None = None,
    require: Sequence[str] = (),
    say: Say = lambda line: None,
    keep: Keep = lambda processes: None,
) -> MemoryReport:
    """Build a plan's model and train it on the card at hand.

    With `ranks` one card plays `rank` of so many; without, a plan of several GPUs needs
    them all. `say` is told what happens meanwhile, a line at a time; `keep` is given
    what each process saw, as a capture file keeps it.

    Raises:
        MemplanError: the plan cannot be run, or there is no card.
        UnfinishedError: the program failed; what was seen before is in it.
        Interrupted: by Ctrl-C, likewise.
    """
    _check_range(rank, ranks, steps, timed_steps)
    plan = _with_ranks(plan, ranks)
    generation = generation_of(plan, _check_plan(plan))
    check_requirements(sys.executable, require)
    here = card_at_hand(sys.executable)
    lines = _other_card(plan, here)
    for line in lines:
        say(line)
    is_played = _is_played(ranks)
    if plan.num_gpus > here.num_devices and not is_played:
        raise PlanError(
            f"The plan is of {plan.num_gpus} GPUs, and there is {here.num_devices}.",
            hint=f"--ranks {plan.num_gpus} measures one rank of them on one card.",
        )
    words = training_program(plan, _total(steps, timed_steps), watched=steps)
    if plan.num_gpus > 1 and not is_played:
        words = (words[0], *TORCHRUN, str(plan.num_gpus), *words[1:])
    return _profile(
        _run_on(
            here,
            subject=Subject(
                gpu=here.gpu,
                plan=_on(here, plan),
                headroom_fraction=plan.headroom_fraction,
                assumptions=(
                    *lengths_of(plan, generation),
                    *lines,
                    *_as_rank(rank, ranks),
                ),
            ),
            words=words,
            interpreter=sys.executable,
            rank=rank,
            ranks=ranks,
            steps=steps,
            timed_steps=timed_steps,
            snapshot=snapshot,
            environment=allocator_environment(plan.alloc_conf),
        ),
        say,
        keep,
    )


def profile_program(
    command: Sequence[str],
    *,
    ranks: int | None = None,
    rank: int = 0,
    steps: int = STEADY_STEPS,
    timed_steps: int = TIMED_STEPS,
    snapshot: Path | None = None,
    require: Sequence[str] = (),
    headroom_fraction: float = 0.05,
    say: Say = lambda line: None,
    keep: Keep = lambda processes: None,
) -> MemoryReport:
    """Run a program, unchanged, on the card at hand, until it has made its steps.

    With `ranks` one card plays `rank` of so many; without, the program starts what it
    starts, every rank is seen, and the report is that of the most loaded.

    Raises:
        MemplanError: it cannot be started, makes no training step, or there is no card.
        UnfinishedError: it failed; what was seen before is in it.
        Interrupted: by Ctrl-C, likewise.
    """
    _check_range(rank, ranks, steps, timed_steps)
    check_headroom(headroom_fraction)
    found = find_command(command)
    check_requirements(found.interpreter, require)
    here = card_at_hand(found.interpreter)
    return _profile(
        _run_on(
            here,
            subject=Subject(
                gpu=here.gpu,
                command=tuple(command),
                headroom_fraction=headroom_fraction,
                assumptions=_as_rank(rank, ranks),
            ),
            words=found.words,
            interpreter=found.interpreter,
            rank=rank,
            ranks=ranks,
            steps=steps,
            timed_steps=timed_steps,
            snapshot=snapshot,
        ),
        say,
        keep,
    )


def _is_played(ranks: int | None) -> bool:
    """Whether one card plays one rank of several."""
    return ranks is not None and ranks > 1


def _run_on(here: CardAtHand, *, rank: int, ranks: int | None, **how: Any) -> Run:
    """A run on the card at hand, as one rank of many where that is asked."""
    is_played = _is_played(ranks)
    return Run(
        cards=None,
        is_virtual=here.is_virtual,
        rank=rank if is_played else None,
        world_size=ranks if is_played else None,
        **how,
    )


def _profile(run: Run, say: Say, keep: Keep) -> MemoryReport:
    """Run; of what failed or was interrupted keep what there is."""
    performed = perform(run, say)
    seen = profiled_of(performed, run.subject)
    report = seen.report
    error = out_of_memory_of(performed.chosen)
    if error is not None:
        error = replace(error, were_changes_tried=False)
        report = replace(report, fits=False, out_of_memory=error)
    if performed.is_interrupted:
        line = f"interrupted after {len(performed.chosen['steps'])} watched steps"
        report = replace(report, assumptions=(*report.assumptions, line))
    keep(seen.processes)
    if performed.is_interrupted:
        raise Interrupted(report)
    if performed.failure is not None:
        raise UnfinishedError(performed.failure, report)
    return report


def _check_plan(plan: TrainingPlan) -> Model:
    """The model of a plan; what cannot be measured is refused before anything is."""
    if plan.torch is not None:
        raise PlanError(
            "What is measured is the torch that is installed.",
            hint=f"--require 'torch=={plan.torch}.*' refuses any other.",
        )
    for name in ("gpu_memory_bytes", "context_bytes"):
        if getattr(plan, name) is not None:
            flag = name.replace("_bytes", "").replace("_", "-")
            flag = "context-memory" if flag == "context" else flag
            raise PlanError(
                f"--{flag} is for a card that is not at hand.",
                hint="Leave it out: what this card has is measured.",
            )
    return check(plan)


def _with_ranks(plan: TrainingPlan, ranks: int | None) -> TrainingPlan:
    """The plan over so many GPUs, if it does not say how many by itself."""
    if ranks is None or plan.num_gpus == ranks:
        return plan
    if plan.num_gpus != 1:
        raise PlanError(
            f"The plan is of {plan.num_gpus} GPUs, and one of {ranks} ranks is asked.",
            hint=f"Give one of them: --ranks {plan.num_gpus}.",
        )
    return replace(plan, num_gpus=ranks)


def _check_range(rank: int, ranks: int | None, steps: int, timed_steps: int) -> None:
    if ranks is not None and ranks < 1:
        raise PlanError(f"There are no {ranks} ranks.", hint="Pass --ranks 8.")
    if not 0 <= rank < (ranks or 1):
        raise PlanError(
            f"There is no rank {rank} of {ranks or 1}.",
            hint=f"Ranks are 0 to {ranks - 1}."
            if ranks and ranks > 1
            else "Say of how many with --ranks.",
        )
    if steps < 1:
        raise PlanError(f"{steps} steps show nothing.", hint="Pass --steps 3.")
    if timed_steps < 0:
        raise PlanError(
            f"{timed_steps} steps cannot be timed.", hint="--timed-steps 0 times none."
        )


def _total(steps: int, timed_steps: int) -> int:
    """Watched, warmed up, timed, and one whose operations are counted."""
    return steps + (WARMUP_STEPS + timed_steps + 1 if timed_steps else 0)


def _other_card(plan: TrainingPlan, here: CardAtHand) -> tuple[str, ...]:
    """A plan may name a card; that of the default is no choice of anybody's."""
    default = next(f.default for f in fields(TrainingPlan) if f.name == "gpu")
    if plan.gpu == default or find_gpu(plan.gpu).slug == here.gpu.slug:
        return ()
    return (
        f"the plan names {find_gpu(plan.gpu).slug}; the report is about the card at "
        f"hand, {here.gpu.slug}",
    )


def _on(here: CardAtHand, plan: TrainingPlan) -> TrainingPlan:
    """The plan with the card that it ran on: an estimate can be asked of the same."""
    if here.is_catalogued:
        return replace(plan, gpu=here.gpu.slug)
    return replace(plan, gpu_memory_bytes=here.gpu.total_bytes)


def _as_rank(rank: int, ranks: int | None) -> tuple[str, ...]:
    if ranks is None or ranks == 1:
        return ()
    return (
        f"one card plays rank {rank} of {ranks}: collectives do nothing, NCCL's "
        "buffers are not in it",
    )
