"""`memplan check`: an exit code for CI."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from memplan.cli.output import (
    ForceOption,
    Format,
    JsonOption,
    check_output,
    chosen,
    emit,
)
from memplan.cli.plan_flags import asked, takes_plan
from memplan.cli.program import check_one_card, plan_of, say
from memplan.errors import CommandError

CHECK = "The check"


class By(StrEnum):
    """Who looks at the plan."""

    ESTIMATE = "estimate"
    REHEARSE = "rehearse"


@takes_plan
def check(
    by: Annotated[
        By,
        typer.Option(
            help="Who looks: the closed form, or PyTorch on the virtual card.",
            rich_help_panel=CHECK,
        ),
    ] = By.ESTIMATE,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="What fits narrowly does not fit; with anything unknown, cannot say.",
            rich_help_panel=CHECK,
        ),
    ] = False,
    lower_bound: Annotated[
        bool,
        typer.Option(
            "--lower-bound",
            help="Fail only on what certainly cannot fit.",
            rich_help_panel=CHECK,
        ),
    ] = False,
    output_format: Annotated[
        Format,
        typer.Option("--format", help="quiet: fits, narrow, no or unknown."),
    ] = Format.HUMAN,
    wants_json: JsonOption = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the JSON here.")
    ] = None,
    force: ForceOption = False,
    **flags: Any,
) -> None:
    """Tell by the exit code whether a plan fits: 0 fits, 1 does not, 2 cannot say."""
    from memplan.check import check as run
    from memplan.check import to_json
    from memplan.views.check import WORDS, show_check

    of_user = asked(flags)
    fields = of_user.fields
    check_one_card(fields, "check")
    if "model" not in fields and "parameters" not in fields:
        raise CommandError(
            "There is nothing to check.", hint="Name a model of `memplan models`."
        )
    plan = plan_of(fields, [], "check")
    check_output(output, force=force)
    found = run(
        plan,
        by=by.value,
        strict=strict,
        lower_bound=lower_bound,
        not_read=of_user.not_read,
    )
    for doubt in found.doubts:
        say(f"warning: {doubt}")
    if output is not None:
        emit(to_json(found), output, force=force)
    match chosen(output_format, wants_json):
        case Format.JSON if output is None:
            emit(to_json(found))
        case Format.QUIET:
            emit(WORDS[found.verdict])
        case Format.HUMAN:
            show_check(found)
    raise typer.Exit(found.exit_code)
