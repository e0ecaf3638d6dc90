"""Tricks one after another: each time the one that lowers the need by most.

Every trick left is tried beside those taken, by estimate; the engine confirms the one
that is chosen. The estimates are shifted by what the engine has seen of the step
before. A trick without a closed form is expected to save what it saved alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from memplan.comparing.comparison import need_of
from memplan.comparing.engines import Found
from memplan.comparing.speed import counted_speed
from memplan.comparing.steps import Tricked, in_place
from memplan.errors import MemplanError
from memplan.estimate import needed_bytes
from memplan.estimating.changes import Fields
from memplan.estimating.step import DEFAULTS, NO_CLOSED_FORM
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport
from memplan.tricks.trick import EXACTNESSES, Trick

LEAST = 0.01
"""Of what is needed: a trick that saves less is not worth its step."""
TIE = 0.01
"""Of what is needed: two that save the same but for this are equally good."""

Look = Callable[[TrainingPlan], Found]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    trick: Trick
    tricked: Tricked
    expected_bytes: int


def chain(
    baseline: MemoryReport,
    plan: TrainingPlan,
    alone: Mapping[Trick, MemoryReport],
    known: Mapping[TrainingPlan, Found],
    look: Look,
) -> Iterator[tuple[Tricked, MemoryReport]]:
    """The plan with one trick more at a time, each with what the engine says.

    Args:
        baseline: of the plan.
        plan: without tricks.
        alone: the tricks, each with the report of the plan with it alone.
        known: what the engine has said already.
        look: asks it.
    """
    tricked, needed, left = Tricked(plan=plan), need_of(baseline), list(alone)
    saved_alone = {t: needed - need_of(report) for t, report in alone.items()}
    while left:
        found = _candidates(plan, tricked, needed, left, saved_alone, known)
        for candidate in _best_first(found, needed):
            report = look(candidate.tricked.plan)
            if isinstance(report, str) or need_of(report) > (1 - LEAST) * needed:
                continue  # it is not what it was expected to be: the next best
            tricked, needed = candidate.tricked, need_of(report)
            left.remove(candidate.trick)
            yield tricked, report
            break
        else:
            return


def _candidates(
    base: TrainingPlan,
    tricked: Tricked,
    needed: int,
    left: Sequence[Trick],
    saved_alone: Mapping[Trick, int],
    known: Mapping[TrainingPlan, Found],
) -> Iterator[_Candidate]:
    """The tricks that go with those taken, and are expected to save something."""
    for trick in left:
        try:
            after = in_place(base, tricked, trick)
        except MemplanError:
            continue
        seen = known.get(after.plan)
        if isinstance(seen, MemoryReport):
            expected = need_of(seen)
        else:
            expected = needed - _expected_saving(tricked, after, saved_alone[trick])
        if expected <= (1 - LEAST) * needed:
            yield _Candidate(trick=trick, tricked=after, expected_bytes=expected)


def _expected_saving(before: Tricked, after: Tricked, saved_alone: int) -> int:
    """By estimate; what that does not know saves what it saved alone."""
    now, then = _estimated(before.plan), _estimated(after.plan)
    if now is None or then is None:
        return saved_alone
    adds_unknown = any(
        getattr(before.plan, name) != getattr(after.plan, name) for name in _UNKNOWN
    )
    return now - then + (saved_alone if adds_unknown else 0)


def _best_first(candidates: Iterator[_Candidate], needed: int) -> Iterator[_Candidate]:
    """What saves most; of those that save the same, what changes results least."""
    left = list(candidates)
    while left:
        lowest = min(candidate.expected_bytes for candidate in left)
        equal = [c for c in left if c.expected_bytes <= lowest + TIE * needed]
        best = min(equal, key=_price) if len(equal) > 1 else equal[0]
        left.remove(best)
        yield best


def _price(candidate: _Candidate) -> tuple[int, float, int]:
    """What becomes of results, then of speed, then the need."""
    return (
        EXACTNESSES.index(candidate.trick.exactness),
        -_samples_per_s(candidate.tricked.plan),
        candidate.expected_bytes,
    )


def _samples_per_s(plan: TrainingPlan) -> float:
    """Counted; 0 where that would be a guess."""
    speed = counted_speed(plan)
    return speed.samples_per_s if speed else 0.0


@lru_cache(maxsize=256)  # that of the step before is asked for each candidate
def _estimated(plan: TrainingPlan) -> int | None:
    """By the closed form, without what that does not know."""
    try:
        return needed_bytes(replace(plan, **_UNKNOWN))
    except MemplanError:
        return None


_UNKNOWN: Fields = {name: DEFAULTS[name] for name in NO_CLOSED_FORM}
"""Fields without a closed form, as they are where they change nothing."""
