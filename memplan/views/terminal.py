"""Reports and catalogues as tables in a terminal.

Verdict first, then where the bytes go, then what the figure rests on. Colour and bars
are rich's, which leaves colour out where the output is no terminal or NO_COLOR is set.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memplan.hardware import Gpu
from memplan.report import MemoryReport
from memplan.units import GiB, format_count, format_gib
from memplan.views.command import command_of
from memplan.views.hints import next_command

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
    _print(console, render_report(report))


def render_report(report: MemoryReport) -> RenderableType:
    """Verdict, components, peak, budget, band, assumptions, what is missing, next."""
    return Group(
        _verdict(report),
        Text(""),
        Text(f"Held at the peak, per GPU ({report.source})"),
        _components(report),
        Text(""),
        _facts(report),
    )


def _verdict(report: MemoryReport) -> Text:
    gpu = report.device.gpu
    cards = f"{report.num_gpus} x {gpu}" if report.num_gpus > 1 else gpu
    run = f"{report.model.name} on {cards}"
    size = format_gib(abs(report.headroom_bytes))
    if report.fits:
        return Text.assemble(("fits", "bold green"), f"  {run}: {size} to spare")
    return Text.assemble(("does not fit", "bold red"), f"  {run}: {size} too much")


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
    peak, device = report.peak, report.device
    budget = report.headroom_bytes + peak.device_bytes
    share = 1 - report.headroom_fraction
    trained = report.model.trainable_parameters
    all_trained = trained == report.model.parameters
    model = (
        f"{format_count(report.model.parameters)} parameters, "
        f"{'all' if all_trained else format_count(trained)} trained"
    )
    where = f"step {peak.step} and later, {peak.phase}, at {peak.module.strip()}"
    first = [p.peak_allocated_bytes for p in report.phases if p.step == 1]
    if first:
        where += f"; the first step peaks at {format_gib(max(first))}"
    need = (
        f"{format_gib(device.total_bytes)} x {share:.0%} = {format_gib(budget)}; "
        f"context {format_gib(device.context_bytes)} + reserved "
        f"{format_gib(peak.reserved_bytes)} = {format_gib(peak.device_bytes)}"
    )
    band = (
        f"{format_gib(report.band.low_bytes)} to {format_gib(report.band.high_bytes)} "
        f"allocated: {report.band.basis}"
    )
    return _labelled(
        ("Model", [model]),
        ("Peak", [where]),
        ("Budget", [need]),
        ("Band", [band]),
        ("Assumed", report.assumptions),
        ("Not modelled", report.unsupported),
        ("Next", [next_command(report, report.plan)] if report.plan else []),
    )


def show_every_gpu(
    reports: Sequence[MemoryReport], console: Console | None = None
) -> None:
    """Print one line a card for the same plan."""
    first = reports[0]
    table = _table("GPU", "GiB", "needed", "to spare")
    table.add_column("")
    for report in reports:
        verdict = Text("fits", "green") if report.fits else Text("does not fit", "red")
        table.add_row(
            report.device.gpu,
            _gib(report.device.total_bytes),
            _gib(report.peak.device_bytes),
            _gib(report.headroom_bytes),
            verdict,
        )
    fitting = [report for report in reports if report.fits]
    notes = _labelled(
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
    _print(console, Group(Text(heading), Text(""), table, Text(""), notes))


def show_gpus(gpus: Sequence[Gpu], console: Console | None = None) -> None:
    """Print the catalogue of cards."""
    table = _table("GPU", "GiB", "capability", "SMs", "GB/s", "bf16 TFLOP/s")
    for gpu in gpus:
        capability = gpu.compute_capability
        bandwidth = gpu.memory_bandwidth_bytes_per_s
        rate = gpu.peak_flops.get("bf16")
        table.add_row(
            gpu.slug,
            _gib(gpu.total_bytes),
            "?" if capability is None else f"{capability[0]}.{capability[1]}",
            "?" if gpu.num_sms is None else str(gpu.num_sms),
            "?" if bandwidth is None else f"{bandwidth / 1e9:.0f}",
            "-" if rate is None else f"{rate / 1e12:.0f}",
        )
    _print(console, table)


def show_models(
    presets: Sequence[Mapping[str, Any]],
    model_types: Sequence[str],
    console: Console | None = None,
) -> None:
    """Print the presets, and what else can be named."""
    table = _table("model", "parameters")
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
    _print(console, Group(table, Text(""), Text(also)))


def _table(*headings: str) -> Table:
    """Names on the left, figures on the right, and nothing between them."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    return table


def _labelled(*rows: tuple[str, Iterable[str]]) -> Table:
    """Labels on the left, each beside its lines."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, lines in rows:
        for index, line in enumerate(lines):
            table.add_row("" if index else label, Text(line))
    return table


def _gib(size_bytes: int) -> str:
    """GiB of a column whose heading has the unit."""
    return f"{size_bytes / GiB:.2f}"


def _print(console: Console | None, renderable: RenderableType) -> None:
    """Print without the blanks that fill rich's columns up."""
    console = console or Console(highlight=False)
    with console.capture() as captured:
        console.print(renderable)
    lines = (line.rstrip() for line in captured.get().splitlines())
    console.file.write("\n".join(lines) + "\n")
