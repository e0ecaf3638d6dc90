"""`memplan estimate`: flags in, a report out."""

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
    chosen,
    emit,
    emit_report,
)
from memplan.cli.plan_flags import asked, takes_plan

if TYPE_CHECKING:
    from memplan.inputs.configs.reading import Asked

TERMS = 8
"""Of a component, where the user asks for no number of them."""
ExplainOption = Annotated[
    bool,
    typer.Option(
        "--explain",
        help="List what each component is the sum of: every term with its formula and "
        "source. The JSON has them all.",
    ),
]
TopOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"With --explain: terms of a component to list.  (default: {TERMS})",
        show_default=False,
    ),
]


@takes_plan
def estimate(
    output_format: FormatOption = Format.HUMAN,
    wants_json: JsonOption = False,
    output: OutputOption = None,
    force: ForceOption = False,
    explain: ExplainOption = False,
    top: TopOption = None,
    **flags: Any,
) -> None:
    """Compute what a training run takes, in closed form."""
    from memplan.estimate import estimate as run
    from memplan.plan import TrainingPlan

    found = asked(flags)
    fields = found.fields
    wanted = chosen(output_format, wants_json)
    _check_explain(explain, top, fields.get("gpu"))
    if fields.get("gpu") == "all":
        del fields["gpu"]
        _every_gpu(found, wanted, output, force)
        return
    report = found.onto(run(TrainingPlan(**fields), explains=explain))
    emit_report(report, wanted, output, force)
    if report.explanation is not None and wanted is Format.HUMAN:
        from memplan.views.explanation import show_explanation

        show_explanation(report, report.explanation, top or TERMS)


def _check_explain(explain: bool, top: int | None, gpu: str | None) -> None:
    """Refuse what would be passed over in silence."""
    from memplan.errors import PlanError

    if top is not None and not explain:
        raise PlanError("--top says how much to explain.", hint="Add --explain.")
    if explain and gpu == "all":
        raise PlanError(
            "--explain is about one card.", hint="Name it in place of --gpu all."
        )


def _every_gpu(
    asked_for: "Asked", wanted: Format, output: Path | None, force: bool
) -> None:
    """The same plan on every card of the catalogue."""
    from dataclasses import replace

    from memplan.estimate import estimate as run
    from memplan.hardware import gpu_names
    from memplan.plan import TrainingPlan
    from memplan.report import as_dict

    plan = TrainingPlan(**asked_for.fields)
    reports = [asked_for.onto(run(replace(plan, gpu=slug))) for slug in gpu_names()]
    reports.sort(key=lambda report: (report.device.total_bytes, report.device.gpu))
    text = as_json([as_dict(report) for report in reports])
    if output is not None:
        emit(text, output, force=force)
    if wanted is Format.JSON and output is None:
        emit(text)
    elif wanted is Format.QUIET:
        emit("\n".join(report.device.gpu for report in reports if report.fits))
    elif wanted is Format.HUMAN:
        from memplan.views.terminal import show_every_gpu

        show_every_gpu(reports)
