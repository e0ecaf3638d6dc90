"""Which pairs of objects are looked at: a sample in training, all in testing."""

from collections.abc import Iterable, Mapping
from random import Random

from memplan.models.pe_net.scenes import Relation

Pair = tuple[int, int]
"""The numbers of subject and object among the boxes."""

POSITIVE_FRACTION = 0.25


def choose_predicates(relations: Iterable[Relation], random: Random) -> dict[Pair, int]:
    """One predicate of each annotated pair: of several, any, as often as it is said."""
    by_pair: dict[Pair, list[int]] = {}
    for subject, object_, predicate in relations:
        by_pair.setdefault((subject, object_), []).append(predicate)
    return {pair: random.choice(found) for pair, found in by_pair.items()}


def sample_pairs(
    num_boxes: int, annotated: Mapping[Pair, int], num_pairs: int, random: Random
) -> tuple[list[Pair], list[int]]:
    """Pairs to train on, and their predicates; 0 where none is annotated.

    A quarter at most are annotated ones, and others fill up, if there are as many.
    """
    positive = list(annotated)
    limit = int(num_pairs * POSITIVE_FRACTION)
    if len(positive) > limit:
        positive = random.sample(positive, limit)
    negative = [pair for pair in all_pairs(num_boxes) if pair not in annotated]
    wanted = min(num_pairs - len(positive), len(negative))
    negative = random.sample(negative, wanted)
    predicates = [annotated[pair] for pair in positive] + len(negative) * [0]
    return positive + negative, predicates


def all_pairs(num_boxes: int) -> list[Pair]:
    """Every ordered pair of two different boxes."""
    places = range(num_boxes)
    return [(s, o) for s in places for o in places if s != o]
