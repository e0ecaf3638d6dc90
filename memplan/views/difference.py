"""Two reports side by side: what was asked, where they part, and by how much."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memplan.diff import Difference, Term, TermGroup, role_of
from memplan.differing import Pair
from memplan.report import MemoryReport
from memplan.units import format_gib, format_size
from memplan.views.tables import labelled, print_lines

SCHEMA_VERSION = 1
UNKNOWN = "-"
NAME_WIDTH = 26
PAIR_WIDTH = 30


def show_difference(
    difference: Difference,
    names: tuple[str, str] = ("", ""),
    console: Console | None = None,
) -> None:
    """Print a difference; `names` are those of the files, if there are any."""
    print_lines(console, render_difference(difference, names))


def render_difference(
    difference: Difference, names: tuple[str, str] = ("", "")
) -> RenderableType:
    """The verdict, both reports, what was not the same, then term by term."""
    parts: list[RenderableType] = [
        Text(verdict_of(difference), "bold"),
        Text(""),
        labelled(
            ("A", _report_lines(difference.a, names[0])),
            ("B", _report_lines(difference.b, names[1])),
        ),
    ]
    parts += _notes(difference)
    parts += _not_the_same(difference)
    parts += _section(difference, "Peak", difference.peak)
    parts += _section(difference, "Held at the allocated peak", difference.components)
    parts += _section(difference, "Of these, and beside them", difference.parts)
    parts += _phases(difference)
    parts += _groups(difference, "Marked, highest allocated", difference.marked)
    parts += _ranks(difference)
    parts += [
        Text(""),
        Text("Where it peaked"),
        labelled(("A", [_where(difference.a)]), ("B", [_where(difference.b)])),
    ]
    return Group(*parts)


def verdict_of(difference: Difference) -> str:
    """`allocated peak: estimated 6.95 GiB, rehearsed 6.97 GiB, +21.87 MiB (+0.3%)`."""
    term = difference.allocated
    return (
        f"allocated peak: {difference.a.source} {_size(term.a_bytes)}, "
        f"{difference.b.source} {_size(term.b_bytes)}, "
        f"{signed(term.difference_bytes)} ({percent(term)})"
    )


def signed(size_bytes: int | None) -> str:
    """`+21.87 MiB`."""
    if size_bytes is None:
        return UNKNOWN
    return f"{'+' * (size_bytes > 0)}{format_size(size_bytes)}"


def percent(term: Term) -> str:
    """`+0.3%` of A; a dash where A is nothing or unknown."""
    fraction = term.difference_fraction
    if fraction is None:
        return UNKNOWN
    return "0.0%" if fraction == 0 else f"{fraction:+.1%}"


def as_data(difference: Difference) -> dict[str, Any]:
    """The difference as JSON has it: bytes, exact."""
    return {
        "schema_version": SCHEMA_VERSION,
        "memplan_version": _version(),
        "a": _side(difference.a),
        "b": _side(difference.b),
        "is_of_one_plan": difference.is_of_one_plan,
        "differing": [asdict(pair) for pair in difference.differing],
        "peak": _terms(difference.peak),
        "components": _terms(difference.components),
        "parts": _terms(difference.parts),
        "phases": [_group(group) for group in difference.phases],
        "marked": [_group(group) for group in difference.marked],
        "ranks": [_group(group) for group in difference.ranks],
    }


def _version() -> str:
    from importlib.metadata import version

    return version("memplan")


def _side(report: MemoryReport) -> dict[str, Any]:
    peak = report.peak
    return {
        "source": report.source,
        "memplan_version": report.memplan_version,
        "model": report.model.name,
        "gpu": report.device.gpu,
        "torch": report.device.torch,
        "fits": report.fits,
        "out_of_memory": report.out_of_memory is not None,
        "peak": {
            "step": peak.step,
            "role": role_of(report, peak.step),
            "phase": peak.phase,
            "module": peak.module,
            "line": peak.line,
        },
    }


def _terms(terms: Sequence[Term]) -> list[dict[str, Any]]:
    return [
        {
            **asdict(term),
            "difference_bytes": term.difference_bytes,
            "difference_fraction": term.difference_fraction,
        }
        for term in terms
    ]


def _group(group: TermGroup) -> dict[str, Any]:
    return {"name": group.name, "role": group.role, "terms": _terms(group.terms)}


def _report_lines(report: MemoryReport, name: str) -> Iterator[str]:
    """What it is, and of what."""
    cards = f"{report.num_gpus} x " if report.num_gpus > 1 else ""
    yield f"{report.source}  {name}".rstrip()
    yield (
        f"{report.model.name} on {cards}{report.device.gpu}, torch "
        f"{report.device.torch}, memplan {report.memplan_version}"
    )


def _notes(difference: Difference) -> list[RenderableType]:
    """What has to be known before the figures are read."""
    notes = []
    if not difference.is_of_one_plan:
        notes.append(
            "These are two different plans: each difference has that cause too."
        )
    for report in difference.without_peak:
        letter = "A" if report is difference.a else "B"
        notes.append(
            f"{letter} ran out of memory: its figures are of where it stopped, not of "
            "a peak."
        )
    return [Text(""), *map(Text, notes)] if notes else []


def _not_the_same(difference: Difference) -> list[RenderableType]:
    if not difference.differing:
        return []
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("Not the same", overflow="fold")
    table.add_column("A", max_width=PAIR_WIDTH, overflow="fold")
    table.add_column("B", max_width=PAIR_WIDTH, overflow="fold")
    for pair in difference.differing:
        table.add_row(*(Text(word) for word in _words(pair)))
    return [Text(""), table]


def _words(pair: Pair) -> tuple[str, str, str]:
    return f"  {pair.name.replace('_', ' ')}", pair.a, pair.b


def _section(
    difference: Difference, title: str, terms: Sequence[Term]
) -> list[RenderableType]:
    """A table of terms; those that neither report knows are left out."""
    known = [t for t in terms if t.a_bytes is not None or t.b_bytes is not None]
    if not known:
        return []
    return [Text(""), _table(difference, title, [(t.name, t) for t in known])]


def _table(
    difference: Difference, title: str, rows: Sequence[tuple[str, Term]]
) -> RenderableType:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column(title, width=NAME_WIDTH, overflow="fold")
    for heading in (difference.a.source, difference.b.source, "B - A", "of A"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=10)
    for name, term in rows:
        table.add_row(
            Padding(Text(name.replace("_", " ")), (0, 0, 0, 2)),
            _size(term.a_bytes),
            _size(term.b_bytes),
            signed(term.difference_bytes),
            percent(term),
        )
    return table


def _phases(difference: Difference) -> list[RenderableType]:
    """The first and the steady step, each its own table."""
    parts: list[RenderableType] = []
    for role in ("first", "steady"):
        groups = [group for group in difference.phases if group.role == role]
        title = f"{role.capitalize()} step, highest"
        parts += _groups(difference, title, groups)
    return parts


def _groups(
    difference: Difference, title: str, groups: Sequence[TermGroup]
) -> list[RenderableType]:
    """The allocated peak of each."""
    if not groups:
        return []
    rows = [(group.name, group.term("peak_allocated")) for group in groups]
    return [Text(""), _table(difference, title, rows)]


def _ranks(difference: Difference) -> list[RenderableType]:
    if not difference.ranks:
        return []
    rows = [
        (f"{group.name}, {term.name}", term)
        for group in difference.ranks
        for term in group.terms
    ]
    return [Text(""), _table(difference, "Ranks", rows)]


def _where(report: MemoryReport) -> str:
    """`steady step (3), backward, at layers.0.mlp (train.py:31 main)`."""
    peak = report.peak
    role = role_of(report, peak.step)
    words = [f"{role} step ({peak.step})"] if role else []
    words.append(peak.phase)
    if peak.module.strip():
        words.append(f"at {peak.module.strip()}")
    return ", ".join(words) + (f" ({peak.line})" if peak.line else "")


def _size(size_bytes: int | None) -> str:
    return UNKNOWN if size_bytes is None else format_gib(size_bytes)
