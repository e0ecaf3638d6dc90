"""R@K and mR@K: which annotated relations are among the K that are surest.

As the evaluation that scene graph code shares (`evaluation/vg/sgg_eval.py`, from
neural-motifs), with the suppression that PE-Net's adds in predcls and sgcls. There are
two rankings: with the graph constraint a pair of objects says one predicate, without
it as many as there are.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from memplan.models.pe_net.suppression import assign_classes, box_overlaps

KS = (20, 50, 100)
OVERLAP = 0.5
"""Of a predicted box with the annotated one, for both objects of a relation."""
PAIR_OVERLAP = 0.6
"""From here on two boxes are one, and so may be two pairs (rel_nms)."""

Mode = Literal["predcls", "sgcls", "sgdet"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What is annotated on a picture."""

    boxes: Tensor
    classes: Tensor
    relations: Tensor
    """[R, 3]: the numbers of subject and object among the boxes, and the predicate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a model says of a picture."""

    boxes: Tensor
    classes: Tensor
    scores: Tensor
    """Of the classes; in predcls 1."""
    pairs: Tensor
    predicate_scores: Tensor
    """[P, predicates], the background among them: each row sums to 1."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Predicted relations, the surest first."""

    pairs: Tensor
    predicates: Tensor


def ranked(prediction: Prediction, mode: Mode) -> Ranking:
    """With the graph constraint: one predicate for each pair.

    The published code weighs a pair by the score of its subject twice; here it is
    those of subject and object, which is the same in predcls.
    """
    scores = prediction.predicate_scores
    if mode == "sgdet":
        predicates = scores[:, 1:].argmax(dim=1) + 1
    else:
        predicates = suppressed_predicates(prediction)
    chosen = scores.gather(1, predicates[:, None])[:, 0]
    order = (chosen * pair_scores(prediction)).argsort(descending=True, stable=True)
    return Ranking(prediction.pairs[order], predicates[order])


def ranked_freely(prediction: Prediction) -> Ranking:
    """Without the graph constraint: every predicate of every pair."""
    scores = prediction.predicate_scores[:, 1:] * pair_scores(prediction)[:, None]
    order = scores.flatten().argsort(descending=True, stable=True)[: max(KS)]
    pair = order.div(scores.shape[1], rounding_mode="floor")
    return Ranking(prediction.pairs[pair], order % scores.shape[1] + 1)


def pair_scores(prediction: Prediction) -> Tensor:
    scores: Tensor = prediction.scores[prediction.pairs].prod(dim=1)
    return scores


def suppressed_predicates(prediction: Prediction) -> Tensor:
    """`rel_nms`: of pairs that are the same, only the surest says a predicate.

    They are the same where both boxes overlap and both classes are equal. The published
    code asks for a norm of the two rows of scores besides, which rows that sum to 1
    cannot miss.
    """
    overlaps = box_overlaps(prediction.boxes, prediction.boxes) >= PAIR_OVERLAP
    same_class = prediction.classes[:, None] == prediction.classes
    is_same = overlaps & same_class
    subjects, objects = prediction.pairs.T
    scores = prediction.predicate_scores.clone()
    scores[:, 0] = 0.0
    return assign_classes(
        scores,
        lambda row, column: (
            is_same[subjects[row], subjects] & is_same[objects[row], objects]
        ),
    )


def found_relations(ranking: Ranking, prediction: Prediction, truth: Truth) -> Tensor:
    """[ranked, R]: whether a ranked relation is an annotated one.

    Classes and predicate are equal, and both boxes overlap.
    """
    is_same_box = box_overlaps(prediction.boxes, truth.boxes) >= OVERLAP
    is_same = is_same_box & (prediction.classes[:, None] == truth.classes)
    subjects, objects, predicates = truth.relations.T
    is_found: Tensor = (
        is_same[ranking.pairs[:, 0]][:, subjects]
        & is_same[ranking.pairs[:, 1]][:, objects]
        & (ranking.predicates[:, None] == predicates)
    )
    return is_found


@dataclass(slots=True)
class Recall:
    """Of one ranking: shares of the annotated relations that were found, by picture."""

    num_predicates: int
    """The background among them."""
    _shares: dict[int, list[float]] = field(default_factory=lambda: {k: [] for k in KS})
    _by_predicate: dict[tuple[int, int], list[float]] = field(default_factory=dict)

    def add(self, found: Tensor, truth: Truth) -> None:
        """One picture: the found relations, and those that are annotated."""
        predicates = truth.relations[:, 2]
        for k in KS:
            hits = found[:k].any(dim=0).float()
            self._shares[k].append(float(hits.mean()))
            for predicate in set(predicates.tolist()):
                share = float(hits[predicates == predicate].mean())
                self._by_predicate.setdefault((k, predicate), []).append(share)

    def recall(self, k: int) -> float:
        """R@K: the mean share over the pictures; 0 before there is one."""
        return _mean(self._shares[k])

    def mean_recall(self, k: int) -> float:
        """mR@K: the mean over the predicates, of which one that never comes has 0."""
        return _mean([self.predicate_recall(k, p) for p in self.predicates])

    def predicate_recall(self, k: int, predicate: int) -> float:
        """The mean share over the pictures that have the predicate."""
        return _mean(self._by_predicate.get((k, predicate), []))

    @property
    def predicates(self) -> range:
        return range(1, self.num_predicates)


@dataclass(frozen=True, slots=True)
class Recalls:
    """Both rankings of a test."""

    constrained: Recall
    free: Recall

    def table(self) -> dict[str, float]:
        """R@20 to ng-mR@100, as papers list them; ng- is without the constraint."""
        return {
            f"{prefix}{name}@{k}": measure(k)
            for prefix, recall in (("", self.constrained), ("ng-", self.free))
            for name, measure in (("R", recall.recall), ("mR", recall.mean_recall))
            for k in KS
        }


def recalls_of(
    pictures: Iterable[tuple[Prediction, Truth]], num_predicates: int, mode: Mode
) -> Recalls:
    """Both rankings over all pictures that have a relation."""
    recalls = Recalls(Recall(num_predicates), Recall(num_predicates))
    for prediction, truth in pictures:
        if not len(truth.relations):
            continue
        for recall, ranking in (
            (recalls.constrained, ranked(prediction, mode)),
            (recalls.free, ranked_freely(prediction)),
        ):
            recall.add(found_relations(ranking, prediction, truth), truth)
    return recalls


def truth_of(
    boxes: Iterable[Iterable[float]],
    classes: Iterable[int],
    relations: Iterable[Iterable[int]],
) -> Truth:
    """Of numbers in lists."""
    return Truth(
        boxes=torch.tensor([list(box) for box in boxes]).float().view(-1, 4),
        classes=torch.tensor(list(classes)),
        relations=torch.tensor([list(one) for one in relations])
        .to(torch.int64)
        .view(-1, 3),
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
