"""An estimate, term by term: bytes, what they are, formula with numbers, and source.

The largest terms of each component stand first, and the rest of it in one line: the
lines of a component add up to it. A term whose source is that above names none.
"""

import os
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memplan.report import Explanation, MemoryReport, Term
from memplan.units import format_gib
from memplan.views.tables import labelled, print_lines
from memplan.views.terminal import LABELS

OTHER_LABELS = {
    "segments": "reserved beyond what is allocated",
    "outside": "outside PyTorch's allocator",
}
PIPED_WIDTH = 10_000
"""Who reads a pipe wants formulas whole."""


def show_explanation(
    report: MemoryReport,
    explanation: Explanation,
    top: int,
    console: Console | None = None,
) -> None:
    """Print the `top` largest terms of each component."""
    console = console or Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_WIDTH
    peak = report.peak
    trains = report.plan is None or not report.plan.generates
    steps = f" (step {peak.step} and later)" if trains else ""
    parts: list[RenderableType] = [
        Text(""),
        Text(f"Term by term, at the peak in {peak.phase}{steps}"),
    ]
    by_component = [
        (component, list(terms))
        for component, terms in groupby(explanation.terms, lambda one: one.component)
    ]
    letters = _letters(
        explanation, [one for _, terms in by_component for one in _listed(terms, top)]
    )
    if letters:
        parts.append(Padding(labelled(*letters), (0, 0, 0, 2)))
    for component, terms in by_component:
        parts += [Text(""), *_component(component, terms, top)]
    total = sum(term.bytes for term in explanation.terms)
    parts += [Text(""), Text(f"{format_gib(total)} on the device in all")]
    print_lines(console, Group(*parts))


def _listed(terms: Sequence[Term], top: int) -> Sequence[Term]:
    """The largest; one more alone takes no more room by its name."""
    return terms if len(terms) == top + 1 else terms[:top]


def _letters(
    explanation: Explanation, listed: Sequence[Term]
) -> list[tuple[str, list[str]]]:
    """Those of the formulas that are listed, and what they mean."""
    used = {word for term in listed for word in term.formula.split()}
    return [
        (letter, [what])
        for letter, what in explanation.letters.items()
        if letter in used
    ]


def _component(
    component: str, terms: Sequence[Term], top: int
) -> tuple[RenderableType, RenderableType]:
    """Its total, and its terms below."""
    total = sum(term.bytes for term in terms)
    label = LABELS.get(component) or OTHER_LABELS[component]
    title = Text.assemble((label, "bold"), f"  {format_gib(total)} = {total:,} B")
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    above = ""
    listed = _listed(terms, top)
    for term in listed:
        text = Text(term.name)
        text.append(f"\n{term.formula}")
        if term.source != above:
            text.append(f"\n{term.source}", "dim")
        table.add_row(format_gib(term.bytes), text)
        above = term.source
    if rest := terms[len(listed) :]:
        left = sum(term.bytes for term in rest)
        more = f"in {len(rest)} smaller terms (--top shows more)"
        table.add_row(format_gib(left), Text(more))
    return title, Padding(table, (0, 0, 0, 2))
