"""What only a run shows: phases, holders, and where memory ended."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memplan.report import Holder, MarkedPhase, OutOfMemory, PhaseMemory
from memplan.units import format_gib, format_size
from memplan.views.tables import figures_table, labelled

INDENT = (0, 0, 0, 2)
OF_A_PARAMETER = ("weights", "gradients", "optimizer_states")
"""Components whose holders are named by a parameter, and by what it is for it."""


def phases_table(phases: Sequence[PhaseMemory]) -> RenderableType:
    """One line a phase; those of several micro-batches are one, at their highest."""
    table = figures_table("", "requested", "allocated", "reserved", "left allocated")
    for name in dict.fromkeys(phase.phase for phase in phases):
        same = [phase for phase in phases if phase.phase == name]
        table.add_row(
            name if len(same) == 1 else f"{name} x {len(same)}",
            format_gib(max(phase.peak_requested_bytes or 0 for phase in same)),
            format_gib(max(phase.peak_allocated_bytes for phase in same)),
            format_gib(max(phase.peak_reserved_bytes or 0 for phase in same)),
            format_gib(same[-1].end_allocated_bytes),
        )
    return Padding(table, INDENT)


def marked_table(phases: Iterable[MarkedPhase]) -> RenderableType:
    """One line for each time a marked stage was run."""
    table = figures_table("", "requested", "allocated", "reserved", "left allocated")
    for phase in phases:
        table.add_row(
            phase.name,
            format_gib(phase.peak_requested_bytes),
            format_gib(phase.peak_allocated_bytes),
            format_gib(phase.peak_reserved_bytes),
            format_gib(phase.end_allocated_bytes),
        )
    return Padding(table, INDENT)


def holders_table(holders: Iterable[Holder]) -> RenderableType:
    """Bytes, and beside them on lines of their own: what it is, whose, and from where.

    A path is the longest thing here and its end says most: it gets the whole width.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for holder in holders:
        text = Text(_kind(holder))
        text.append(f"\n{_tensor(holder)}", "bold")
        if holder.line:
            text.append(f"\n{holder.line}", "dim")
        table.add_row(format_gib(holder.bytes), text)
    return Padding(table, INDENT)


def _kind(holder: Holder) -> str:
    """`weights, 32 x bfloat16 [11008, 4096]`."""
    component = holder.component.replace("_", " ")
    each = _shape(holder)
    if holder.count > 1:
        each = f"{holder.count} x {each}" if each else f"{holder.count} blocks"
    return ", ".join(filter(None, [component, each]))


def _tensor(holder: Holder) -> str:
    """`layers.*.mlp: result saved by MulBackward0`, `head.weight: exp_avg`."""
    if holder.component not in OF_A_PARAMETER:
        return ": ".join(filter(None, [holder.module, holder.name])) or "(no name)"
    path = f"{holder.module}.{holder.name}" if holder.module else holder.name
    return path.replace(" ", ": ", 1)


def _shape(holder: Holder) -> str:
    """`bf16 [11008, 4096]`."""
    if holder.shape is None:
        return ""
    return f"{holder.dtype or ''} {list(holder.shape)}".lstrip()


def out_of_memory(error: OutOfMemory) -> RenderableType:
    """Where it happened, what was asked for, and what there was."""
    where = f"{error.phase} of step {error.step}" if error.step else error.phase
    if error.module:
        where += f", at {error.module}"
    held = [
        f"{format_size(size_bytes)} {name.replace('_', ' ')}"
        for name, size_bytes in asdict(error.components).items()
        if size_bytes
    ]
    return labelled(
        ("Where", [where, *filter(None, [error.line])]),
        ("Asked", [_asked(error)]),
        ("Free", [_free(error)]),
        ("Held", [", ".join(held) or format_size(error.allocated_bytes)]),
    )


def _asked(error: OutOfMemory) -> str:
    """A small request fails for the segment that it would have been cut from."""
    asked = format_size(error.asked_bytes)
    if not error.asked_bytes <= error.free_bytes < error.segment_bytes:
        return asked
    return f"{asked}, of a segment of {format_size(error.segment_bytes)}"


def _free(error: OutOfMemory) -> str:
    in_reserve = error.reserved_bytes - error.allocated_bytes
    free = f"{format_size(error.free_bytes)} on the card"
    if error.is_limited_by_itself:
        free += ", beyond the share that the program set itself"
    held = f"{format_size(in_reserve)} reserved but in no piece large enough"
    return f"{free}, and {held}"


def would_fit(error: OutOfMemory) -> RenderableType:
    """What the run needs, and each single change with which it would have fitted."""
    if not error.were_changes_tried and error.needed_bytes is None:
        return Text(
            "What it needs, and which change makes it fit, `memplan rehearse` says."
        )
    need = Text(
        "What it needs is not known: a run without limit came to nothing either."
    )
    if error.needed_bytes is not None:
        need = Text(f"It needs {format_gib(error.needed_bytes)} on the card.")
    if not error.were_changes_tried:
        return Group(need, Text("Which changes make it fit was not tried."))
    if not error.remedies:
        return Group(need, Text("No single change that was tried makes it fit."))
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for remedy in error.remedies:
        size = format_gib(remedy.device_bytes)
        price = ", answers may change" if remedy.changes_answers else ""
        table.add_row(Text(remedy.change), size, remedy.basis + price)
    title = Text("Each of these alone would make it fit:")
    return Group(need, title, Padding(table, INDENT))
