"""Tricks one after another: what each saves that those before it did not."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from memplan.comparing.comparison import Comparison, Variant, fits_of
from memplan.units import format_gib
from memplan.views.page.budget import budget_bytes
from memplan.views.page.frame import (
    BAR,
    BLUE,
    GREEN,
    MUTED,
    VERMILION,
    gib,
    lay_out_rows,
    mark,
    plain,
)
from memplan.views.page.parts import Plot, Table
from memplan.views.page.tricks import exactness_of, peak_of, title_of, with_speeds

if TYPE_CHECKING:
    import plotly.graph_objects as go

AS_IT_IS = "as it is"


def waterfall_plot(comparison: Comparison, name: str) -> Plot | None:
    """The greedy chain; None where no trick suits the plan."""
    if not comparison.greedy:
        return None
    return Plot(
        name=name,
        title="Tricks, one after another",
        alternative=_in_words(comparison),
        draw=lambda: _draw(comparison),
        table=_table(comparison),
        note="Each trick is added to those above it: first what saves most, then what "
        "saves most of the rest.",
    )


def chain_of(comparison: Comparison) -> tuple[Variant, ...]:
    """The plan as it is, then with one trick more at a time."""
    return (comparison.baseline, *comparison.greedy)


def step_labels(comparison: Comparison) -> list[str]:
    """The plan, and of each later one what was added."""
    added = [f"+ {title_of(comparison, one.tricks[-1])}" for one in comparison.greedy]
    return [AS_IT_IS, *added]


def _draw(comparison: Comparison) -> "go.Figure":
    import plotly.graph_objects as go

    chain = chain_of(comparison)
    names = [*step_labels(comparison), "with all of them"]
    needs = [variant.need_bytes for variant in chain]
    changes = [after - before for before, after in pairwise(needs)]
    said = [
        format_gib(needs[0]),
        *(
            f"{_signed(change)}, then {format_gib(need)}"
            for change, need in zip(changes, needs[1:], strict=True)
        ),
        format_gib(needs[-1]),
    ]
    figure = go.Figure()
    figure.add_waterfall(
        orientation="h",
        y=list(range(len(names))),
        x=[gib(needs[0]), *map(gib, changes), gib(needs[-1])],
        measure=["absolute", *("relative" for _ in changes), "total"],
        width=BAR,
        customdata=[
            [plain(name), text] for name, text in zip(names, said, strict=True)
        ],
        hovertemplate="%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
        decreasing={"marker": {"color": GREEN}},
        increasing={"marker": {"color": VERMILION}},
        totals={"marker": {"color": BLUE}},
        connector={"line": {"color": MUTED, "width": 1}},
        showlegend=False,
    )
    lay_out_rows(figure, names, "GiB on the device")
    budget = budget_bytes(comparison.baseline.report)
    mark(figure, gib(budget), f"budget {format_gib(budget)}")
    return figure


def _table(comparison: Comparison) -> Table:
    chain = chain_of(comparison)
    needs = [variant.need_bytes for variant in chain]
    saved = [None, *(before - after for before, after in pairwise(needs))]
    labels = step_labels(comparison)
    rows = [
        (
            label,
            saving,
            variant.need_bytes,
            fits_of(variant.report),
            peak_of(variant),
            exactness_of(comparison, variant),
        )
        for label, saving, variant in zip(labels, saved, chain, strict=True)
    ]
    return with_speeds(
        Table(
            caption="One after another",
            head=("step", "saves", "then on the device", "fits", "peak in", "results"),
            rows=tuple(rows),
            texts=(0, 3, 4, 5),
        ),
        chain,
    )


def _signed(size_bytes: int) -> str:
    return f"{'+' * (size_bytes > 0)}{format_gib(size_bytes)}"


def _in_words(comparison: Comparison) -> str:
    chain: Sequence[Variant] = chain_of(comparison)
    said = [
        f"{label} {format_gib(variant.need_bytes)}"
        for label, variant in zip(step_labels(comparison), chain, strict=True)
    ]
    budget = format_gib(budget_bytes(comparison.baseline.report))
    return f"Waterfall to a budget of {budget}: {', '.join(said)}."
