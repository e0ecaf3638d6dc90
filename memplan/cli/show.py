"""`memplan show`: look closer at what a capture or a report has."""

from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from memplan.cli.output import (
    ForceOption,
    Format,
    FormatOption,
    JsonOption,
    OutputOption,
    RedactOption,
    as_json,
    check_output,
    chosen,
    emit,
    emit_capture,
    print_report,
)

if TYPE_CHECKING:
    from memplan.captures.breakdown import Breakdown
    from memplan.captures.capture_file import CaptureFile
    from memplan.captures.process import Process
    from memplan.report import RankMemory

TOP = 10
DEPTH = 3


class By(StrEnum):
    """What the bytes are shown by."""

    COMPONENT = "component"
    MODULE = "module"
    LINE = "line"
    PHASE = "phase"
    RANK = "rank"
    TIME = "time"


def show(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="A capture (.mplan) or a JSON report; several captures of one job.",
        ),
    ],
    by: Annotated[By | None, typer.Option(help="Show the bytes by this.")] = None,
    depth: Annotated[
        int, typer.Option(min=1, max=64, help="Parts of a module's name to show.")
    ] = DEPTH,
    top: Annotated[
        int | None, typer.Option(min=1, help="Rows to show; the rest is one row.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=0, help="Of many ranks; else the most loaded.")
    ] = None,
    output_format: FormatOption = Format.HUMAN,
    wants_json: JsonOption = False,
    output: OutputOption = None,
    force: ForceOption = False,
    redact: RedactOption = False,
) -> None:
    """Show what a run took: its report, or the bytes by module, line, rank.

    With -o the capture or the report is written anew: `--redact -o shared.mplan` makes
    one to pass on.
    """
    from memplan.captures.gathering import report_of_rank
    from memplan.captures.redaction import redact as redacted

    check_output(output, force=force)
    capture = opened(files)
    if redact:
        capture = redacted(capture)
    if output is not None:
        emit_capture(capture, output, force=force)
    wanted = chosen(output_format, wants_json)
    if by is None or wanted is Format.QUIET:
        report = report_of_rank(capture, rank)
        print_report(report, wanted, is_written=output is not None)
        return
    data, show_it = _view(capture, by, rank, depth, top, files[0])
    if wanted is Format.JSON:
        emit(as_json(data))
    else:
        show_it()


def opened(files: list[Path]) -> "CaptureFile":
    """The capture of one file, or of several of the same job."""
    from memplan.captures.gathering import gathered
    from memplan.captures.reading import read_either

    captures = [(file, read_either(file)) for file in files]
    return captures[0][1] if len(captures) == 1 else gathered(captures)


def _view(
    capture: "CaptureFile",
    by: By,
    rank: int | None,
    depth: int,
    top: int | None,
    file: Path,
) -> tuple[Any, Callable[[], None]]:
    """What is asked for, as plain data and as a table."""
    from memplan.captures.breakdown import breakdown_of, components_of
    from memplan.captures.gathering import process_of_rank, report_of_rank
    from memplan.running.rehearsal import source_of
    from memplan.views import shown

    match by:
        case By.COMPONENT:
            report = report_of_rank(capture, rank)
            return _rows(components_of(report), report.source, top)
        case By.PHASE:
            report = report_of_rank(capture, rank)
            data = [asdict(phase) for phase in report.phases]
            return data, partial(shown.show_phases, report)
        case By.RANK:
            ranks = _ranks(capture, file)
            return [asdict(row) for row in ranks], partial(shown.show_ranks, ranks)
    _check_processes(capture, by, file)
    process = process_of_rank(capture, rank)
    source = source_of(process)
    if by is By.TIME:
        curve = _curve(process)
        return curve, partial(shown.show_curve, curve, source, process["rank"])
    kind: Literal["module", "line"] = "module" if by is By.MODULE else "line"
    return _rows(breakdown_of(process, kind, depth=depth), source, top)


def _rows(
    breakdown: "Breakdown", source: str, top: int | None
) -> tuple[Any, Callable[[], None]]:
    """Rows that add up to the peak; as data all of them, unless some are asked for."""
    from memplan.captures.breakdown import flat, folded
    from memplan.views.shown import show_breakdown

    rows = folded(breakdown.rows, top) if top else breakdown.rows
    data = {**asdict(breakdown), "rows": flat(rows)}
    return data, partial(show_breakdown, breakdown, source, top or TOP)


def _check_processes(capture: "CaptureFile", by: By, file: Path) -> None:
    """A report says what came out; what a process saw is in captures only."""
    from memplan.errors import CaptureFileError

    if not capture.processes:
        raise CaptureFileError(
            f"{file} has a report alone, which does not go by {by}.",
            hint="`memplan rehearse` and `memplan profile` write captures, which do: "
            "-o run.mplan",
        )


def _ranks(capture: "CaptureFile", file: Path) -> "tuple[RankMemory, ...]":
    from memplan.errors import CaptureFileError

    if not capture.report.ranks:
        raise CaptureFileError(
            f"{file} is of one process, which is all there is.",
            hint="Leave --by out for its report.",
        )
    return capture.report.ranks


def _curve(process: "Process") -> Any:
    from memplan.errors import CaptureFileError

    curve = process.get("curve")
    if not (curve and curve["requested_bytes"]):
        raise CaptureFileError(
            f"What rank {process['rank']} held over its step is not in the capture.",
            hint="Of a large job the curves of the most loaded ranks are kept; a "
            "process that made no step has none.",
        )
    return curve
