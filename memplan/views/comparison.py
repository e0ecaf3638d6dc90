"""A comparison in a terminal: verdict, each trick alone, the chain, the table."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memplan.comparing.comparison import (
    Comparison,
    LeftOut,
    TechniqueRow,
    Variant,
    fits_of,
)
from memplan.comparing.table import change_of_speed
from memplan.estimating.changes import command_words
from memplan.units import format_gib
from memplan.views.command import command_of
from memplan.views.tables import figures_table, gib, labelled, print_lines

INDENT = (0, 0, 0, 2)
HEADINGS = ("saves", "needs", "fits", "speed", "results", "peak in")
SHORT = {"different optimisation": "steps", "different model": "model"}
"""What becomes of the results, for a narrow column."""
LEGEND = (
    "GiB on the device. Results: exact, the same numbers; rounding, the same sums in "
    "another order or precision; steps, other ones are made; model, something else is "
    "trained or fed. Narrow: it fits before fragmentation alone."
)
SEEN = {"estimate": "estimated", "rehearse": "rehearsed", "profile": "measured"}


def show_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print a comparison."""
    print_lines(console, render_comparison(comparison))


def render_comparison(comparison: Comparison) -> RenderableType:
    """Verdict first; then what it rests on, and what to do next."""
    parts: list[RenderableType] = [*_verdict(comparison)]
    if comparison.alone:
        title = f"Each trick alone ({SEEN[comparison.by]})"
        parts += [Text(""), Text(title), _alone(comparison)]
        parts.append(Padding(Text(LEGEND, "dim"), INDENT))
    if comparison.greedy:
        title = "One after another, each time what saves most"
        parts += [Text(""), Text(title), _greedy(comparison)]
    parts += [Text(""), Text("Does it help?"), _classic(comparison)]
    return Group(*parts, Text(""), _facts(comparison))


def _verdict(comparison: Comparison) -> list[Text]:
    """Whether it fits as it is, and with what else."""
    report = comparison.baseline.report
    cards = report.device.gpu
    if report.num_gpus > 1:
        cards = f"{report.num_gpus} x {cards}"
    run = f"{report.model.name} on {cards}"
    need = format_gib(comparison.baseline.need_bytes)
    count = comparison.fits_after
    if report.fits:
        return [Text.assemble(("fits", "bold green"), f"  {run}: it takes {need}")]
    lines = [Text.assemble(("does not fit", "bold red"), f"  {run}: it takes {need}")]
    if count:
        variant = comparison.greedy[count - 1]
        said = f"fits with {', '.join(variant.tricks)}: {_size(variant)}"
        lines.append(Text(said, "green"))
        lines += _gentlest(comparison, variant)
    elif any(variant.report.fits for variant in comparison.alone):
        variant = next(v for v in comparison.alone if v.report.fits)
        lines.append(Text(f"fits with {variant.tricks[-1]}: {_size(variant)}", "green"))
    else:
        least = min(map(_need, (*comparison.alone, *comparison.greedy)), default=None)
        if least is not None:
            lines.append(
                Text(f"no trick makes it fit: the least is {format_gib(least)}")
            )
    return lines


def _gentlest(comparison: Comparison, chosen: Variant) -> list[Text]:
    """The trick alone that changes least, where that is not what saves most."""
    name = comparison.gentlest
    if name is None or chosen.tricks == (name,):
        return []
    variant = next(v for v in comparison.alone if v.tricks == (name,))
    return [Text(f"changing least, with {name}: {_size(variant)}", "green")]


def _alone(comparison: Comparison) -> RenderableType:
    table = figures_table("trick", *HEADINGS)
    before = comparison.baseline
    table.add_row("as it is", *_row(comparison, before, before))
    for variant in comparison.alone:
        table.add_row(variant.tricks[-1], *_row(comparison, variant, before))
    return Group(Padding(table, INDENT), *_notes(comparison.alone))


