"""A recommendation in a terminal: the best, its rivals, and why the others lost."""

from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from memplan.searching.recommendation import Choice, Loser, Recommendation
from memplan.searching.throughput import Throughput
from memplan.units import format_gib
from memplan.views.command import command_of
from memplan.views.tables import figures_table, gib, labelled, print_lines

INDENT = (0, 0, 0, 2)
LEGEND = (
    "GiB on each device, with what PyTorch likely reserves. Front: nothing is both "
    "faster and cheaper a sample. MFU: of the card's peak rate."
)


def show_recommendation(
    found: Recommendation, top: int, console: Console | None = None
) -> None:
    """Print so many of the choices, and all that lost."""
    print_lines(console, render_recommendation(found, top))


def render_recommendation(found: Recommendation, top: int) -> RenderableType:
    """Verdict first; then what it rests on."""
    parts: list[RenderableType] = [*_verdict(found)]
    shown = found.choices[:top]
    if shown:
        title = f"The {found.rank_by} of each cluster, predicted"
        parts += [Text(""), Text(title), _choices(shown)]
        parts += [_ways(shown), Padding(Text(LEGEND, "dim"), INDENT)]
    if found.clusters_lost:
        parts += [Text(""), Text("Clusters that lost"), _losers(found.clusters_lost)]
    if found.beside_best:
        title = "The first choice, changed in one thing"
        parts += [Text(""), Text(title), _losers(found.beside_best)]
    return Group(*parts, Text(""), _facts(found, shown))


def _verdict(found: Recommendation) -> list[Text]:
    best = found.best
    batch = f"{found.global_batch} samples a step"
    if best is None:
        run = f"{found.plan.model}, {batch}"
        all_dear = all(one.lost == "over budget" for one in found.clusters_lost)
        verdict = "over budget" if all_dear else "nothing fits"
        return [Text.assemble((verdict, "bold red"), f"  {run}")]
    run = f"{found.plan.model}, {batch}, on {best.cluster}"
    lines = [Text.assemble(("recommended", "bold green"), f"  {run}")]
    lines.append(Text(_way(best)))
    if best.throughput is not None:
        rates = f"{_rate(best.throughput)} samples/s"
        if best.throughput.tokens_per_s is not None:
            rates += f", {best.throughput.tokens_per_s:,.0f} tokens/s"
        lines.append(Text(f"{rates}{_cost(best)}"))
    return lines


def _cost(choice: Choice) -> str:
    if choice.price is None:
        return "; no price"
    hourly = f"; {choice.price.usd_per_hour:.2f} USD/h at {choice.price.provider}"
    if choice.usd_per_million_tokens is not None:
        return f"{hourly}, {_usd(choice.usd_per_million_tokens)} USD a million tokens"
    if choice.usd_per_million_samples is not None:
        return f"{hourly}, {_usd(choice.usd_per_million_samples)} USD a million samples"
    return hourly


def _choices(choices: Sequence[Choice]) -> RenderableType:
    has_tokens = any(one.throughput and one.throughput.tokens_per_s for one in choices)
    unit = "tokens" if has_tokens else "samples"
    has_runs = any(choice.confirmed for choice in choices)
    last = "rehearsed" if has_runs else "MFU"
    headings = ("samples/s", "USD/h", f"USD/M {unit}", "front", "GiB", last)
    table = figures_table("cluster", *headings)
    for number, choice in enumerate(choices, 1):
        table.add_row(
            f"{number}. {choice.cluster}",
            "-" if choice.throughput is None else _rate(choice.throughput),
            *_price(choice),
            "*" if choice.is_on_front else "",
            gib(choice.need_bytes),
            _rehearsed(choice) if has_runs else _of_peak(choice),
        )
    return Padding(table, INDENT)


def _of_peak(choice: Choice) -> str:
    found = choice.throughput
    return "-" if found is None else f"{found.of_peak_fraction:.0%}"


def _price(choice: Choice) -> tuple[str, str]:
    if choice.price is None:
        return "no price", "-"
    million = choice.usd_per_million_tokens
    if million is None:
        million = choice.usd_per_million_samples
    hourly = f"{choice.price.usd_per_hour:.2f}" + ("!" if choice.is_stale else "")
    return hourly, "-" if million is None else _usd(million)


