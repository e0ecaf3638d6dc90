"""Which of several ways is best, and which lose to another in every respect."""

from collections.abc import Sequence
from dataclasses import replace

from memplan.searching.recommendation import Choice, RankBy

NEVER = float("inf")


def ranked(
    choices: Sequence[Choice], rank_by: RankBy, *, has_budget: bool
) -> tuple[Choice, ...]:
    """The fastest first, or what is cheapest a sample; what is not known comes last.

    Beside a budget a card without a price comes after those that are known to be
    within it.
    """

    def key(choice: Choice) -> tuple[bool, float, float, int]:
        is_unknown = has_budget and choice.price is None
        slowness = -samples_per_s(choice)
        order = (slowness, usd(choice))
        if rank_by == "price":
            order = (usd(choice), slowness)
        return is_unknown, *order, choice.num_gpus

    return tuple(sorted(with_front(choices), key=key))


def with_front(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """Marked are those on the Pareto front of throughput against price."""
    return tuple(
        replace(
            choice,
            is_on_front=_is_comparable(choice)
            and dominator_of(choice, choices) is None,
        )
        for choice in choices
    )


def dominator_of(choice: Choice, others: Sequence[Choice]) -> Choice | None:
    """The fastest of those as fast and as cheap a sample, and better in one of both."""
    if not _is_comparable(choice):
        return None
    own = -samples_per_s(choice), usd(choice)
    better = [
        other
        for other in others
        if _is_comparable(other)
        and -samples_per_s(other) <= own[0]
        and usd(other) <= own[1]
        and (-samples_per_s(other), usd(other)) != own
    ]
    return max(better, key=samples_per_s, default=None)


def samples_per_s(choice: Choice) -> float:
    """0 where it is not predicted."""
    return choice.throughput.samples_per_s if choice.throughput else 0.0


def usd(choice: Choice) -> float:
    """Of a million samples; infinite where that is not known."""
    price = choice.usd_per_million_samples
    return NEVER if price is None else price


def _is_comparable(choice: Choice) -> bool:
    return choice.throughput is not None and choice.price is not None
