"""`memplan report`: any captures, reports and comparisons as one page."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memplan.cli.output import ForceOption, RedactOption, as_json, check_output, emit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memplan.views.page.inputs import Input
    from memplan.views.page.parts import Page


class Format(StrEnum):
    """What the page is written as."""

    HTML = "html"
    MD = "md"
    CSV = "csv"
    JSON = "json"


def report(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Captures (.mplan), JSON reports, JSON comparisons.",
        ),
    ],
    output_format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="html: one file, with plots; md, csv and json go to stdout.  "
            "(default: what -o ends in, else html)",
            show_default=False,
        ),
    ] = None,
    wants_json: Annotated[
        bool, typer.Option("--json", help="The same as --format json.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Write here; HTML else beside the first file, under its name.",
        ),
    ] = None,
    force: ForceOption = False,
    png: Annotated[
        Path | None,
        typer.Option(
            "--png", metavar="FOLDER", help="Write each plot there, as PNG, too."
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="The heading, in place of the run.")] = "",
    redact: RedactOption = False,
) -> None:
    """Make one page of reports: verdict, plots with their tables, commands.

    The HTML is one file that works offline and asks nobody for anything.
    """
    from memplan.views.page.content import page_of
    from memplan.views.page.inputs import read_inputs, redacted

    wanted = Format.JSON if wants_json else output_format or format_of(output)
    if wanted is Format.HTML and output is None:
        output = files[0].with_suffix(".html")
    check_output(output, force=force)
    inputs = read_inputs(files)
    if redact:
        inputs = tuple(map(redacted, inputs))
    page = page_of(inputs, title)
    if png is not None:
        _write_pictures(page, png, force)
    emit(written(page, inputs, wanted), output, force=force)
    if output is not None:
        typer.echo(f"{output}: {page.title}", err=True)


def format_of(output: Path | None) -> Format:
    """What the name of the output ends in."""
    ending = "" if output is None else output.suffix.removeprefix(".").lower()
    return Format(ending) if ending in set(Format) else Format.HTML


def written(page: "Page", inputs: "Sequence[Input]", wanted: Format) -> str:
    from memplan.views.page.data import as_data

    match wanted:
        case Format.HTML:
            from memplan.views.page.html import as_html

            return as_html(page, as_data(inputs))
        case Format.MD:
            from memplan.views.page.markdown import as_markdown

            return as_markdown(page)
        case Format.CSV:
            from memplan.views.page.sheet import as_csv

            return as_csv(inputs)
        case Format.JSON:
            return as_json(as_data(inputs))


def _write_pictures(page: "Page", folder: Path, force: bool) -> None:
    """Each plot as a file of its name; all are drawn before one is written."""
    from memplan.errors import MemplanError
    from memplan.files import whole_file
    from memplan.views.page.png import pictures

    named = [(folder / f"{plot.name}.png") for plot in page.plots]
    for file in named:
        if folder.is_dir():
            check_output(file, force=force)
    drawn: dict[str, bytes] = dict(pictures(page))
    try:
        folder.mkdir(exist_ok=True)
        for name, content in drawn.items():
            with whole_file(folder / name, overwrite=force) as picture:
                picture.write(content)
    except OSError as error:
        raise MemplanError(
            f"{folder} cannot be written to: {error.strerror}.",
            hint="Name a folder that can be made, or is yours.",
        ) from error
    typer.echo(f"{folder}: {len(drawn)} pictures", err=True)
