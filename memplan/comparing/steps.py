"""Tricks on a plan, one after another, and which of them contradict each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memplan.errors import MemplanError
from memplan.estimating.changes import Fields
from memplan.plan import TrainingPlan
from memplan.tricks.trick import Trick, change_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Tricked:
    """A plan with tricks."""

    plan: TrainingPlan
    tricks: tuple[Trick, ...] = ()
    changes: tuple[Fields, ...] = ()
    """What each of them set."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(trick.name for trick in self.tricks)


def with_trick(tricked: Tricked, trick: Trick) -> Tricked:
    """One trick more, in addition to those there are.

    Raises:
        MemplanError: it does not suit the plan, or the plan contradicts itself then.
    """
    change = change_of(trick, tricked.plan)
    if isinstance(change, str):
        raise MemplanError(f"{change}.", hint="Leave it out.")
    return Tricked(
        plan=replace(tricked.plan, **change),
        tricks=(*tricked.tricks, trick),
        changes=(*tricked.changes, change),
    )


def with_all(plan: TrainingPlan, tricks: Sequence[Trick]) -> Tricked:
    """A plan with tricks in their order.

    Raises:
        MemplanError: one of them does not suit.
    """
    tricked = Tricked(plan=plan)
    for trick in tricks:
        tricked = with_trick(tricked, trick)
    return tricked


def in_place(base: TrainingPlan, tricked: Tricked, trick: Trick) -> Tricked:
    """One trick more, in place of those that it contradicts.

    Two contradict each other that set the same field to different values.

    Raises:
        MemplanError: it does not suit.
    """
    change = change_of(trick, tricked.plan)
    if isinstance(change, str):
        raise MemplanError(f"{change}.", hint="Leave it out.")
    others = [
        other
        for other, set_by_it in zip(tricked.tricks, tricked.changes, strict=True)
        if not change.keys() & set_by_it.keys()
    ]
    if len(others) == len(tricked.tricks):
        return with_trick(tricked, trick)
    return with_all(base, [*others, trick])
