"""How large something can be, in a terminal: the value, what breaks, what raises it."""

from dataclasses import asdict

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memplan.fit import Change, Fit
from memplan.report import MemoryReport
from memplan.units import format_gib
from memplan.views.command import command_of
from memplan.views.comparison import SHORT
from memplan.views.tables import figures_table, gib, labelled, print_lines
from memplan.views.terminal import LABELS

INDENT = (0, 0, 0, 2)
MOST_CHANGES = 8
"""That are listed; the JSON has them all."""
SOURCES = {"estimate": "estimated", "rehearse": "rehearsed", "profile": "measured"}
LEGEND = (
    "Speed: samples per second at the value that fits without the change. Results: "
    "exact, the same numbers; rounding, the same sums in another order or precision; "
    "steps, other ones are made; model, something else is trained or fed."
)


def show_fit(found: Fit, console: Console | None = None) -> None:
    """Print what was found, and the patch of the user's files as it is."""
    console = console or Console(highlight=False)
    print_lines(console, render_fit(found))
    for title, diff in _patches(found):
        console.print()
        console.print(title, markup=False, soft_wrap=True)
        console.print(diff.rstrip("\n"), markup=False, soft_wrap=True)


def render_fit(found: Fit) -> RenderableType:
    """The value first; then what breaks, what would raise it, and what to do next."""
    parts: list[RenderableType] = [*_verdict(found)]
    if found.breaking is not None:
        parts += [Text(""), *_breaking(found, found.breaking)]
    if found.changes:
        parts += [Text(""), Text("What would raise it (estimated)"), _changes(found)]
        parts.append(Padding(Text(LEGEND, "dim"), INDENT))
    elif found.stopped_by == "memory":
        parts += [Text(""), Text("No trick that was asked for raises it.")]
    return Group(*parts, Text(""), _facts(found))


def _verdict(found: Fit) -> list[Text]:
    report = found.found or found.breaking
    assert report is not None
    cards = report.device.gpu
    if report.num_gpus > 1:
        cards = f"{report.num_gpus} x {cards}"
    run = f"{report.model.name} on {cards}"
    if found.value is None:
        least = f"not even {found.field} {found.breaking_value}"
        return [Text.assemble(("does not fit", "bold red"), f"  {run}: {least}")]
    largest = f"{found.field} {found.value}"
    lines = [
        Text.assemble(
            ("fits", "bold green"), f"  {run}: up to {largest} ({SOURCES[found.by]})"
        )
    ]
    match found.stopped_by:
        case "model":
            lines.append(Text(found.refusal))
        case "limit":
            lines.append(Text(f"All values up to {found.most} fit: none breaks."))
        case "memory":
            lines.append(Text(f"{found.breaking_value} does not fit"))
    if found.skipped:
        skipped = ", ".join(map(str, found.skipped))
        lines.append(Text(f"nor does {skipped}: kernels want round numbers"))
    if found.surely != found.value:
        likely, surely = (value or "none" for value in (found.likely, found.surely))
        text = (
            "before fragmentation; with what PyTorch likely reserves: "
            f"{likely}; with all that it may: {surely}"
        )
        lines.append(Text(text, "yellow"))
    return lines


def _breaking(found: Fit, breaking: MemoryReport) -> list[RenderableType]:
    """What is held at the largest value and at the next, and the budget of both."""
    peak = breaking.peak
    title = f"What breaks at {found.breaking_value}: {peak.phase} of step {peak.step}"
    rows = _rows(breaking)
    if found.found is None:
        table = figures_table("GiB", str(found.breaking_value))
        for name, size_bytes in rows.items():
            table.add_row(name, gib(size_bytes))
    else:
        table = figures_table(
            "GiB", str(found.value), str(found.breaking_value), "grows"
        )
        before = _rows(found.found)
        for name in before | rows:
            was, size_bytes = before.get(name, 0), rows.get(name, 0)
            table.add_row(name, gib(was), gib(size_bytes), gib(size_bytes - was))
    budget = Text(_budget(breaking))
    return [Text(title), Padding(table, INDENT), Padding(budget, INDENT)]


def _rows(report: MemoryReport) -> dict[str, int]:
    """What is on the device, and what of it; without what would show as nothing."""
    peak = report.peak
    rows = {LABELS[name]: v for name, v in asdict(report.components).items()} | {
        "segments": peak.reserved_bytes - peak.allocated_bytes,
        "CUDA context": peak.device_bytes - peak.reserved_bytes,
        "on the device": peak.device_bytes,
    }
    return {name: v for name, v in rows.items() if gib(v) != "0.00"}


def _budget(report: MemoryReport) -> str:
    """`23.51 total - 1.18 headroom - 0.43 context = 21.90 GiB; it wants 22.10 GiB`."""
    total = report.device.total_bytes
    headroom = int(total * report.headroom_fraction)
    outside = report.peak.device_bytes - report.peak.reserved_bytes
    left = total - headroom - outside
    return (
        f"{gib(total)} total - {gib(headroom)} headroom - {gib(outside)} context = "
        f"{gib(left)} GiB for PyTorch,\n"
        f"which takes {gib(report.peak.reserved_bytes)} GiB: "
        f"{format_gib(-report.headroom_bytes)} too much"
    )


def _changes(found: Fit) -> RenderableType:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("change", no_wrap=True)
    for heading in ("up to", "speed", "results"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("flags", overflow="fold")
    for change in found.changes[:MOST_CHANGES]:
        table.add_row(
            change.trick,
            str(change.value),
            _speed(change),
            SHORT.get(change.exactness, change.exactness),
            change.flags,
        )
    return Padding(table, INDENT)


def _speed(change: Change) -> str:
    fraction = change.speed_change_fraction
    if fraction is None:
        return "-"
    text = f"{fraction:+.0%}"
    return "0%" if text in ("+0%", "-0%") else text


def _patches(found: Fit) -> list[tuple[str, str]]:
    """Of the largest value, and of the change that costs least and is all there."""
    patches = []
    if found.rewriting is not None and found.rewriting.diff:
        title = f"The files with {found.field} {found.value}"
        patches.append((title, found.rewriting.diff))
    for change in found.changes:
        rewriting = change.rewriting
        if rewriting is not None and rewriting.diff and not rewriting.unsaid:
            title = f"The files with {change.trick}, {found.field} {change.value}"
            return [*patches, (title, rewriting.diff)]
    return patches


def _facts(found: Fit) -> RenderableType:
    unsaid = found.rewriting.unsaid_words if found.rewriting is not None else ()
    more = len(found.changes) - MOST_CHANGES
    return labelled(
        ("More", [f"{more} other changes are in the JSON"] if more > 0 else []),
        ("No key for", unsaid),
        ("Assumed", found.assumptions),
        ("Not modelled", found.unsupported),
        ("Next", [next_command(found)]),
    )


def next_command(found: Fit) -> str:
    """What fits is rehearsed; else the first change is taken, or all are compared."""
    plan = found.plan_that_fits
    if plan is not None:
        return command_of(plan, "rehearse")
    if found.changes:
        return command_of(found.changes[0].plan, "rehearse")
    return command_of(found.plan, "compare")
