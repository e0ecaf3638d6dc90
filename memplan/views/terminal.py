"""Reports and catalogues as tables in a terminal.

Verdict first, then where the bytes go, then what the figure rests on. Colour and bars
are rich's, which leaves colour out where the output is no terminal or NO_COLOR is set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memplan.hardware import Gpu
from memplan.report import MemoryReport
from memplan.units import format_count, format_gib
from memplan.views.command import command_of
from memplan.views.hints import next_command
from memplan.views.measured import host, outside, ranks, rates, times
from memplan.views.rehearsed import (
    holders_table,
    marked_table,
    out_of_memory,
    phases_table,
    would_fit,
)
from memplan.views.savings import savings_table
from memplan.views.tables import figures_table, gib, labelled, print_lines

LABELS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer_states": "optimizer states",
    "activations": "activations",
    "temporary_buffers": "temporary buffers",
    "functionality_specific": "functionality-specific",
}
BAR_WIDTH = 24


def show_report(report: MemoryReport, console: Console | None = None) -> None:
    """Print a report."""
    print_lines(console, render_report(report))


def render_report(report: MemoryReport) -> RenderableType:
    """Verdict, components, and what the figures rest on; of a run, all it showed."""
    parts = [
        _verdict(report),
        *_out_of_memory(report),
        Text(""),
        Text(_heading(report)),
        _components(report),
    ]
    if report.source != "estimated":
        parts += _as_run(report)
    if report.savings:
        title = Text("Tricks, each on its own (estimated)")
        parts += [Text(""), title, savings_table(report.savings)]
    return Group(*parts, Text(""), _facts(report))


def _verdict(report: MemoryReport) -> Text:
    gpu = report.device.gpu
    cards = f"{report.num_gpus} x {gpu}" if report.num_gpus > 1 else gpu
    run = f"{report.model.name} on {cards}"
    size = format_gib(abs(report.headroom_bytes))
    if report.fits_narrowly:
        spare = f"  {run}: {size} to spare before fragmentation"
        return Text.assemble(("fits, narrowly", "bold yellow"), spare)
    if report.fits:
        return Text.assemble(("fits", "bold green"), f"  {run}: {size} to spare")
    error = report.out_of_memory
    how = f"{size} too much"
    if error is not None:
        how = f"out of memory, {error.phase} of step {error.step}"
        if error.step == 0:
            how = f"out of memory in {error.phase}"
    return Text.assemble(("does not fit", "bold red"), f"  {run}: {how}")


def _heading(report: MemoryReport) -> str:
    """What the components are the components of."""
    if report.out_of_memory is not None and report.out_of_memory.needed_bytes:
        return "Held at the peak, on a card without limit (rehearsed)"
    return f"Held at the peak, per GPU ({report.source})"


def _out_of_memory(report: MemoryReport) -> list[RenderableType]:
    error = report.out_of_memory
    if error is None:
        return []
    parts = [Text(""), out_of_memory(error), Text(""), would_fit(error)]
    if error.holders:
        title = Text("What held the memory then")
        parts += [Text(""), title, holders_table(error.holders)]
    return parts


def _as_run(report: MemoryReport) -> list[RenderableType]:
    """What only a run shows: its phases, and who holds what."""
    parts: list[RenderableType] = []
    steady = [phase for phase in report.phases if phase.step == report.peak.step]
    if steady:
        title = f"Step {report.peak.step}, phase by phase"
        parts += [Text(""), Text(title), phases_table(steady)]
    if report.marked:
        parts += [Text(""), Text("Marked in the program"), marked_table(report.marked)]
    if report.ranks:
        parts += [Text(""), Text("Every rank, at its own peak"), ranks(report.ranks)]
    if report.holders:
        title = f"The {len(report.holders)} largest at the peak"
        parts += [Text(""), Text(title), holders_table(report.holders)]
    return parts


def _components(report: MemoryReport) -> RenderableType:
    """One row a component, with a bar of its share."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column(width=BAR_WIDTH)
    total = max(report.peak.allocated_bytes, 1)
    for name, size_bytes in asdict(report.components).items():
        table.add_row(
            LABELS[name],
            format_gib(size_bytes),
            f"{size_bytes / total:.0%}",
            Bar(total, 0, size_bytes, width=BAR_WIDTH),
        )
    table.add_row("allocated", format_gib(report.peak.allocated_bytes), "", "")
    return Padding(table, (0, 0, 0, 2))


def _facts(report: MemoryReport) -> RenderableType:
    """Labelled lines under the table."""
    return labelled(
        ("Model", [_model(report)] if report.model.parameters else []),
        ("Peak", [_where(report)]),
        ("Budget", [_need(report)]),
        ("Outside", outside(report)),
        ("Time", times(report.timing)),
        ("Rate", rates(report.timing)),
        ("Host", host(report)),
        ("Fragmented", _fragmentation(report)),
        ("Reserved", reserved(report)),
        ("Allocator", _allocator(report)),
        ("Unowned", _unowned(report)),
        ("Band", [_band(report)] if report.source == "estimated" else []),
        ("Basis", [report.band.basis] if report.source != "estimated" else []),
        ("Versions", [_versions(report)] if report.versions else []),
        ("Assumed", report.assumptions),
        (
            "Not modelled" if report.source == "estimated" else "Unsupported",
            report.unsupported,
        ),
        ("Next", _next(report)),
    )


def _model(report: MemoryReport) -> str:
    trained = report.model.trainable_parameters
    all_trained = trained == report.model.parameters
    return (
        f"{format_count(report.model.parameters)} parameters, "
        f"{'all' if all_trained else format_count(trained)} trained"
    )


