"""The classic table: does a technique help speed, does it help memory, with figures."""

from collections.abc import Mapping, Sequence

from memplan.comparing.comparison import Helps, LeftOut, TechniqueRow, Variant
from memplan.tricks.trick import TECHNIQUES, Technique, Trick

CLASSIC: tuple[Technique, ...] = (
    "gradient accumulation",
    "gradient checkpointing",
    "mixed precision",
    "batch size",
    "optimizer choice",
    "DataLoader",
    "ZeRO and FSDP",
)
"""The rows that transformers' documentation has: each is there, whatever was asked."""
HOST = "DataLoader"
LITTLE = 0.01
"""Less than this is neither help nor cost."""


def table_of(
    baseline: Variant,
    alone: Mapping[str, Variant],
    tricks: Sequence[Trick],
    left_out: Sequence[LeftOut],
) -> tuple[TechniqueRow, ...]:
    """A row for each technique, classic ones first.

    Args:
        baseline: the plan as it is.
        alone: each trick by itself, by name.
        tricks: all that were asked for.
        left_out: those of them that were not looked at.
    """
    occurring = {trick.technique for trick in tricks}
    others = [t for t in TECHNIQUES if t in occurring and t not in CLASSIC]
    reasons = {one.name: one.reason for one in left_out}
    rows = []
    for technique in (*CLASSIC, *others):
        names = [trick.name for trick in tricks if trick.technique == technique]
        variants = [alone[name] for name in names if name in alone]
        why = [reasons[name] for name in names if name in reasons]
        rows.append(_row(technique, baseline, variants, why))
    return tuple(rows)


def _row(
    technique: Technique,
    baseline: Variant,
    variants: Sequence[Variant],
    reasons: Sequence[str],
) -> TechniqueRow:
    """By the trick that saves most."""
    if not variants:
        is_of_host = technique == HOST
        return TechniqueRow(
            technique=technique,
            best=None,
            memory="no" if is_of_host else "unknown",
            saved_bytes=None,
            speed="unknown",
            speed_change_fraction=None,
            note=_why_not(technique, reasons),
        )
    best = min(variants, key=lambda variant: variant.need_bytes)
    saved = baseline.need_bytes - best.need_bytes
    change = change_of_speed(baseline, best)
    return TechniqueRow(
        technique=technique,
        best=best.tricks[-1],
        memory=_helps(saved / max(baseline.need_bytes, 1)),
        saved_bytes=saved,
        speed="unknown" if change is None else _helps(change),
        speed_change_fraction=change,
        note=best.note,
    )


def change_of_speed(baseline: Variant, variant: Variant) -> float | None:
    """Of samples per second; None where either is not known, or by another way."""
    before, after = baseline.speed, variant.speed
    if before is None or after is None or before.basis != after.basis:
        return None
    return after.samples_per_s / before.samples_per_s - 1


def _helps(fraction: float) -> Helps:
    if abs(fraction) <= LITTLE:
        return "no"
    return "yes" if fraction > 0 else "costs"


def _why_not(technique: Technique, reasons: Sequence[str]) -> str:
    if reasons:
        return reasons[0]
    if technique == HOST:
        return "workers and pinned memory are the host's; profile measures the wait"
    return "not asked for"
