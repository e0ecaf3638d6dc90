"""Whether it fits, first: of each report, and of the plan that tricks were tried on."""

from memplan.comparing.comparison import Comparison
from memplan.errors import MemplanError
from memplan.report import MemoryReport
from memplan.units import format_gib
from memplan.views.hints import next_command
from memplan.views.page.budget import budget_bytes
from memplan.views.page.inputs import Entry, command_behind, run_of
from memplan.views.page.parts import Verdict
from memplan.views.page.tricks import title_of


def verdict_of(entry: Entry) -> Verdict:
    """Of one report; of one that does not fit, what was found to help."""
    report = entry.report
    advice, command = _advice(report)
    return Verdict(
        fits=report.fits,
        word=word_of(report),
        run=run_of(report),
        margin=margin_of(report),
        need=need_of(report),
        source=entry.label.removeprefix(f"{run_of(report)}, "),
        advice=advice,
        command=command,
    )


def _changing_least(comparison: Comparison, name: str) -> str:
    variant = next(one for one in comparison.alone if one.tricks == (name,))
    return (
        f"What changes least and fits alone is {title_of(comparison, name)}: "
        f"{format_gib(variant.need_bytes)}."
    )


def verdict_of_comparison(comparison: Comparison) -> Verdict:
    """Of the plan as it is, and the recipe that tricks lead to."""
    report = comparison.baseline.report
    count = comparison.fits_after
    advice, command = "", ""
    if not report.fits and count:
        variant = comparison.greedy[count - 1]
        names = [title_of(comparison, name) for name in variant.tricks]
        advice = (
            f"It fits with {_listed(names)}: {format_gib(variant.need_bytes)} on the "
            "device."
        )
        command = variant.command
        gentlest = comparison.gentlest
        if gentlest is not None and variant.tricks != (gentlest,):
            advice += f" {_changing_least(comparison, gentlest)}"
    elif not report.fits:
        least = min(
            (variant.need_bytes for variant in comparison.greedy),
            default=comparison.baseline.need_bytes,
        )
        advice = (
            "With every trick that was looked at it takes "
            f"{format_gib(least)}, which is still too much."
        )
    return Verdict(
        fits=report.fits,
        word=word_of(report),
        run=run_of(report),
        margin=margin_of(report),
        need=need_of(report),
        source=report.source,
        advice=advice,
        command=command,
    )


def word_of(report: MemoryReport) -> str:
    """The verdict in a word or two."""
    if report.fits_narrowly:
        return "fits, narrowly"
    return "fits" if report.fits else "does not fit"


def margin_of(report: MemoryReport) -> str:
    """`7.97 GiB to spare`, `46.84 GiB too much`, or where memory ended."""
    size = format_gib(abs(report.headroom_bytes))
    if report.fits_narrowly:
        return f"{size} to spare before fragmentation"
    if report.fits:
        return f"{size} to spare"
    error = report.out_of_memory
    if error is None:
        return f"{size} too much"
    where = f"{error.phase} of step {error.step}" if error.step else error.phase
    return f"out of memory, {where}"


def need_of(report: MemoryReport) -> str:
    """`Budget 79.18 GiB x 95% = 75.22 GiB; need 0.49 GiB outside ...`."""
    peak, device = report.peak, report.device
    share = 1 - report.headroom_fraction
    budget = budget_bytes(report)
    outside = peak.device_bytes - peak.reserved_bytes
    return (
        f"Budget {format_gib(device.total_bytes)} x {share:.0%} = "
        f"{format_gib(budget)}; "
        f"need {format_gib(outside)} outside the allocator + "
        f"{format_gib(peak.reserved_bytes)} reserved = {format_gib(peak.device_bytes)}"
    )


def _advice(report: MemoryReport) -> tuple[str, str]:
    """A sentence, and what to type; of a run that fits neither."""
    error = report.out_of_memory
    if report.fits:
        return "", ""
    if error is not None and error.remedies:
        first = error.remedies[0]
        need = format_gib(first.device_bytes)
        return f"{first.change} makes it fit: {need} ({first.basis}).", ""
    if report.plan is None:
        return "", ""
    try:
        return "A plan that fits, or every card:", next_command(report, report.plan)
    except MemplanError:  # the model lies on another machine
        return "", command_behind(report)


def _listed(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"
