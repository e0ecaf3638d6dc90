"""`memplan profile`: a plan or a program, on the card at hand."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memplan.cli.output import (
    ForceOption,
    Format,
    FormatOption,
    JsonOption,
    RedactOption,
    check_output,
    chosen,
    emit_capture,
    print_report,
)
from memplan.cli.plan_flags import asked, takes_plan
from memplan.cli.program import (
    RUN,
    CaptureOption,
    RankOption,
    RequireOption,
    SnapshotOption,
    StepsOption,
    check_one_card,
    check_program_flags,
    plan_of,
    say,
)

if TYPE_CHECKING:
    from memplan.report import MemoryReport

PROGRAM_FIELDS = ("headroom_fraction",)
"""The card is the one at hand, and a command starts its ranks by itself."""


@takes_plan
def profile(
    context: typer.Context,
    ranks: Annotated[
        int | None,
        typer.Option(
            help="One card plays one rank of so many.",
            rich_help_panel=RUN,
            show_default=False,
        ),
    ] = None,
    rank: RankOption = 0,
    steps: StepsOption = 3,
    timed_steps: Annotated[
        int,
        typer.Option(
            help="Steps to time after those; 0 times none.", rich_help_panel=RUN
        ),
    ] = 10,
    snapshot: SnapshotOption = None,
    require: RequireOption = None,
    output_format: FormatOption = Format.HUMAN,
    wants_json: JsonOption = False,
    output: CaptureOption = None,
    force: ForceOption = False,
    redact: RedactOption = False,
    **flags: Any,
) -> None:
    """Measure real steps on the card at hand: a model, or `-- python train.py`.

    A program after `--` runs unchanged, and what it prints goes to stderr. What was
    seen is kept in a capture, memplan-NAME.PID.mplan if -o names no file. Exit code 1:
    it does not fit.
    """
    from memplan.profile import Interrupted, UnfinishedError, profile_program
    from memplan.profile import profile as profile_plan

    found = asked(flags)
    fields = found.fields
    check_one_card(fields, "measurement")
    is_program = context.obj is not None
    if is_program:
        check_program_flags(fields, PROGRAM_FIELDS)
        name = _name_of_program(context.obj)
    else:
        plan = plan_of(fields, context.args, "profile")
        name = plan.model or "model"
    file = output or Path(f"memplan-{Path(name).name}.{os.getpid()}.mplan")
    for written in (file, snapshot):
        check_output(written, force=force)
    processes: list[Any] = []
    common: dict[str, Any] = {
        "ranks": ranks,
        "rank": rank,
        "steps": steps,
        "timed_steps": timed_steps,
        "snapshot": snapshot,
        "require": require or (),
        "say": say,
        "keep": processes.extend,
    }
    try:
        if is_program:
            report = profile_program(context.obj, **fields, **common)
        else:
            report = found.onto(profile_plan(plan, **common))
    except (UnfinishedError, Interrupted) as error:
        file, _ = _write(error.report, processes, file, force, redact)
        say(f"What was seen until then is in {file}")
        raise
    file, report = _write(report, processes, file, force, redact)
    wanted = chosen(output_format, wants_json)
    print_report(report, wanted, is_written=output is not None)
    if file.suffix == ".mplan" and wanted is Format.HUMAN:
        say(f"written: {file}")
        say(f"next: memplan show {file} --by module")
        say(f"next: memplan diff ANOTHER {file}")
    if not report.fits:
        raise typer.Exit(1)


def _name_of_program(words: Sequence[str]) -> str:
    """The script of a command, or else the command."""
    scripts = [word for word in words if word.endswith((".py", ".sh"))]
    return Path((scripts or [*words, "command"])[0]).stem


def _write(
    report: "MemoryReport",
    processes: Sequence[Any],
    file: Path,
    force: bool,
    is_redacted: bool,
) -> tuple[Path, "MemoryReport"]:
    """Write the capture of this node; where to, and what of the report is written."""
    from memplan.captures.capture_file import CaptureFile
    from memplan.captures.redaction import redact

    capture = CaptureFile(report=report, processes=tuple(processes))
    if is_redacted:
        capture = redact(capture)
    file = _own_file(file, processes, force)
    emit_capture(capture, file, force=force)
    return file, capture.report


def _own_file(file: Path, processes: Sequence[Any], force: bool) -> Path:
    """A name that is this node's alone: nodes can share a file system.

    What came there during the run is left, and what was measured is not lost for it.
    """
    node = max((process.get("node") or 0 for process in processes), default=0)
    is_alone = any(process.get("is_alone") for process in processes)
    if node and not is_alone:
        file = file.with_name(f"{file.stem}-node{node}{file.suffix}")
    if file.exists() and not force:
        file = file.with_name(f"{file.stem}.{os.getpid()}{file.suffix}")
    return file
