"""What the figures rest on, and the commands that make them again."""

import shlex
from collections.abc import Sequence

from memplan.comparing.comparison import Comparison
from memplan.report import MemoryReport
from memplan.units import format_count, format_gib
from memplan.views.measured import host, outside, rates, times
from memplan.views.page.inputs import Entry, Input, command_behind, run_of
from memplan.views.page.parts import Block, Facts
from memplan.views.page.waterfall import step_labels
from memplan.views.terminal import reserved

Line = tuple[str, tuple[str, ...]]


def environment_blocks(
    inputs: Sequence[Input],
    entries: Sequence[Entry],
    comparisons: Sequence[Comparison],
) -> tuple[Block, ...]:
    """Each report with what it rests on, the chain of tricks, and this page."""
    blocks: list[Block] = [
        Facts(
            title=entry.label,
            lines=_lines(entry.report, entry.file),
            command=command_behind(entry.report),
        )
        for entry in entries
    ]
    for comparison in comparisons:
        blocks.append(
            Facts(
                title=f"Tricks of {run_of(comparison.baseline.report)}",
                lines=(
                    *_lines(comparison.baseline.report, ""),
                    *_filled([("Comparison", comparison.assumptions)]),
                ),
            )
        )
        chain = (comparison.baseline, *comparison.greedy)
        blocks += [
            Facts(title=label, lines=(), command=variant.command)
            for label, variant in zip(step_labels(comparison), chain, strict=True)
        ]
    files = [one.file for one in inputs]
    blocks.append(
        Facts(
            title="This page",
            lines=(),
            command=shlex.join(["memplan", "report", *files]),
        )
    )
    return tuple(blocks)


def _lines(report: MemoryReport, file: str) -> tuple[Line, ...]:
    device, band = report.device, report.band
    versions = [f"{name} {version}" for name, version in report.versions.items()]
    lines = [
        ("File", [file] if file else []),
        ("Made by", [f"memplan {report.memplan_version}, {report.source}"]),
        ("Model", [_model(report)] if report.model.parameters else []),
        (
            "Card",
            [
                f"{device.gpu}, {format_gib(device.total_bytes)} in all, "
                f"{format_gib(device.context_bytes)} outside the allocator"
            ],
        ),
        ("Outside", outside(report)),
        ("Versions", [", ".join(versions)] if versions else [f"torch {device.torch}"]),
        ("Reserved", reserved(report)),
        ("Allocator", [device.allocator]),
        ("Peak", [_where(report)]),
        ("Step", times(report.timing)),
        ("Rate", rates(report.timing)),
        ("Host", host(report)),
        (
            "Band",
            [f"{format_gib(band.low_bytes)} to {format_gib(band.high_bytes)} allocated"]
            if report.source == "estimated"
            else [],
        ),
        ("Basis", [band.basis]),
        ("Assumed", report.assumptions),
        (
            "Not modelled" if report.source == "estimated" else "Unsupported",
            report.unsupported,
        ),
    ]
    return tuple(_filled(lines))


def _filled(lines: Sequence[tuple[str, Sequence[str]]]) -> list[Line]:
    return [(label, tuple(said)) for label, said in lines if said]


def _model(report: MemoryReport) -> str:
    trained = report.model.trainable_parameters
    is_whole = trained == report.model.parameters
    return (
        f"{report.model.name}, {format_count(report.model.parameters)} parameters, "
        f"{'all' if is_whole else format_count(trained)} trained"
    )


def _where(report: MemoryReport) -> str:
    peak = report.peak
    where = f"step {peak.step}, {peak.phase}"
    if peak.module.strip():
        where += f", at {peak.module.strip()}"
    return where + (f" ({peak.line})" if peak.line else "")
