"""Tricks in words and tables: each alone, the classic table, what was left out."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from memplan.comparing.comparison import Comparison, Entry, Variant, fits_of
from memplan.views.page.parts import Cell, Table


def title_of(comparison: Comparison, name: str) -> str:
    """A few words for a trick."""
    entry = _entry(comparison, name)
    return entry.title if entry else name


def titles_of(comparison: Comparison, variant: Variant) -> str:
    """All tricks of a variant, in their order."""
    named = [title_of(comparison, name) for name in variant.tricks]
    return ", ".join(named) or "as it is"


def exactness_of(comparison: Comparison, variant: Variant) -> str | None:
    """What becomes of the results with the last of its tricks."""
    entry = _entry(comparison, variant.tricks[-1]) if variant.tricks else None
    return entry.exactness if entry else None


def peak_of(variant: Variant) -> str:
    """Where memory ended, or its highest point."""
    error = variant.report.out_of_memory
    return error.phase if error is not None else variant.report.peak.phase


def _speeds(
    variants: Sequence[Variant],
) -> tuple[str, list[str | None]] | None:
    """A heading that says how they are known, and a cell each; None: there are none."""
    speeds = [variant.speed for variant in variants]
    bases = sorted({speed.basis for speed in speeds if speed})
    if not bases:
        return None
    cells = [f"{speed.samples_per_s:.3g}" if speed else None for speed in speeds]
    return f"samples/s, {' and '.join(bases)}", cells


def with_speeds(table: Table, variants: Sequence[Variant]) -> Table:
    """The same rows, each with the speed of its variant, where there are speeds."""
    found = _speeds(variants)
    if found is None:
        return table
    heading, cells = found
    rows = [(*row, cell) for row, cell in zip(table.rows, cells, strict=True)]
    return replace(table, head=(*table.head, heading), rows=tuple(rows))


def trick_tables(comparison: Comparison) -> Iterator[Table]:
    """Those that have rows."""
    if comparison.alone:
        yield _alone(comparison)
    if comparison.table:
        yield _classic(comparison)
    if comparison.entries:
        yield _entries(comparison)
    if comparison.left_out:
        yield Table(
            caption="Left out",
            head=("tricks", "why"),
            rows=tuple(
                (", ".join(names), reason) for reason, names in _left_out(comparison)
            ),
            texts=(0, 1),
        )


def _left_out(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """Each reason with the tricks that it keeps out."""
    names: dict[str, list[str]] = {}
    for one in comparison.left_out:
        names.setdefault(one.reason, []).append(one.name)
    yield from names.items()


def _entry(comparison: Comparison, name: str) -> Entry | None:
    return next((one for one in comparison.entries if one.name == name), None)


def _alone(comparison: Comparison) -> Table:
    before = comparison.baseline.need_bytes
    rows: list[tuple[Cell, ...]] = [
        (
            titles_of(comparison, variant),
            variant.flags,
            before - variant.need_bytes,
            variant.need_bytes,
            fits_of(variant.report),
            peak_of(variant),
            exactness_of(comparison, variant),
        )
        for variant in comparison.alone
    ]
    head = ("trick", "flags", "saves", "then on the device", "fits", "peak in")
    return with_speeds(
        Table(
            caption="Each trick alone",
            head=(*head, "results"),
            rows=tuple(rows),
            texts=(0, 1, 4, 5, 6),
        ),
        comparison.alone,
    )


def _classic(comparison: Comparison) -> Table:
    """Does it help speed, does it help memory: with the figures of this plan."""
    rows = []
    for row in comparison.table:
        change = row.speed_change_fraction
        rows.append(
            (
                row.technique,
                None if row.memory == "unknown" else row.memory,
                row.saved_bytes,
                None if row.speed == "unknown" else row.speed,
                None if change is None else _percent(change),
                title_of(comparison, row.best) if row.best else None,
                row.note or None,
            )
        )
    return Table(
        caption="Does it help?",
        head=("technique", "memory", "saves", "speed", "by", "with", ""),
        rows=tuple(rows),
        texts=(0, 1, 3, 5, 6),
    )


def _percent(fraction: float) -> str:
    """`-22%`; what rounds to nothing has no sign."""
    text = f"{fraction:+.0%}"
    return "0%" if text in ("+0%", "-0%") else text


def _entries(comparison: Comparison) -> Table:
    return Table(
        caption="What each trick costs",
        head=("trick", "results", "cost", "source"),
        rows=tuple(
            (one.title, one.exactness, one.cost, one.source)
            for one in comparison.entries
        ),
        texts=(0, 1, 2, 3),
    )
