"""`memplan diff`: two reports, term by term; and a gate for CI."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memplan.cli.output import (
    ForceOption,
    Format,
    FormatOption,
    JsonOption,
    OutputOption,
    as_json,
    check_output,
    chosen,
    emit,
)
from memplan.cli.values import check_limit, parse_fraction

if TYPE_CHECKING:
    from memplan.diff import Difference

FILE = "A JSON report, or a capture (.mplan)."


def diff(
    a: Annotated[Path, typer.Argument(help=f"{FILE} Fractions are of this one.")],
    b: Annotated[Path, typer.Argument(help=FILE)],
    fail_over: Annotated[
        Any,
        typer.Option(
            "--fail-over",
            help="Leave with 1 where B is further from A than this, up or down: 5%.",
            parser=parse_fraction,
        ),
    ] = None,
    term: Annotated[
        str,
        typer.Option(
            help="What --fail-over and quiet look at: requested, allocated, active, "
            "reserved, device, outside, or a component like optimizer-states."
        ),
    ] = "allocated",
    output_format: FormatOption = Format.HUMAN,
    wants_json: JsonOption = False,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Hold two reports against each other: B less A, term by term.

    Estimated, rehearsed or measured, in any pair; A is often the prediction. Exit code
    1: --fail-over was exceeded.
    """
    from memplan.captures.reading import read_report
    from memplan.diff import diff as compare
    from memplan.diff import find_term
    from memplan.views.difference import as_data, show_difference

    name = find_term(term)
    check_limit(fail_over)
    check_output(output, force=force)
    difference = compare(read_report(a), read_report(b))
    if output is not None:
        emit(as_json(as_data(difference)), output, force=force)
    match chosen(output_format, wants_json):
        case Format.JSON if output is None:
            emit(as_json(as_data(difference)))
        case Format.QUIET:
            size_bytes = difference.term(name).difference_bytes
            emit("-" if size_bytes is None else str(size_bytes))
        case Format.HUMAN:
            show_difference(difference, (str(a), str(b)))
    if fail_over is not None:
        _gate(difference, name, fail_over)


def _gate(difference: "Difference", name: str, limit: float) -> None:
    """Leave with 1 where a term is further apart than allowed; say which on stderr."""
    from memplan.errors import MemplanError
    from memplan.views.difference import percent, signed

    term = difference.term(name)
    label = name.replace("_", " ")
    if difference.without_peak:
        raise MemplanError(
            "A run that ended out of memory has no peak to hold anything against.",
            hint="Leave --fail-over out to see where it stopped.",
        )
    if term.difference_bytes is None:
        lacking = "A" if term.a_bytes is None else "B"
        raise MemplanError(
            f"{lacking} does not know {label}, so --fail-over cannot tell.",
            hint="Gate another term with --term: an estimate knows allocated.",
        )
    if not term.is_beyond(limit):
        return
    how = percent(term) if term.a_bytes else "from nothing"
    typer.echo(
        f"{label} differs by {signed(term.difference_bytes)} ({how}), more than the "
        f"{100 * limit:g}% of A that --fail-over allows.",
        err=True,
    )
    raise typer.Exit(1)
