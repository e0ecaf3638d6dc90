"""The part of a datasheet that runs reach: of measured records, else assumed."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from memplan.errors import MemplanError
from memplan.estimating.speed import counted_step
from memplan.validation.records import Record, measured_folder, records_under

EFFICIENCY = 0.6
"""Assumed of cards without a record: of the rates of their datasheet, and of those of
their links. It makes the counted step of a 7B Llama reach 46 % of the peak rate of an
A100 and 38 % of an H100's; Llama 3 reached 38 to 43 % (arXiv 2407.21783, table 4)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Efficiency:
    """Of one card."""

    gpu: str
    fraction: float
    num_records: int = 0
    """Measured ones, whose median it is; 0: it is assumed."""


def efficiency_of(gpu: str, folder: Path | None = None) -> Efficiency:
    """The median of the card's records: a step as it is counted over as it was timed.

    Args:
        gpu: slug of the card.
        folder: of records; None: memplan's own.

    Raises:
        RecordError: the folder that is given is none.
    """
    own = measured_folder()
    if folder is None and not own.is_dir():
        return Efficiency(gpu=gpu, fraction=EFFICIENCY)
    found = records_under(folder or own)
    ratios = [
        ratio
        for _, record in found.records
        if record.report is not None
        and record.report.device.gpu == gpu
        and (ratio := _reached(record)) is not None
    ]
    if not ratios:
        return Efficiency(gpu=gpu, fraction=EFFICIENCY)
    return Efficiency(
        gpu=gpu, fraction=statistics.median(ratios), num_records=len(ratios)
    )


def _reached(record: Record) -> float | None:
    """None where the run was not timed, or is not counted."""
    report = record.report
    if report is None or report.source != "measured" or report.plan is None:
        return None
    if report.timing is None or report.num_gpus > 1:
        return None
    try:
        counted = counted_step(report.plan)
    except MemplanError:
        return None
    return 1000 * counted.seconds / report.timing.median_ms
