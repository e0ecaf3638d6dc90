"""A recommendation in a terminal: the best, its rivals, and why the others lost."""

from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from memplan.searching.recommendation import Choice, Loser, Recommendation
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
        return [Text.assemble(("nothing fits", "bold red"), f"  {run}")]
    run = f"{found.plan.model}, {batch}, on {best.cluster}"
    lines = [Text.assemble(("recommended", "bold green"), f"  {run}")]
    lines.append(Text(f"{_way(best)}"))
    if best.throughput is not None:
        rates = f"{_rate(best.throughput.samples_per_s)} samples/s"
        if best.throughput.tokens_per_s is not None:
            rates += f", {best.throughput.tokens_per_s:,.0f} tokens/s"
        lines.append(Text(f"{rates}{_cost(best)}"))
    return lines


def _cost(choice: Choice) -> str:
    if choice.price is None:
        return "; no price"
    hourly = f"; {choice.price.usd_per_hour:.2f} USD/h at {choice.price.provider}"
    million = choice.usd_per_million_tokens
    if million is not None:
        return f"{hourly}, {million:.2f} USD a million tokens"
    return f"{hourly}, {choice.usd_per_million_samples:.2f} USD a million samples"


def _choices(choices: Sequence[Choice]) -> RenderableType:
    unit = "tokens" if choices[0].usd_per_million_tokens is not None else "samples"
    has_runs = any(choice.confirmed for choice in choices)
    headings = ["samples/s", "MFU", "USD/h", f"USD/M {unit}", "GiB", "front"]
    table = figures_table("cluster", *headings, *(["rehearsed"] if has_runs else []))
    for number, choice in enumerate(choices, 1):
        row = [*_speed(choice), *_price(choice), gib(choice.need_bytes)]
        row.append("*" if choice.is_on_front else "")
        if has_runs:
            row.append(_rehearsed(choice))
        table.add_row(f"{number}. {choice.cluster}", *row)
    return Padding(table, INDENT)


def _speed(choice: Choice) -> tuple[str, str]:
    found = choice.throughput
    if found is None:
        return "-", "-"
    return _rate(found.samples_per_s), f"{found.of_peak_fraction:.0%}"


def _price(choice: Choice) -> tuple[str, str]:
    if choice.price is None:
        return "no price", "-"
    million = choice.usd_per_million_tokens
    if million is None:
        million = choice.usd_per_million_samples
    hourly = f"{choice.price.usd_per_hour:.2f}" + ("!" if choice.is_stale else "")
    return hourly, "-" if million is None else f"{million:.2f}"


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
    """`bf16-mixed, adamw-8bit; 2 samples x 16 accumulated x 8 GPUs`."""
    plan = choice.plan
    tricks = ", ".join(choice.tricks) or "the plan as it is"
    batch, times = plan.per_device_train_batch_size, plan.gradient_accumulation_steps
    return f"{tricks}; {batch} x {times} accumulated x {choice.num_gpus} GPUs"


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
        ("Prices", _prices(shown)),
        ("Rehearsed", _runs(shown)),
        ("Assumed", found.assumptions),
        ("Next", [_next(found)]),
    )


def _prices(choices: Sequence[Choice]) -> list[str]:
    """Where they are from, each once."""
    lines: dict[str, None] = {}
    for choice in choices:
        if choice.price is None:
            lines[f"{choice.gpu}: no price; it is ranked by throughput alone"] = None
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
        return (
            "memplan recommend with other cards (--gpus), or more tricks (--allow all)"
        )
    if best.confirmed is not None:
        return command_of(best.plan, "profile")
    return command_of(best.plan, "rehearse")


def _rate(per_s: float) -> str:
    """Three digits that count."""
    return f"{per_s:.3g}" if per_s < 100 else f"{per_s:,.0f}"


def _without_repeats(
    rows: Iterable[tuple[str, list[str]]],
) -> list[tuple[str, list[str]]]:
    """Lines under one label where it is the same."""
    lines: dict[str, list[str]] = {}
    for label, some in rows:
        lines.setdefault(label, []).extend(some)
    return list(lines.items())
