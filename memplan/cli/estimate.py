"""`memplan estimate`: flags in, a report out."""

from pathlib import Path
from typing import Any

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
from memplan.cli.plan_flags import given, takes_plan


@takes_plan
def estimate(
    output_format: FormatOption = Format.HUMAN,
    wants_json: JsonOption = False,
    output: OutputOption = None,
    force: ForceOption = False,
    **flags: Any,
) -> None:
    """Compute what a training run takes, in closed form."""
    from memplan.estimate import estimate as run
    from memplan.plan import TrainingPlan

    fields = given(flags)
    wanted = chosen(output_format, wants_json)
    if fields.get("gpu") == "all":
        del fields["gpu"]
        _every_gpu(TrainingPlan(**fields), wanted, output, force)
        return
    emit_report(run(TrainingPlan(**fields)), wanted, output, force)


def _every_gpu(plan: Any, wanted: Format, output: Path | None, force: bool) -> None:
    """The same plan on every card of the catalogue."""
    from dataclasses import replace

    from memplan.estimate import estimate as run
    from memplan.hardware import gpu_names
    from memplan.report import as_dict

    reports = [run(replace(plan, gpu=slug)) for slug in gpu_names()]
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
