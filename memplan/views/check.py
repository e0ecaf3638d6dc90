"""A check in a terminal: the verdict, and beneath it what would make it fit."""

from rich.console import Console, Group, RenderableType
from rich.text import Text

from memplan.check import Check, Verdict
from memplan.comparing.comparison import need_of
from memplan.report import MemoryReport
from memplan.units import format_gib
from memplan.views.tables import print_lines

SAID: dict[Verdict, tuple[str, str]] = {
    "fits": ("fits", "bold green"),
    "narrow": ("fits, narrowly", "bold yellow"),
    "does not fit": ("does not fit", "bold red"),
    "cannot say": ("cannot say", "bold yellow"),
}
WORDS: dict[Verdict, str] = {
    "fits": "fits",
    "narrow": "narrow",
    "does not fit": "no",
    "cannot say": "unknown",
}
"""What `--format quiet` prints."""


def show_check(found: Check, console: Console | None = None) -> None:
    """Print a check."""
    print_lines(console, render_check(found))


def render_check(found: Check) -> RenderableType:
    """The verdict; where it does not fit, the way out."""
    lines = [
        Text.assemble(SAID[found.verdict], f"  {_run(found.report)}: {_why(found)}")
    ]
    if found.fix is not None:
        fix = found.fix
        size = format_gib(fix.device_bytes)
        lines.append(Text(f"it fits with {', '.join(fix.tricks)}, {size}: {fix.flags}"))
    return Group(*lines)


def _run(report: MemoryReport) -> str:
    gpu = report.device.gpu
    cards = f"{report.num_gpus} x {gpu}" if report.num_gpus > 1 else gpu
    return f"{report.model.name} on {cards}"


def _why(found: Check) -> str:
    """`30.12 GiB of 37.52 GiB (estimated), 7.40 GiB to spare`."""
    report = found.report
    if found.lower_bound and found.verdict == "does not fit":
        total = format_gib(report.device.total_bytes)
        return f"at least {format_gib(found.low_bytes)} of {total} ({report.source})"
    budget = report.headroom_bytes + report.peak.device_bytes
    error = report.out_of_memory
    if error is not None and error.needed_bytes is None:
        return f"out of memory in {error.phase} ({report.source})"
    left = budget - need_of(report)
    rest = f"{format_gib(abs(left))} {'to spare' if left >= 0 else 'too much'}"
    need = f"{format_gib(need_of(report))} of {format_gib(budget)}"
    return f"{need} ({report.source}), {rest}"
