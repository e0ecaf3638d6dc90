"""`memplan compare`: one plan, many tricks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from memplan.cli.sweeps import ExecutorOption, JobsOption, sweeping
from memplan.cli.values import parse_targets
from memplan.errors import CommandError

if TYPE_CHECKING:
    from memplan.compare import Progress, Say
    from memplan.comparing.comparison import Comparison

TRICKS = "The tricks"
PAGES = (".html", ".md", ".csv")
"""What `memplan report` writes."""


class By(StrEnum):
    """Who looks at the plans."""

    ESTIMATE = "estimate"
    REHEARSE = "rehearse"
    PROFILE = "profile"


@takes_plan
def compare(
    tricks: Annotated[
        Any,
        typer.Option(
            help="all, names, techniques (optimizer-choice), or what becomes of "
            "results (exact, rounding), with commas; -name leaves one out.  "
            "(default: all)",
            parser=parse_targets,
            rich_help_panel=TRICKS,
        ),
    ] = None,
    by: Annotated[
        By,
        typer.Option(
            help="Who looks: the closed form, the virtual card, or the card at hand.",
            rich_help_panel=TRICKS,
        ),
    ] = By.ESTIMATE,
    jobs: JobsOption = None,
    executor: ExecutorOption = "local",
    output_format: Annotated[
        Format,
        typer.Option("--format", help="quiet prints only the command that fits."),
    ] = Format.HUMAN,
    wants_json: JsonOption = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Write the comparison here: a page (.html, .md, .csv), else JSON.",
        ),
    ] = None,
    force: ForceOption = False,
    **flags: Any,
) -> None:
    """Find out what each memory-saving trick buys, alone and one after another.

    Exit code 0: the plan fits, or does with tricks; 1: nothing makes it fit.
    """
    from memplan.compare import compare as run
    from memplan.comparing.files import as_dict
    from memplan.tricks.catalogue import ALL

    of_user = asked(flags)
    fields = of_user.fields
    check_one_card(fields, "comparison")
    if "model" not in fields and "parameters" not in fields:
        raise CommandError(
            "There is nothing to compare.", hint="Name a model of `memplan models`."
        )
    plan = plan_of(fields, [], "compare")
    check_output(output, force=force)
    rehearses = None if by is By.REHEARSE else "--by rehearse"
    with (
        sweeping(executor, jobs, rehearses=rehearses) as workers,
        _told(has_lines=by is not By.ESTIMATE) as tell,
    ):
        comparison = run(
            plan,
            tricks=tricks or (ALL,),
            by=by.value,
            jobs=jobs,
            executor=workers,
            say=tell,
        )
    baseline = comparison.baseline
    noted = replace(baseline, report=of_user.onto(baseline.report))
    comparison = replace(comparison, baseline=noted)
    if output is not None:
        _write(comparison, output, force)
    match chosen(output_format, wants_json):
        case Format.JSON if output is None or _is_page(output):
            emit(as_json(as_dict(comparison)))
        case Format.QUIET:
            emit(_command_that_fits(comparison))
        case Format.HUMAN:
            from memplan.views.comparison import show_comparison

            show_comparison(comparison)
    if _command_that_fits(comparison) == "-":
        raise typer.Exit(1)


@contextmanager
def _told(*, has_lines: bool) -> "Iterator[Say]":
    """A bar on a terminal, else a line a plan where that takes its time."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _say_line if has_lines else lambda progress: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("the plan as it is", total=None)

        def tell(progress: "Progress") -> None:
            bar.update(
                task,
                description=progress.what,
                completed=progress.done,
                total=progress.total,
            )

        yield tell


def _say_line(progress: "Progress") -> None:
    say(f"{progress.done} of {progress.total}: {progress.what}")


def _is_page(file: Path) -> bool:
    return file.suffix.lower() in PAGES


def _write(comparison: "Comparison", file: Path, force: bool) -> None:
    """A page of `memplan report` by the name of its format, any other as JSON."""
    from memplan.comparing.files import as_dict

    if not _is_page(file):
        emit(as_json(as_dict(comparison)), file, force=force)
        return
    from memplan.cli.report import format_of, written
    from memplan.views.page.content import page_of
    from memplan.views.page.inputs import Input

    inputs = (Input(file=file.with_suffix(".json").name, comparison=comparison),)
    text = written(page_of(inputs, ""), inputs, format_of(file))
    emit(text, file, force=force)


def _command_that_fits(comparison: "Comparison") -> str:
    """That of the plan, of the first of the chain, or of a trick alone; else a dash."""
    variants = (comparison.baseline, *comparison.greedy, *comparison.alone)
    return next((one.command for one in variants if one.report.fits), "-")
