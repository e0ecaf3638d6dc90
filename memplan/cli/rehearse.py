"""`memplan rehearse`: a plan or a program, on a virtual card."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from memplan.cli.output import (
    ForceOption,
    Format,
    FormatOption,
    JsonOption,
    OutputOption,
    check_output,
    chosen,
    emit_report,
)
from memplan.cli.plan_flags import given, takes_plan

RUN = "The rehearsal"
CARD_FIELDS = (
    "gpu",
    "gpu_memory_bytes",
    "context_bytes",
    "headroom_fraction",
    "num_gpus",
)
"""The flags that a program leaves open; the rest of a plan it decides itself."""


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


@takes_plan
def rehearse(
    context: typer.Context,
    rank: Annotated[
        int, typer.Option(help="Which of --num-gpus to play.", rich_help_panel=RUN)
    ] = 0,
    steps: Annotated[
        int, typer.Option(help="Training steps to run.", rich_help_panel=RUN)
    ] = 3,
    snapshot: Annotated[
        Path | None,
        typer.Option(
            help="Write torch's memory snapshot of the steady step here.",
            rich_help_panel=RUN,
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="Refuse other versions, like 'torch==2.12.*'. Repeatable.",
            rich_help_panel=RUN,
        ),
    ] = None,
    output_format: FormatOption = Format.HUMAN,
    wants_json: JsonOption = False,
    output: OutputOption = None,
    force: ForceOption = False,
    **flags: Any,
) -> None:
    """Run real PyTorch on a virtual card: a model, or `-- python train.py`.

    A program after `--` runs unchanged, and what it prints goes to stderr. Exit code
    1: it does not fit.
    """
    from memplan.errors import PlanError
    from memplan.rehearse import rehearse as rehearse_plan
    from memplan.rehearse import rehearse_program

    fields = given(flags)
    if fields.get("gpu") == "all":
        raise PlanError(
            "A rehearsal is on one card.",
            hint="`memplan estimate --gpu all` compares them.",
        )
    for file in (output, snapshot):
        check_output(file, force=force)
    common: dict[str, Any] = {
        "rank": rank,
        "steps": steps,
        "snapshot": snapshot,
        "require": require or (),
        "say": _say,
    }
    if context.obj is None:
        report = rehearse_plan(_plan(fields, context.args), **common)
    else:
        _check_program_flags(fields)
        report = rehearse_program(context.obj, **fields, **common)
    emit_report(report, chosen(output_format, wants_json), output, force)
    if not report.fits:
        raise typer.Exit(1)


def _plan(fields: dict[str, Any], more_words: list[str]) -> Any:
    """The plan of the flags, unless the model is a command that lacks its `--`."""
    from memplan.errors import CommandError
    from memplan.plan import TrainingPlan

    if "model" not in fields and "parameters" not in fields:
        raise CommandError(
            "There is nothing to rehearse.",
            hint="Name a model of `memplan models`, or a command: -- python train.py",
        )
    model = str(fields.get("model", ""))
    if more_words or model.endswith((".py", ".sh")):
        words = [model, *more_words]
        if model.endswith(".py"):
            words.insert(0, "python")
        raise CommandError(
            f"{' '.join([model, *more_words])} is no model.",
            hint=f"Put -- before a command: memplan rehearse -- {' '.join(words)}",
        )
    return TrainingPlan(**fields)


def _check_program_flags(fields: dict[str, Any]) -> None:
    from memplan.errors import PlanError

    for name in fields:
        if name not in CARD_FIELDS:
            raise PlanError(
                "A command decides its model and its step by itself: "
                f"{name.replace('_', '-')} belongs to a plan.",
                hint="Say it in the command, after --, as the program takes it.",
            )


def _say(line: str) -> None:
    typer.echo(line, err=True)
