"""The worst batch in a terminal: verdict, percentiles, cause, and what would help."""

import shlex
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from memplan.batching.worst import BatchMemory, Cause, WorstBatch
from memplan.units import format_gib
from memplan.views.tables import figures_table, gib, labelled, print_lines

HEADINGS = {
    "per_device_train_batch_size": "samples",
    "seq_len": "tokens",
    "target_seq_len": "target tokens",
    "images_per_sample": "pictures",
    "image_size": "pixels a side",
}
ORDERS = {
    "random": "shuffled",
    "sequential": "in the order of the file",
    "group_by_length": "grouped by length",
}
PACKED = {
    "wrapped": "packed, tokens cut into full rows",
    "bfd": "packed, whole samples by best fit",
}


def show_worst_batch(found: WorstBatch, console: Console | None = None) -> None:
    """Print what was found."""
    print_lines(console, render_worst_batch(found))


def render_worst_batch(found: WorstBatch) -> RenderableType:
    """Verdict first; then how batches differ, and what the worst of them is due to."""
    epochs = "1 epoch" if found.rule.epochs == 1 else f"{found.rule.epochs} epochs"
    shapes = "one shape" if found.num_shapes == 1 else f"{found.num_shapes} shapes"
    title = f"{found.num_batches} batches of {epochs}, of {shapes} (estimated)"
    return Group(
        _verdict(found),
        Text(""),
        Text(title),
        Padding(_batches(found), (0, 0, 0, 2)),
        Text(""),
        _facts(found),
    )


def _verdict(found: WorstBatch) -> Text:
    report = found.report
    gpu, num_gpus = report.device.gpu, report.num_gpus
    cards = f"{num_gpus} x {gpu}" if num_gpus > 1 else gpu
    size = format_gib(report.peak.device_bytes)
    run = f"  {report.model.name} on {cards}: the worst batch takes {size}"
    if report.fits_narrowly:
        return Text.assemble(("fits, narrowly", "bold yellow"), run)
    if report.fits:
        return Text.assemble(("fits", "bold green"), run)
    missing = f", {format_gib(-report.headroom_bytes)} too much"
    return Text.assemble(("does not fit", "bold red"), run, missing)


def _batches(found: WorstBatch) -> RenderableType:
    fields = list(found.worst.shape)
    table = figures_table("", *(HEADINGS[name] for name in fields), "GiB", "fits")

    def add(label: str, batch: BatchMemory) -> None:
        sizes = (str(size) for size in batch.shape.values())
        fits = "yes" if batch.fits else "no"
        table.add_row(label, *sizes, gib(batch.device_bytes), fits)

    for one in found.percentiles:
        add(f"{one.percent} % take at most", one)
    add("the worst of them", found.worst)
    if found.possible is not None and found.possible.shape != found.worst.shape:
        add("the worst there can be", found.possible)
    return table


def _facts(found: WorstBatch) -> RenderableType:
    cause = found.worst.cause
    return labelled(
        ("Where", [_place(found)]),
        ("Cause", [_cause(found, cause)] if cause is not None else []),
        ("Chance", _chance(found)),
        ("Lengths", _lengths(found)),
        ("Data", [_data(found)]),
        ("Batches", [_rule(found)]),
        ("Assumed", found.assumptions),
        ("Not modelled", found.unsupported),
        ("Fits with", _hints(found)),
        ("Next", [shlex.join(found.command)]),
    )


def _place(found: WorstBatch) -> str:
    worst = found.worst
    where = f"epoch {worst.epoch}, step {worst.step}"
    if found.plan.gradient_accumulation_steps > 1:
        where += f", micro-batch {worst.micro_batch}"
    if found.plan.data_parallel > 1:
        where += f", data-parallel rank {worst.rank}"
    return where


def _cause(found: WorstBatch, cause: Cause) -> str:
    """`row 12 of train.jsonl (page-7), 4096 tokens; without it, 31.20 GiB`."""
    sizes = ", ".join(f"{n} {HEADINGS[name]}" for name, n in cause.sizes.items())
    if cause.row is None:
        said = f"a sample with {sizes}"
    else:
        name = f" ({cause.id})" if cause.id is not None else ""
        said = f"row {cause.row}{name} with {sizes}"
    if cause.num_alike > 1:
        said += f", one of {cause.num_alike} as large"
    return f"{said}; without it, the worst takes {format_gib(cause.without_bytes)}"


def _chance(found: WorstBatch) -> list[str]:
    """Of the worst there can be; a rare one in epochs between."""
    expected = found.possible.expected_per_epoch if found.possible else None
    if expected is None:
        return []
    what = "the worst there can be: "
    if expected >= 0.95:
        return [f"{what}on average {expected:.3g} of an epoch's batches"]
    if expected < 1e-12:
        return [f"{what}a bound, which no batch reaches"]
    return [f"{what}on average one in {1 / expected:.3g} epochs"]


def _lengths(found: WorstBatch) -> list[str]:
    longest = found.data.longest_of_a_batch
    if not longest:
        return []
    parts = ", ".join(f"{p} % to {length}" for p, length in longest.items())
    return [f"of all random batches {parts} tokens at most (closed form)"]


def _data(found: WorstBatch) -> str:
    data = found.data
    noun = "samples" if found.rule.packing == "none" else "rows"
    said = f"{data.num_samples} {noun} of {data.source}"
    for count, what in (
        (data.num_skipped, "bad records skipped"),
        (data.num_truncated, "truncated"),
        (data.num_dropped, "longer ones left out"),
    ):
        if count:
            said += f", {count} {what}"
    return said


def _rule(found: WorstBatch) -> str:
    rule = found.rule
    parts: list[str] = [ORDERS[rule.sampling]]
    if rule.packing != "none":
        parts.insert(0, PACKED[rule.packing])
    if rule.max_tokens_per_batch is not None:
        parts.append(f"up to {rule.max_tokens_per_batch} tokens")
    padding = "padded to the longest"
    if rule.pad_to_multiple_of is not None:
        padding += f", to a multiple of {rule.pad_to_multiple_of}"
    return ", ".join([*parts, padding])


def _hints(found: WorstBatch) -> Iterable[str]:
    for hint in found.hints:
        yield f"{hint.flags}: {format_gib(hint.device_bytes)}, {hint.effect}"
