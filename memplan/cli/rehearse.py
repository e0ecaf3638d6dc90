"""`memplan rehearse`: a plan or a program, on a virtual card."""

from typing import Annotated, Any

import typer

from memplan.cli.output import (
    ForceOption,
    Format,
    FormatOption,
    JsonOption,
    RedactOption,
    check_output,
    chosen,
    emit_report,
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

CARD_FIELDS = (
    "gpu",
    "gpu_memory_bytes",
    "context_bytes",
    "headroom_fraction",
    "num_gpus",
)
"""The flags that a program leaves open; the rest of a plan it decides itself."""


@takes_plan
def rehearse(
    context: typer.Context,
    rank: RankOption = 0,
    steps: StepsOption = 3,
    snapshot: SnapshotOption = None,
    require: RequireOption = None,
    try_changes: Annotated[
        bool,
        typer.Option(
            "--try-changes/--no-try-changes",
            help="Where it does not fit, rehearse what may help.",
            rich_help_panel=RUN,
        ),
    ] = True,
    output_format: FormatOption = Format.HUMAN,
    wants_json: JsonOption = False,
    output: CaptureOption = None,
    force: ForceOption = False,
    redact: RedactOption = False,
    **flags: Any,
) -> None:
    """Run real PyTorch on a virtual card: a model, or `-- python train.py`.

    A program after `--` runs unchanged, and what it prints goes to stderr. Exit code
    1: it does not fit.
    """
    from memplan.rehearse import rehearse as rehearse_plan
    from memplan.rehearse import rehearse_program

    found = asked(flags)
    fields = found.fields
    check_one_card(fields, "rehearsal")
    for file in (output, snapshot):
        check_output(file, force=force)
    processes: list[Any] = []
    common: dict[str, Any] = {
        "rank": rank,
        "steps": steps,
        "snapshot": snapshot,
        "require": require or (),
        "tries_changes": try_changes,
        "say": say,
        "keep": processes.extend,
    }
    if context.obj is None:
        plan = plan_of(fields, context.args, "rehearse")
        report = rehearse_plan(plan, **common)
    else:
        check_program_flags(fields, CARD_FIELDS)
        report = rehearse_program(context.obj, **fields, **common)
    emit_report(
        found.onto(report),
        chosen(output_format, wants_json),
        output,
        force,
        processes=processes,
        is_redacted=redact,
    )
    if not report.fits:
        raise typer.Exit(1)
