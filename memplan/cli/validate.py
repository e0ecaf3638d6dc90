"""`memplan validate`: records of measurements against today's predictions."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memplan.cli.output import (
    ForceOption,
    Format,
    JsonOption,
    OutputOption,
    as_json,
    check_output,
    chosen,
    emit,
)
from memplan.cli.sweeps import ExecutorOption, JobsOption, sweeping
from memplan.cli.values import check_limit, parse_fraction

if TYPE_CHECKING:
    from memplan.validation.records import Found
    from memplan.validation.validate import Validation


class Against(StrEnum):
    """What predictions are held against."""

    MEASURED = "measured"
    REHEARSED = "rehearsed"


def validate(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of records, and all below.  (default: memplan's own)",
            show_default=False,
        ),
    ] = None,
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse", help="Rehearse every plan too: seconds to minutes."),
    ] = False,
    kept: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            help="Folder of rehearsals already made.  (default: the user's cache)",
            show_default=False,
        ),
    ] = None,
    jobs: JobsOption = None,
    executor: ExecutorOption = "local",
    against: Annotated[
        Against,
        typer.Option(
            "--against",
            help="rehearsed takes records of the virtual card, and no others: those "
            "of the grid, where no folder is named.",
        ),
    ] = Against.MEASURED,
    fail_over: Annotated[
        Any,
        typer.Option(
            "--fail-over",
            help="Leave with 1 where a prediction of the allocated peak is too low by "
            "more than this, like 5%, or a run that ran out of memory was said to fit; "
            "with 2 where there is nothing to tell by.",
            parser=parse_fraction,
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--write",
            help="Write the page of all this, Markdown with pictures, here; what "
            "is there is overwritten.",
        ),
    ] = None,
    output_format: Annotated[
        Format,
        typer.Option("--format", help="quiet prints only the worst under-estimate."),
    ] = Format.HUMAN,
    wants_json: JsonOption = False,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Hold measured runs against what memplan says of their plans today."""
    from memplan.comparing.engines import Rehearsals
    from memplan.validation.validate import validate as run
    from memplan.views.validation import as_data, show_validation

    check_limit(fail_over)
    check_output(output, force=force)
    check_output(page, force=True)
    rehearses = None if rehearse else "--rehearse"
    with sweeping(executor, jobs, rehearses=rehearses) as workers:
        validation = run(
            _found(folders or (), against),
            rehearse=Rehearsals(jobs, kept, workers).look if rehearse else None,
            against=against.value,
            say=lambda line: typer.echo(line, err=True),
        )
    if page is not None:
        _write(validation, page, has_grid=not folders and against is Against.MEASURED)
    if output is not None:
        emit(as_json(as_data(validation)), output, force=force)
    match chosen(output_format, wants_json):
        case Format.JSON if output is None:
            emit(as_json(as_data(validation)))
        case Format.QUIET:
            emit(f"{validation.lowest_fraction:.6f}" if validation.cases else "-")
        case Format.HUMAN:
            show_validation(validation)
    if fail_over is not None:
        _gate(validation, fail_over)


def _found(folders: "list[Path] | tuple[()]", against: Against) -> "Found":
    """The records of the folders that were named, else memplan's own."""
    from memplan.validation.grid import rehearsed
    from memplan.validation.records import Found, measured_folder, records_under

    if not folders and against is Against.REHEARSED:
        return rehearsed()
    if not folders:
        own = measured_folder()
        return records_under(own) if own.is_dir() else Found()
    found = [records_under(folder) for folder in folders]
    return Found(
        records=tuple(record for one in found for record in one.records),
        broken=tuple(file for one in found for file in one.broken),
    )


def _write(validation: "Validation", page: Path, *, has_grid: bool) -> None:
    """The page, and its pictures beside it; of memplan's own records with the grid."""
    from memplan.validation.grid import rehearsed
    from memplan.validation.validate import validate as run
    from memplan.views.accuracy_page import write_page

    grid = run(rehearsed(), against="rehearsed") if has_grid else None
    for line in write_page(validation, page, grid):
        typer.echo(line, err=True)


def _gate(validation: "Validation", limit: float) -> None:
    """Leave with 1 where predictions are too low; say which is the worst on stderr."""
    from memplan.errors import RecordError
    from memplan.views.validation import NOTHING, case_line

    if not validation.cases:
        nothing = NOTHING[validation.reference].partition(":")[0].rstrip(".")
        raise RecordError(
            f"{nothing}, and --fail-over cannot tell.",
            hint="Name a folder that scripts/measure wrote, or leave --fail-over out.",
        )
    beyond = validation.beyond(limit)
    if not beyond:
        return
    worst = case_line(beyond[0], validation.reference)
    typer.echo(
        f"{len(beyond)} of {len(validation.cases)} predictions are too low by more "
        f"than the {100 * limit:g}% that --fail-over allows; the worst: {worst}",
        err=True,
    )
    raise typer.Exit(1)