def _greedy(comparison: Comparison) -> RenderableType:
    table = figures_table("trick", *HEADINGS)
    before = comparison.baseline
    table.add_row("as it is", *_row(comparison, before, before))
    for variant in comparison.greedy:
        name = f"+ {variant.tricks[-1]}"
        table.add_row(name, *_row(comparison, variant, before))
        before = variant
    return Padding(table, INDENT)


def _row(comparison: Comparison, variant: Variant, before: Variant) -> list[str]:
    """Against what was before; the speed against the plan as it is."""
    change = change_of_speed(comparison.baseline, variant)
    exactness = next(
        (
            entry.exactness
            for entry in comparison.entries
            if variant.tricks and entry.name == variant.tricks[-1]
        ),
        "",
    )
    speed = "" if not variant.tricks else "-" if change is None else _percent(change)
    saved = gib(before.need_bytes - variant.need_bytes) if variant.tricks else ""
    return [
        saved,
        gib(variant.need_bytes),
        fits_of(variant.report),
        speed,
        SHORT.get(exactness, exactness),
        variant.report.peak.phase,
    ]


def _notes(variants: Iterable[Variant]) -> list[RenderableType]:
    """What saves nothing where the peak is, but elsewhere."""
    names: dict[str, list[str]] = {}
    for variant in variants:
        if variant.note.startswith("peak stays"):
            names.setdefault(variant.note, []).append(variant.tricks[-1])
    return [
        Padding(Text(f"{', '.join(tricks)}: {note}"), INDENT)
        for note, tricks in names.items()
    ]


def _classic(comparison: Comparison) -> RenderableType:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("technique", no_wrap=True)
    table.add_column("memory", no_wrap=True)
    table.add_column("speed", no_wrap=True)
    table.add_column("with", overflow="fold")
    for row in comparison.table:
        table.add_row(row.technique, _memory(row), _speed(row), row.best or row.note)
    return Padding(table, INDENT)


def _memory(row: TechniqueRow) -> str:
    """`yes, 6.52 GiB`."""
    if row.saved_bytes is None:
        return "-" if row.memory == "unknown" else row.memory
    return f"{row.memory}, {format_gib(row.saved_bytes)}"


def _speed(row: TechniqueRow) -> str:
    change = row.speed_change_fraction
    return "-" if change is None else f"{row.speed}, {_percent(change)}"


def _percent(fraction: float) -> str:
    """`+28%`; what rounds to nothing has no sign."""
    text = f"{fraction:+.0%}"
    return "0%" if text in ("+0%", "-0%") else text


def _facts(comparison: Comparison) -> RenderableType:
    return labelled(
        ("Left out", _left_out(comparison.left_out)),
        ("Assumed", comparison.assumptions),
        ("Next", [next_command(comparison)]),
    )


def _left_out(left_out: Sequence[LeftOut]) -> list[str]:
    """A line a reason."""
    names: dict[str, list[str]] = {}
    for one in left_out:
        names.setdefault(one.reason, []).append(one.name)
    return [f"{', '.join(tricks)}: {reason}" for reason, tricks in names.items()]


def next_command(comparison: Comparison) -> str:
    """What fits is confirmed by a run; else other cards are looked at."""
    plan, count = comparison.plan, comparison.fits_after
    if comparison.by == "estimate" and count == 0:
        return shlex.join([*command_words(plan, "compare"), "--by", "rehearse"])
    chain = (comparison.baseline, *comparison.greedy)
    fitting = [chain[count]] if count is not None else []
    fitting += [variant for variant in comparison.alone if variant.report.fits]
    if fitting and fitting[0].report.plan is not None:
        if comparison.by == "estimate":
            return command_of(fitting[0].report.plan, "rehearse")
        found = fitting[0].report.plan
        at_hand = replace(found, gpu_memory_bytes=None, context_bytes=None)
        return command_of(at_hand, "profile")
    return command_of(replace(plan, gpu="all"))


def _need(variant: Variant) -> int:
    return variant.need_bytes


def _size(variant: Variant) -> str:
    return format_gib(variant.need_bytes)