def _rehearsed(choice: Choice) -> str:
    seen = choice.confirmed
    if seen is None or seen.device_bytes is None:
        return "-"
    return gib(seen.device_bytes) + ("" if seen.fits else " no")


def _ways(choices: Sequence[Choice]) -> RenderableType:
    """How each is run, under the number it has in the table."""
    table = figures_table("", "")
    table.columns[1].justify = "left"
    table.columns[1].no_wrap = False
    table.show_header = False
    for number, choice in enumerate(choices, 1):
        table.add_row(f"{number}.", _way(choice))
    return Padding(table, INDENT)


def _way(choice: Choice) -> str:
    """`bf16-mixed, adamw-8bit: 2 samples x 16 micro-batches x 8 GPUs`."""
    plan = choice.plan
    factors = (
        _counted(plan.per_device_train_batch_size, "sample", "samples"),
        _counted(plan.gradient_accumulation_steps, "micro-batch", "micro-batches"),
        _counted(choice.num_gpus, "GPU", "GPUs"),
    )
    return f"{', '.join(choice.tricks) or 'as it is'}: {' x '.join(factors)}"


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _losers(losers: Iterable[Loser]) -> RenderableType:
    """Why, and who lost for it, a line a reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for loser in losers:
        reasons.setdefault((loser.lost, loser.reason), []).append(loser.what)
    rows = [
        (lost, [f"{', '.join(whats)}: {reason}"])
        for (lost, reason), whats in sorted(reasons.items(), key=lambda row: row[0][0])
    ]
    return Padding(labelled(*_without_repeats(rows)), INDENT)


def _facts(found: Recommendation, shown: Sequence[Choice]) -> RenderableType:
    counted = (
        f"{found.num_considered:,} plans considered, {found.num_estimated:,} of them "
        "estimated"
    )
    return labelled(
        ("Searched", [counted, ", ".join(found.tricks)]),
        ("Prices", _prices(found, shown)),
        ("Rehearsed", _runs(shown)),
        ("Assumed", found.assumptions),
        ("Next", [_next(found)]),
    )


def _prices(found: Recommendation, choices: Sequence[Choice]) -> list[str]:
    """Where they are from, each once."""
    unknown = "no price; it is ranked by throughput alone"
    if found.budget_usd_per_hour is not None:
        unknown += ", and may be over the budget"
    lines: dict[str, None] = {}
    for choice in choices:
        if choice.price is None:
            lines[f"{choice.gpu}: {unknown}"] = None
            continue
        stale = "! stale, " if choice.is_stale else ""
        price = choice.price
        known = f"{price.provider}, {stale}as of {price.as_of}"
        lines[f"{choice.gpu}: {known}; {price.source}"] = None
    return list(lines)


def _runs(choices: Sequence[Choice]) -> list[str]:
    """What those that did not go through say."""
    lines = []
    for choice in choices:
        seen = choice.confirmed
        if seen is None:
            continue
        if seen.device_bytes is None:
            lines.append(f"{choice.cluster}: {seen.reason}")
        elif not seen.fits:
            over = format_gib(seen.device_bytes - choice.room_bytes)
            lines.append(f"{choice.cluster}: it does not fit, {over} too much")
    return lines


def _next(found: Recommendation) -> str:
    best = found.best
    if best is None:
        return "other cards (--gpus), more tricks (--allow all), or another --budget"
    if best.confirmed is not None:
        return command_of(best.plan, "profile")
    return command_of(best.plan, "rehearse")


def _rate(found: Throughput) -> str:
    """Samples a second, in three digits that count."""
    per_s = found.samples_per_s
    return f"{per_s:.3g}" if per_s < 100 else f"{per_s:,.0f}"


def _usd(amount: float) -> str:
    """Cents, or of less than ten of them two digits that count."""
    return f"{amount:.2g}" if amount < 0.1 else f"{amount:,.2f}"


def _without_repeats(
    rows: Iterable[tuple[str, list[str]]],
) -> list[tuple[str, list[str]]]:
    """Lines under one label where it is the same."""
    lines: dict[str, list[str]] = {}
    for label, some in rows:
        lines.setdefault(label, []).extend(some)
    return list(lines.items())
