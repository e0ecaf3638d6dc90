"""`python -m memplan.runner.training PLAN [--steps N]`.

The plan is JSON, or a file of it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from memplan.errors import MemplanError, PlanError
from memplan.models.workload import generation_of
from memplan.plan import TrainingPlan
from memplan.runner.training.garbage import importing
from memplan.runner.training.refusals import check
from memplan.runner.training.turn import wait_for_turn


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m memplan.runner.training")
    parser.add_argument("plan", help="A training plan as JSON, or a file of it.")
    parser.add_argument("--steps", type=int, default=3, help="Optimizer steps to take.")
    parser.add_argument("--watched-steps", type=int, help="The first, by default all.")
    asked = parser.parse_args(arguments)
    try:
        run(read_plan(asked.plan), asked.steps, asked.watched_steps)
    except MemplanError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def read_plan(asked: str) -> TrainingPlan:
    """The plan that a text is, or that the file of that name holds.

    Raises:
        PlanError: it is none.
    """
    from pydantic import TypeAdapter, ValidationError

    is_text = asked.lstrip().startswith("{")
    name = "The text" if is_text else asked
    try:
        text = asked if is_text else Path(asked).read_bytes()
        return TypeAdapter(TrainingPlan).validate_json(text)
    except OSError as error:
        raise PlanError(
            f"{name} cannot be read: {error}.", hint="Give the path of a plan as JSON."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise PlanError(
            f"{name} holds no training plan: {key} {first['msg']}.",
            hint="Its keys are the fields of memplan.TrainingPlan.",
        ) from error


def run(plan: TrainingPlan, steps: int, watched_steps: int | None = None) -> None:
    """Check the plan, then build the model and train or generate.

    Raises:
        MemplanError: the plan cannot be run here.
    """
    model = check(plan)
    plan = generation_of(plan, model)

    with importing():
        from memplan.runner.training.assemble import assemble, build
        from memplan.runner.training.attention import attention_kernel
        from memplan.runner.training.generate import generate
        from memplan.runner.training.model import import_model
        from memplan.runner.training.parallel import check_world, make_accelerator
        from memplan.runner.training.precision import set_matmul_precision
        from memplan.runner.training.step import train

        import_model(model)

    wait_for_turn()
    check_world(plan)
    set_matmul_precision(plan)
    accelerator = make_accelerator(plan)
    module = build(plan, model, accelerator.device)
    with attention_kernel(plan):
        if plan.workload == "generate":
            generate(plan, model, module, accelerator.device)
        else:
            ready = assemble(plan, model, accelerator, module)
            train(ready, steps, plan.gradient_accumulation_steps, watched_steps)


def _say_shortly(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Where memory ended is for the report; PyTorch's own sentence is enough here."""
    if kind.__name__ == "OutOfMemoryError":
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if __name__ == "__main__":
    sys.excepthook = _say_shortly
    sys.exit(main())
