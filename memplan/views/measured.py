"""What only processes on a card show: times, rates, the host, and every rank."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memplan.report import MemoryReport, RankMemory, StepTiming
from memplan.units import format_count, format_gib
from memplan.views.tables import figures_table

INDENT = (0, 0, 0, 2)
MOST_RANKS = 8
ENDED_WELL = ("finished", "stopped")
UNITS = (("P", 1e15), ("T", 1e12), ("G", 1e9))


def times(timing: StepTiming | None) -> list[str]:
    """The median step and its spread, and what of it was spent waiting for data."""
    if timing is None:
        return []
    low, high = _ms(timing.low_ms), _ms(timing.high_ms)
    lines = [
        f"{_ms(timing.median_ms)} a step (median of {timing.num_steps}; eight of ten "
        f"from {low} to {high})"
    ]
    if timing.data_stall_ms is not None:
        lines.append(f"{_ms(timing.data_stall_ms)} of it waiting for the next batch")
    return lines


def rates(timing: StepTiming | None) -> list[str]:
    """Per GPU: samples, tokens, operations, and the fraction of what the card can."""
    if timing is None:
        return []
    lines = []
    if timing.samples_per_s is not None:
        done = f"{timing.samples_per_s:.4g} samples/s"
        if timing.tokens_per_s is not None:
            done += f", {format_count(round(timing.tokens_per_s))} tokens/s"
        lines.append(f"{done} per GPU")
    if timing.flops_per_s is not None:
        rate = f"{_flops(timing.flops_per_s)}/s"
        if timing.fraction_of_peak is not None:
            rate += f", {timing.fraction_of_peak:.0%} of the card's dense rate"
        lines.append(rate)
    return lines


def outside(report: MemoryReport) -> list[str]:
    """What lies beside the allocator, by what brought it."""
    device = report.device
    if device.libraries_bytes is None:
        return []
    bare = device.context_bytes - device.libraries_bytes
    return [
        f"{format_gib(bare)} at CUDA's start, {format_gib(device.libraries_bytes)} "
        "since: kernels, libraries, NCCL"
    ]


def host(report: MemoryReport) -> list[str]:
    """Memory of the machine that the process took."""
    seen = report.host
    if seen is None:
        return []
    line = f"{format_gib(seen.peak_resident_bytes)} of memory at most"
    if seen.pinned_bytes:
        line += f", and {format_gib(seen.pinned_bytes)} page-locked by PyTorch"
    return [line]


def ranks(rows: Sequence[RankMemory]) -> RenderableType:
    """The ranks that held most and those that ended badly; how many more there are."""
    by_load = sorted(rows, key=lambda row: (row.ended in ENDED_WELL, -row.device_bytes))
    shown = sorted(by_load[:MOST_RANKS], key=lambda row: row.rank)
    table = Padding(ranks_table(shown), INDENT)
    if len(shown) == len(rows):
        return table
    rest = by_load[MOST_RANKS:]
    least = format_gib(min(row.device_bytes for row in rest))
    most = format_gib(max(row.device_bytes for row in rest))
    more = f"and {len(rest)} more, of {least} to {most} on the device"
    return Group(table, Padding(Text(more), INDENT))


def ranks_table(rows: Sequence[RankMemory]) -> Table:
    """One line a rank."""
    table = figures_table("rank", "node", "allocated", "reserved", "device")
    table.add_column("ended", overflow="fold")
    for row in rows:
        is_known = row.device_bytes > 0
        sizes = (row.allocated_bytes, row.reserved_bytes, row.device_bytes)
        table.add_row(
            str(row.rank),
            str(row.node),
            *(format_gib(size) if is_known else "-" for size in sizes),
            Text(": ".join(filter(None, (row.ended.replace("_", " "), row.error)))),
        )
    return table


def _ms(milliseconds: float) -> str:
    """`412.3 ms`, `1.52 s`."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.1f} ms"


def _flops(count: float) -> str:
    """`41.2 TFLOP`."""
    for unit, size in UNITS:
        if count >= size:
            return f"{count / size:.4g} {unit}FLOP"
    return f"{count:.4g} FLOP"