def _where(report: MemoryReport) -> str:
    """Phase, module and line of the peak, and how the first step differs."""
    peak = report.peak
    if peak.step == 0:
        return f"{format_gib(peak.allocated_bytes)} allocated, in {peak.phase}"
    and_later = " and later" if report.source == "estimated" else ""
    where = f"step {peak.step}{and_later}, {peak.phase}"
    if peak.module.strip():
        where += f", at {peak.module.strip()}"
    if peak.line:
        where += f" ({peak.line})"
    first = [p.peak_allocated_bytes for p in report.phases if p.step == 1]
    if first and (peak.step > 1):
        where += f"; the first step peaks at {format_gib(max(first))}"
    if report.setup_peak_allocated_bytes:
        size = format_gib(report.setup_peak_allocated_bytes)
        where += f"; before the first step, at most {size}"
    return where


def _need(report: MemoryReport) -> str:
    """The card below its headroom, against what the run takes of it."""
    peak, device = report.peak, report.device
    budget = report.headroom_bytes + peak.device_bytes
    share = 1 - report.headroom_fraction
    return (
        f"{format_gib(device.total_bytes)} x {share:.0%} = {format_gib(budget)}; "
        f"context {format_gib(device.context_bytes)} + reserved "
        f"{format_gib(peak.reserved_bytes)} = {format_gib(peak.device_bytes)}"
    )


def _fragmentation(report: MemoryReport) -> list[str]:
    unused = report.fragmentation_bytes
    if unused is None:
        return []
    share = unused / max(report.peak.reserved_bytes, 1)
    return [
        f"{format_gib(unused)} reserved and not allocated at the peak ({share:.0%})"
    ]


def reserved(report: MemoryReport) -> list[str]:
    """What an estimate expects with fragmentation."""
    reserved = report.reserved
    if reserved is None:
        return []
    return [
        f"likely {format_gib(reserved.likely_bytes)}, and "
        f"{format_gib(reserved.low_bytes)} to {format_gib(reserved.high_bytes)}, of "
        "which PyTorch gives unused segments back before it runs out of memory: "
        f"{reserved.basis}"
    ]


def _allocator(report: MemoryReport) -> list[str]:
    """Its settings, where there are any."""
    settings = report.device.allocator
    return [] if settings.endswith("default settings") else [settings]


def _unowned(report: MemoryReport) -> list[str]:
    """What the temporary buffers hold that no tensor is known for."""
    if report.source == "estimated":
        return []
    return [
        f"of temporary buffers, {format_gib(report.unattributed_bytes)} whose owner is "
        f"not known and {format_gib(report.rounding_bytes)} of rounding up"
    ]


def _band(report: MemoryReport) -> str:
    return (
        f"{format_gib(report.band.low_bytes)} to {format_gib(report.band.high_bytes)} "
        f"allocated: {report.band.basis}"
    )


def _versions(report: MemoryReport) -> str:
    return ", ".join(f"{name} {version}" for name, version in report.versions.items())


def _next(report: MemoryReport) -> list[str]:
    """An estimate ends with a command; a rehearsal lists what would fit by itself."""
    if report.source != "estimated" or report.plan is None:
        return []
    return [next_command(report, report.plan)]


def show_every_gpu(
    reports: Sequence[MemoryReport], console: Console | None = None
) -> None:
    """Print one line a card for the same plan."""
    first = reports[0]
    table = figures_table("GPU", "GiB", "needed", "to spare")
    table.add_column("")
    for report in reports:
        verdict = Text("fits", "green") if report.fits else Text("does not fit", "red")
        table.add_row(
            report.device.gpu,
            gib(report.device.total_bytes),
            gib(report.peak.device_bytes),
            gib(report.headroom_bytes),
            verdict,
        )
    fitting = [report for report in reports if report.fits]
    notes = labelled(
        (
            "Not modelled",
            dict.fromkeys(line for r in reports for line in r.unsupported),
        ),
        ("Next", [command_of(report.plan) for report in fitting[:1] if report.plan]),
    )
    heading = (
        f"{first.model.name}, per GPU of {first.num_gpus}, {first.source}; "
        f"headroom {first.headroom_fraction:.0%}"
    )
    print_lines(console, Group(Text(heading), Text(""), table, Text(""), notes))


def show_gpus(gpus: Sequence[Gpu], console: Console | None = None) -> None:
    """Print the catalogue of cards."""
    table = figures_table("GPU", "GiB", "capability", "SMs", "GB/s", "bf16 TFLOP/s")
    for gpu in gpus:
        capability = gpu.compute_capability
        bandwidth = gpu.memory_bandwidth_bytes_per_s
        rate = gpu.peak_flops.get("bf16")
        table.add_row(
            gpu.slug,
            gib(gpu.total_bytes),
            "?" if capability is None else f"{capability[0]}.{capability[1]}",
            "?" if gpu.num_sms is None else str(gpu.num_sms),
            "?" if bandwidth is None else f"{bandwidth / 1e9:.0f}",
            "-" if rate is None else f"{rate / 1e12:.0f}",
        )
    print_lines(console, table)


def show_models(
    presets: Sequence[Mapping[str, Any]],
    model_types: Sequence[str],
    console: Console | None = None,
) -> None:
    """Print the presets, and what else can be named."""
    table = figures_table("model", "parameters")
    table.add_column("")
    for preset in presets:
        total = preset.get("parameters", {}).get("total")
        table.add_row(
            preset["name"],
            "?" if total is None else format_count(total),
            Text(preset.get("title", "")),
        )
    also = (
        f"Also any hub id, folder or config.json of the types {', '.join(model_types)}."
    )
    print_lines(console, Group(table, Text(""), Text(also)))
