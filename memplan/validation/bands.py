"""The bands of estimates, made of runs: quantiles by class, and the test of them.

    figures_of(outcomes)                     what profiles/accuracy/rehearsed.toml holds
    left_out(outcomes)["default"]            each plan against the band of the others

A quantile is a rank: of n plans, the k furthest out are left outside, with k the whole
part of (n + 1) times the tail. One plan more then lies outside with no higher chance
than the tail's, whatever the errors are distributed like (split conformal prediction;
arXiv 2107.07511, section 1). A class with too few plans for one whole rank takes those
of the next wider class, and its own extremes where they are further out.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from memplan.estimating.accuracy import (
    ALLOCATED_FRACTION,
    RESERVED_FRACTION,
    ClassFigures,
    LeftOut,
    Spread,
    classes_of,
    rank_outside,
    setting_of,
)
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport
from memplan.validation.calibration import toml_value

Classes = dict[str, ClassFigures]
Tiers = Sequence[tuple[str, Sequence[float]]]
"""Classes with their values, from the narrowest to the widest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a plan took, and what was estimated."""

    name: str
    plan: TrainingPlan
    estimated_bytes: int
    """The allocated peak."""
    allocated_bytes: int
    reserved_bytes: int

    @property
    def error_fraction(self) -> float:
        """Of the estimate; below zero: too low."""
        return self.estimated_bytes / self.allocated_bytes - 1

    @property
    def classes(self) -> tuple[str, ...]:
        return classes_of(self.plan, self.estimated_bytes)


def outcome_of(name: str, estimated: MemoryReport, run: MemoryReport) -> Outcome:
    """The estimate of a plan, held against its run."""
    assert estimated.plan is not None
    return Outcome(
        name=name,
        plan=estimated.plan,
        estimated_bytes=estimated.peak.allocated_bytes,
        allocated_bytes=run.peak.allocated_bytes,
        reserved_bytes=run.peak.reserved_bytes,
    )


def figures_of(outcomes: Sequence[Outcome]) -> dict[str, Classes]:
    """The figures of every class that there are plans of, by setting."""
    return {
        setting: {chain[0]: _figures(chain, found) for chain in _chains(found)}
        for setting, found in by_setting(outcomes).items()
    }


def left_out(outcomes: Sequence[Outcome]) -> dict[str, LeftOut]:
    """Each plan held against the bands that all the others make, by setting.

    A setting of too few plans for a quantile is not in it.
    """
    tested = {
        setting: _left_out(found) for setting, found in by_setting(outcomes).items()
    }
    return {setting: one for setting, one in tested.items() if one is not None}


def by_setting(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes apart by settings of the allocator."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(setting_of(outcome.plan.alloc_conf), []).append(outcome)
    return found


def spread_of(tiers: Tiers, fraction: float) -> Spread:
    """The middle `fraction` of the first tier that has enough values.

    The widest answers with its extremes where it has too few too.
    """
    own = next(values for _, values in tiers if values)
    for name, values in tiers:
        rank = rank_outside(len(values), fraction)
        if rank or name == tiers[-1][0]:
            break
    ordered = sorted(values)
    low, high = ordered[max(rank, 1) - 1], ordered[-max(rank, 1)]
    return Spread(
        of=name,
        num_plans=len(values),
        low=low if values is own else min(low, *own),
        median=statistics.median(own),
        high=high if values is own else max(high, *own),
    )


def _chains(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Every class that occurs, each with the wider ones behind it."""
    found = {
        outcome.classes[start:]
        for outcome in outcomes
        for start in range(len(outcome.classes))
    }
    return sorted(found, key=lambda chain: (-len(chain), chain))


def _figures(chain: tuple[str, ...], outcomes: Sequence[Outcome]) -> ClassFigures:
    errors = [o.error_fraction for o in outcomes if chain[0] in o.classes]
    return ClassFigures(
        num_plans=len(errors),
        median_absolute_error_fraction=statistics.median(map(abs, errors)),
        lowest_error_fraction=min(errors),
        highest_error_fraction=max(errors),
        allocated=_allocated_spread(chain, outcomes),
        reserved=_reserved_spread(chain, outcomes),
    )


def _left_out(outcomes: Sequence[Outcome]) -> LeftOut | None:
    num_plans, num_within, num_above = 0, 0, 0
    for outcome in outcomes:
        widest = outcome.classes[-1]
        others = [o for o in outcomes if o is not outcome and widest in o.classes]
        if not others:
            continue
        allocated = _allocated_spread(outcome.classes, others)
        reserved = _reserved_spread(outcome.classes, others)
        if not rank_outside(reserved.num_plans, RESERVED_FRACTION):
            continue  # such a band says that it is the worst of a few, and no more
        num_plans += 1
        low, high = min(1.0, allocated.low), max(1.0, allocated.high)
        num_within += low <= _allocated(outcome) <= high
        num_above += _reserved(outcome) > reserved.high
    if not num_plans:
        return None
    return LeftOut(
        num_plans=num_plans,
        allocated_within_fraction=num_within / num_plans,
        reserved_above_fraction=num_above / num_plans,
    )


def _allocated_spread(chain: tuple[str, ...], outcomes: Sequence[Outcome]) -> Spread:
    return spread_of(_tiers(chain, outcomes, _allocated), ALLOCATED_FRACTION)


def _reserved_spread(chain: tuple[str, ...], outcomes: Sequence[Outcome]) -> Spread:
    return spread_of(_tiers(chain, outcomes, _reserved), RESERVED_FRACTION)


def _tiers(
    chain: tuple[str, ...],
    outcomes: Sequence[Outcome],
    ratio: Callable[[Outcome], float],
) -> Tiers:
    """The ratios of the plans of each class of a chain."""
    return [
        (name, [ratio(outcome) for outcome in outcomes if name in outcome.classes])
        for name in chain
    ]


def _allocated(outcome: Outcome) -> float:
    return outcome.allocated_bytes / outcome.estimated_bytes


def _reserved(outcome: Outcome) -> float:
    return outcome.reserved_bytes / outcome.estimated_bytes


def bands_as_toml(
    outcomes: Sequence[Outcome], versions: Iterable[str], today: str
) -> str:
    """The file's text."""
    tested, classes = left_out(outcomes), figures_of(outcomes)
    lines = [
        "# Written by scripts/accuracy from tests/rehearsed, tests/evaluated and",
        "# profiles/grid; not by hand. Ratios are to the estimated allocated peak.",
        f"torch = {toml_value(tuple(sorted(versions)))}",
        f"compared_on = {toml_value(today)}",
    ]
    for setting, figures in tested.items():
        lines += ["", f"[left_out.{toml_value(setting)}]", *_lines(asdict(figures))]
    for setting, by_class in classes.items():
        for name, of_class in by_class.items():
            table = f"classes.{toml_value(setting)}.{toml_value(name)}"
            lines += ["", f"[{table}]", *_lines(asdict(of_class))]
    return "\n".join(lines) + "\n"


def _lines(figures: Mapping[str, object]) -> list[str]:
    return [f"{name} = {toml_value(value)}" for name, value in figures.items()]
