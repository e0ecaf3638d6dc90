"""Tricks in words and tables: each alone, the classic table, what was left out."""

from collections.abc import Iterator

from memplan.comparing.comparison import Comparison, Entry, Variant
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


def speed_of(variant: Variant) -> str | None:
    """`12.3 samples/s (measured)`."""
    speed = variant.speed
    return f"{speed.samples_per_s:.3g} samples/s ({speed.basis})" if speed else None


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
            head=("trick", "why"),
            rows=tuple((one.name, one.reason) for one in comparison.left_out),
            texts=(0, 1),
        )


def _entry(comparison: Comparison, name: str) -> Entry | None:
    return next((one for one in comparison.entries if one.name == name), None)


def _alone(comparison: Comparison) -> Table:
    baseline = comparison.baseline
    has_speeds = any(variant.speed for variant in comparison.alone)
    head = ["trick", "flags", "saves", "then on the device", "fits", "peak in"]
    rows = []
    for variant in comparison.alone:
        row: list[Cell] = [
            titles_of(comparison, variant),
            variant.flags,
            baseline.need_bytes - variant.need_bytes,
            variant.need_bytes,
            "yes" if variant.report.fits else "no",
            peak_of(variant),
        ]
        if has_speeds:
            row.append(speed_of(variant))
        rows.append(tuple(row))
    if has_speeds:
        head.append("speed")
    return Table(
        caption="Each trick alone",
        head=tuple(head),
        rows=tuple(rows),
        texts=(0, 1, 4, 5),
    )


def _classic(comparison: Comparison) -> Table:
    """Does it help speed, does it help memory: with the figures of this plan."""
    rows = []
    for row in comparison.table:
        change = row.speed_change_fraction
        rows.append(
            (
                row.technique,
                row.memory,
                row.saved_bytes,
                row.speed,
                None if change is None else f"{change:+.0%}",
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
