"""What `rehearse` and `profile` share: a plan by its flags, or a program after `--`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

RUN = "The run"

RankOption = Annotated[
    int,
    typer.Option(help="Which of several ranks to play.", rich_help_panel=RUN),
]
StepsOption = Annotated[
    int,
    typer.Option(
        help="Training steps to run and to watch the memory of.", rich_help_panel=RUN
    ),
]
SnapshotOption = Annotated[
    Path | None,
    typer.Option(
        help="Write torch's memory snapshot of the steady step here.",
        rich_help_panel=RUN,
    ),
]
RequireOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Refuse other versions, like 'torch==2.12.*'. Repeatable.",
        rich_help_panel=RUN,
    ),
]
CaptureOption = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="Write a capture here (FILE.mplan), or by any other name the JSON report.",
    ),
]


class WithProgram(TyperCommand):
    """A verb that leaves what follows `--` alone: it is the user's own command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the command in the context's object; None where there is no `--`."""
        ctx.obj = None
        if "--" in args:
            split = args.index("--")
            ctx.obj = tuple(args[split + 1 :])
            args = args[:split]
        return super().parse_args(ctx, args)


def plan_of(fields: dict[str, Any], more_words: list[str], verb: str) -> Any:
    """The plan of the flags, unless the model is a command that lacks its `--`."""
    from memplan.errors import CommandError
    from memplan.plan import TrainingPlan

    if "model" not in fields and "parameters" not in fields:
        raise CommandError(
            f"There is nothing to {verb}.",
            hint="Name a model of `memplan models`, or a command: -- python train.py",
        )
    model = str(fields.get("model", ""))
    if more_words or model.endswith((".py", ".sh")):
        words = [model, *more_words]
        if model.endswith(".py"):
            words.insert(0, "python")
        raise CommandError(
            f"{' '.join([model, *more_words])} is no model.",
            hint=f"Put -- before a command: memplan {verb} -- {' '.join(words)}",
        )
    return TrainingPlan(**fields)


def check_program_flags(fields: dict[str, Any], allowed: tuple[str, ...]) -> None:
    """A program leaves only some fields of a plan open."""
    from memplan.errors import PlanError

    for name in fields:
        if name not in allowed:
            raise PlanError(
                "A command decides its model and its step by itself: "
                f"{name.replace('_', '-')} belongs to a plan.",
                hint="Say it in the command, after --, as the program takes it.",
            )


def check_one_card(fields: dict[str, Any], run: str) -> None:
    """`--gpu all` is for formulas."""
    from memplan.errors import PlanError

    if fields.get("gpu") == "all":
        raise PlanError(
            f"A {run} is on one card.",
            hint="`memplan estimate --gpu all` compares them.",
        )


def say(line: str) -> None:
    """Beside the result, which has stdout for itself."""
    typer.echo(line, err=True)
