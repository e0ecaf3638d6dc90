"""What measured records say of the closed form, card by card: the band's measured part.

    text = as_toml(accuracies_of(validate(records_under(measured_folder()))))

`scripts/accuracy` writes it to profiles/accuracy/measured.toml, where `accuracy.py`
finds it. Rehearsals are no measurements and never come in here.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date

from memplan.estimating.accuracy import KINDS, MeasuredAccuracy
from memplan.validation.cases import Case
from memplan.validation.validate import Validation

Key = tuple[str, str]
"""The kind of plan and the card."""


def accuracies_of(validation: Validation) -> dict[Key, MeasuredAccuracy]:
    """Errors of the estimates, by kind of plan and by card.

    Raises:
        ValueError: the records are not measured.
    """
    if validation.reference != "measured":
        raise ValueError("rehearsed records say nothing of a card")
    cases: dict[Key, list[Case]] = {}
    for case in validation.of("estimated"):
        if case.difference is not None:
            key = (KINDS[case.plan.generates], case.plan.gpu)
            cases.setdefault(key, []).append(case)
    return {key: _accuracy(cases[key]) for key in sorted(cases)}


def as_toml(accuracies: Mapping[Key, MeasuredAccuracy]) -> str:
    """The file's text; empty where nothing was measured."""
    if not accuracies:
        return ""
    tables = ["# Written by scripts/accuracy from profiles/measured; not by hand.\n"]
    for (kind, gpu), accuracy in accuracies.items():
        lines = [f"{name} = {toml_value(v)}\n" for name, v in asdict(accuracy).items()]
        tables.append(f"\n[{kind}.{gpu}]\n{''.join(lines)}")
    return "".join(tables)


def _accuracy(cases: Sequence[Case]) -> MeasuredAccuracy:
    differences = [case.difference for case in cases if case.difference is not None]
    errors = [d.allocated.difference_fraction or 0.0 for d in differences]
    measured = [difference.a for difference in differences]
    ratios = sorted(
        report.peak.reserved_bytes / report.peak.allocated_bytes for report in measured
    )
    return MeasuredAccuracy(
        num_plans=len(errors),
        torch=tuple(sorted({report.device.torch for report in measured})),
        compared_on=date.today().isoformat(),
        lowest_error_fraction=min(errors),
        highest_error_fraction=max(errors),
        median_absolute_error_fraction=statistics.median(map(abs, errors)),
        median_reserved_over_allocated=statistics.median(ratios),
        ninth_decile_reserved_over_allocated=ratios[math.ceil(0.9 * len(ratios)) - 1],
    )


def toml_value(value: object) -> str:
    """A value as TOML has it; of a fraction six places say enough."""
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{name} = {toml_value(v)}" for name, v in value.items())
        return f"{{ {pairs} }}"
    return f'"{value}"' if isinstance(value, str) else str(value)
