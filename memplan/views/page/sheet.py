"""A page as CSV: one row a report or variant, bytes as they are."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields

from memplan.comparing.comparison import Variant, fits_of
from memplan.report import Components, MemoryReport
from memplan.views.page.budget import need_bytes
from memplan.views.page.inputs import Input, command_behind

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What sheets take for the beginning of a formula, and would compute."""
COMPONENTS = tuple(item.name for item in fields(Components))
HEAD = (
    "file",
    "kind",
    "tricks",
    "model",
    "gpu",
    "num_gpus",
    "source",
    "fits",
    "headroom_bytes",
    "need_bytes",
    "requested_bytes",
    "allocated_bytes",
    "reserved_bytes",
    "device_bytes",
    *(f"{name}_bytes" for name in COMPONENTS),
    "peak_phase",
    "step_ms",
    "samples_per_s",
    "speed_basis",
    "command",
)
Value = str | int | float | None


def as_csv(inputs: Sequence[Input]) -> str:
    """The head, and a row for each report in the order of the files."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    for row in _rows(inputs):
        writer.writerow(["" if value is None else _safe(value) for value in row])
    return text.getvalue()


def _rows(inputs: Sequence[Input]) -> Iterator[tuple[Value, ...]]:
    for one in inputs:
        if one.comparison is not None:
            comparison = one.comparison
            yield _of_variant(one.file, "baseline", comparison.baseline)
            for kind, variants in (
                ("alone", comparison.alone),
                ("greedy", comparison.greedy),
            ):
                for variant in variants:
                    yield _of_variant(one.file, kind, variant)
        elif one.capture is not None:
            report, timing = one.capture.report, one.capture.report.timing
            speed: tuple[Value, ...] = (None, None, None)
            if timing is not None:
                speed = (timing.median_ms, timing.samples_per_s, "measured")
            figures = _of_report(report)
            yield (one.file, "report", "", *figures, *speed, command_behind(report))


def _of_variant(file: str, kind: str, variant: Variant) -> tuple[Value, ...]:
    speed: tuple[Value, ...] = (None, None, None)
    if variant.speed is not None:
        found = variant.speed
        speed = (found.step_ms, found.samples_per_s, found.basis)
    tricks, figures = " ".join(variant.tricks), _of_report(variant.report)
    return (file, kind, tricks, *figures, *speed, variant.command)


def _of_report(report: MemoryReport) -> tuple[Value, ...]:
    peak = report.peak
    return (
        report.model.name,
        report.device.gpu,
        report.num_gpus,
        report.source,
        fits_of(report),
        report.headroom_bytes,
        need_bytes(report),
        peak.requested_bytes,
        peak.allocated_bytes,
        peak.reserved_bytes,
        peak.device_bytes,
        *asdict(report.components).values(),
        peak.phase,
    )


def _safe(value: Value) -> Value:
    """Text that no sheet computes: a model may be named `=HYPERLINK(...)`."""
    is_formula = isinstance(value, str) and value.startswith(FORMULAS)
    return f"'{value}" if is_formula else value
