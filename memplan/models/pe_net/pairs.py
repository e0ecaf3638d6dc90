"""Which pairs of objects are looked at: a sample in training, all in testing."""

from collections.abc import Iterable, Mapping, Sequence
from random import Random

from memplan.models.pe_net.scenes import Relation

Pair = tuple[int, int]
"""The numbers of subject and object among the boxes."""

POSITIVE_FRACTION = 0.25
NUM_OF_A_RELATION = 4
"""Pairs of detected boxes that stand for one annotated relation, at most."""


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


def sample_detected_pairs(
    labels: Sequence[int],
    matches: Sequence[Mapping[int, float]],
    annotated: Mapping[Pair, int],
    num_pairs: int,
    random: Random,
) -> tuple[list[Pair], list[int]]:
    """Pairs of detected boxes to train on, and their predicates (`detect_relsample`).

    Args:
        labels: the class of each detected box, 0 where it lies on no object: such boxes
            are in no pair.
        matches: of each annotated box, the detected ones that lie on it, and how well.
    """
    on_objects = [place for place, label in enumerate(labels) if label]
    others = {(s, o) for s in on_objects for o in on_objects if s != o}
    positive: list[tuple[Pair, int]] = []
    for (subject, object_), predicate in annotated.items():
        found = {
            (s, o): matches[subject][s] * matches[object_][o]
            for s in matches[subject]
            for o in matches[object_]
            if s != o
        }
        others -= found.keys()
        chosen = _weighted_sample(found, NUM_OF_A_RELATION, random)
        positive += [(pair, predicate) for pair in chosen]
    limit = int(num_pairs * POSITIVE_FRACTION)
    if len(positive) > limit:
        positive = random.sample(positive, limit)
    wanted = min(num_pairs - len(positive), len(others))
    negative = random.sample(sorted(others), wanted)
    # As published, a picture is never without a pair.
    sampled = positive + [(pair, 0) for pair in negative] or [((0, 0), 0)]
    return [pair for pair, _ in sampled], [predicate for _, predicate in sampled]


def _weighted_sample(
    weights: Mapping[Pair, float], count: int, random: Random
) -> list[Pair]:
    """Without replacement; the greatest of `random ** (1 / weight)` are one (Efraimidis
    and Spirakis, 2006)."""
    if len(weights) <= count:
        return list(weights)
    drawn = {pair: random.random() ** (1 / weight) for pair, weight in weights.items()}
    return sorted(drawn, key=lambda pair: drawn[pair], reverse=True)[:count]
