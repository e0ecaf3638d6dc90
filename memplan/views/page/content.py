"""What stands on a page, and in which order; what there is nothing for is left out."""

from collections.abc import Iterator, Sequence

from memplan.comparing.comparison import Comparison
from memplan.views.page.budget import budget_plot
from memplan.views.page.dumbbell import (
    differing_table,
    dumbbell_plot,
    groups_of,
    others_table,
)
from memplan.views.page.environment import environment_blocks
from memplan.views.page.inputs import (
    Entry,
    Input,
    comparisons_of,
    entries_of,
    run_of,
)
from memplan.views.page.pareto import (
    budget_of,
    pareto_plot,
    points_of_comparison,
    points_of_entries,
)
from memplan.views.page.parts import Block, Page, Section
from memplan.views.page.timeline import timeline_plot
from memplan.views.page.treemap import treemap_plot
from memplan.views.page.tricks import titles_of, trick_tables
from memplan.views.page.verdict import verdict_of, verdict_of_comparison
from memplan.views.page.waterfall import AS_IT_IS, step_labels, waterfall_plot

MOST_DUMBBELLS = 3


def page_of(inputs: Sequence[Input], title: str = "") -> Page:
    """The page of some files."""
    entries, comparisons = entries_of(inputs), comparisons_of(inputs)
    chains = tuple(map(_chain, comparisons))
    verdicts = (
        *(verdict_of_comparison(comparison) for comparison in comparisons),
        *(verdict_of(entry) for entry in entries),
    )
    drawn = (*entries, *_before_and_after(comparisons))
    sections = (
        Section(
            name="budget",
            title="What holds the memory",
            blocks=tuple(_budgets(entries, chains)),
        ),
        Section(
            name="tricks",
            title="What each trick saves",
            blocks=tuple(_tricks(comparisons)),
        ),
        Section(
            name="speed",
            title="What it costs in speed",
            blocks=tuple(_speeds(entries, comparisons)),
        ),
        Section(
            name="step",
            title="Over one step",
            blocks=_plots(timeline_plot(e, f"step-{n}") for n, e in enumerate(drawn)),
        ),
        Section(
            name="modules",
            title="Whose it is",
            blocks=_plots(treemap_plot(e, f"modules-{n}") for n, e in enumerate(drawn)),
        ),
        Section(
            name="accuracy",
            title="Predicted and seen",
            blocks=tuple(_dumbbells([*entries, *_variants(comparisons)])),
        ),
        Section(
            name="environment",
            title="Environment and commands",
            blocks=environment_blocks(inputs, entries, comparisons),
        ),
    )
    return Page(
        title=title or _title(entries, comparisons),
        verdicts=verdicts,
        sections=tuple(section for section in sections if section.blocks),
    )


def _title(entries: Sequence[Entry], comparisons: Sequence[Comparison]) -> str:
    """The run, if it is one; else how many."""
    reports = [entry.report for entry in entries]
    reports += [comparison.baseline.report for comparison in comparisons]
    runs = list(dict.fromkeys(map(run_of, reports)))
    return runs[0] if len(runs) == 1 else f"{len(runs)} runs"


def _chain(comparison: Comparison) -> tuple[Entry, ...]:
    """The plan as it is and with one trick more at a time."""
    variants = (comparison.baseline, *comparison.greedy)
    return tuple(
        Entry(label=label, report=variant.report)
        for label, variant in zip(step_labels(comparison), variants, strict=True)
    )


def _before_and_after(comparisons: Sequence[Comparison]) -> Iterator[Entry]:
    """Of each comparison the plan as it is, and the recipe that it led to."""
    for comparison in comparisons:
        yield Entry(label=AS_IT_IS, report=comparison.baseline.report)
        count = comparison.fits_after or len(comparison.greedy)
        if comparison.greedy and not comparison.baseline.report.fits:
            tricks = "1 trick" if count == 1 else f"{count} tricks"
            report = comparison.greedy[count - 1].report
            yield Entry(label=f"after {tricks}", report=report)


def _budgets(
    entries: Sequence[Entry], chains: Sequence[Sequence[Entry]]
) -> Iterator[Block]:
    """Reports together; each chain by itself."""
    if entries:
        yield budget_plot(entries)
    for number, chain in enumerate(chains):
        yield budget_plot(
            chain,
            f"budget-tricks-{number}",
            "Held at the peak, with one trick after another",
        )


def _tricks(comparisons: Sequence[Comparison]) -> Iterator[Block]:
    for number, comparison in enumerate(comparisons):
        plot = waterfall_plot(comparison, f"tricks-{number}")
        if plot is not None:
            yield plot
        yield from trick_tables(comparison)


def _speeds(
    entries: Sequence[Entry], comparisons: Sequence[Comparison]
) -> Iterator[Block]:
    plots = [
        pareto_plot(
            points_of_comparison(comparison), budget_of(comparison), f"speed-{number}"
        )
        for number, comparison in enumerate(comparisons)
    ]
    plots.append(pareto_plot(points_of_entries(entries), None, "speed"))
    yield from (plot for plot in plots if plot is not None)


def _plots(blocks: Iterator[Block | None]) -> tuple[Block, ...]:
    return tuple(block for block in blocks if block is not None)


def _variants(comparisons: Sequence[Comparison]) -> Iterator[Entry]:
    for comparison in comparisons:
        for variant in (comparison.baseline, *comparison.greedy, *comparison.alone):
            label = titles_of(comparison, variant)
            yield Entry(label=label, report=variant.report)


def _dumbbells(entries: Sequence[Entry]) -> Iterator[Block]:
    """The first plans as plots; of a whole comparison the others as one table."""
    groups = groups_of(entries)
    for number, group in enumerate(groups[:MOST_DUMBBELLS]):
        yield dumbbell_plot(group, f"accuracy-{number}")
        table = differing_table(group)
        if table is not None:
            yield table
    if len(groups) > MOST_DUMBBELLS:
        yield others_table(groups[MOST_DUMBBELLS:])
