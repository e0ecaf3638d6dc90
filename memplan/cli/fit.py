"""`memplan fit`: the largest value that fits, and what would raise it."""

import inspect
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from memplan.cli.output import (
    ForceOption,
    Format,
    JsonOption,
    as_json,
    check_output,
    chosen,
    emit,
)
from memplan.cli.plan_flags import asked, takes_plan
from memplan.cli.program import check_one_card, plan_of, say
from memplan.cli.values import parse_targets
from memplan.errors import CommandError

if TYPE_CHECKING:
    from memplan.fit import Fit

SEARCH = "The search"
FILES = "The files"


class By(StrEnum):
    """Who looks at where fitting ends."""

    ESTIMATE = "estimate"
    REHEARSE = "rehearse"
    PROFILE = "profile"


@takes_plan
def fit(
    maximized: Annotated[
        str,
        typer.Option(
            "--max",
            metavar="FIELD",
            help="What to make as large as fits: per-device-train-batch-size, seq-len, "
            "images-per-sample, lora-rank, image-size, ...",
            rich_help_panel=SEARCH,
        ),
    ],
    tricks: Annotated[
        Any,
        typer.Option(
            help="What may be changed to raise it, as `memplan compare` takes them.  "
            "(default: all)",
            parser=parse_targets,
            rich_help_panel=SEARCH,
        ),
    ] = None,
    by: Annotated[
        By,
        typer.Option(
            help="Who confirms the largest value and the next: the closed form, the "
            "virtual card, or the card at hand.",
            rich_help_panel=SEARCH,
        ),
    ] = By.ESTIMATE,
    up_to: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Look at no larger values.  (default: 1048576)",
            show_default=False,
            rich_help_panel=SEARCH,
        ),
    ] = None,
    patch: Annotated[
        Path | None,
        typer.Option(
            help="Write the change of the files of --config here, as a patch.",
            rich_help_panel=FILES,
        ),
    ] = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write",
            help="Change the files of --config themselves.",
            rich_help_panel=FILES,
        ),
    ] = False,
    output_format: Annotated[
        Format, typer.Option("--format", help="quiet prints only the value.")
    ] = Format.HUMAN,
    wants_json: JsonOption = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the JSON here.")
    ] = None,
    force: ForceOption = False,
    **flags: Any,
) -> None:
    """Find the largest micro-batch, length or rank that fits, and what would raise it.

    Exit code 0: something fits; 1: nothing does.
    """
    from memplan.fit import MOST, as_dict
    from memplan.fit import fit as run
    from memplan.tricks.catalogue import ALL

    of_user = asked(flags)
    check_one_card(of_user.fields, "search")
    plan = plan_of(of_user.fields, [], "fit")
    if (patch is not None or write) and not of_user.files:
        raise CommandError(
            "There are no files to change.", hint="Name them with --config."
        )
    for file in (output, patch):
        check_output(file, force=force)
    found = run(
        plan,
        field_of(maximized),
        tricks=tricks or (ALL,),
        by=by.value,
        most=up_to or MOST,
        asked=of_user,
        say=say,
    )
    if output is not None:
        emit(as_json(as_dict(found)), output, force=force)
    match chosen(output_format, wants_json):
        case Format.JSON if output is None:
            emit(as_json(as_dict(found)))
        case Format.QUIET:
            emit("-" if found.value is None else str(found.value))
        case Format.HUMAN:
            from memplan.views.fit import show_fit

            show_fit(found)
    _change_files(found, patch, write=write, force=force)
    if found.value is None:
        raise typer.Exit(1)


def _change_files(
    found: "Fit", patch: Path | None, *, write: bool, force: bool
) -> None:
    """Put the largest value into the user's files, or write that as a patch of them."""
    if patch is None and not write:
        return
    if found.rewriting is None:
        say("No file is changed: nothing fits.")
        return
    if patch is not None:
        emit(found.rewriting.diff, patch, force=force)
    if write:
        for change in found.rewriting.changes:
            change.write()
            say(f"{change.file} changed")
    if not found.rewriting.changes:
        say("The files stay as they are.")
    for words in found.rewriting.unsaid_words:
        say(f"no file has a key for {words}")


def field_of(name: str) -> str:
    """The field that a flag is of, by any of the flag's names; else what was typed."""
    words = name.strip().removeprefix("--").replace("_", "-")
    for field, parameter in inspect.signature(fit).parameters.items():
        names = {f"--{field}".replace("_", "-")}
        for option in get_args(parameter.annotation)[1:]:
            names.update(getattr(option, "param_decls", None) or ())
        if f"--{words}" in names:
            return field
    return name
