"""R@K and mR@K of scenes small enough to count by hand, and their laws."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from memplan.models.pe_net.recall import (  # noqa: E402
    KS,
    Prediction,
    Recall,
    ranked,
    ranked_freely,
    recalls_of,
    suppressed_predicates,
    truth_of,
)

BOXES = [[0, 0, 9, 9], [20, 0, 29, 9], [0, 20, 9, 29]]
FAR = [[100 * i, 0, 100 * i + 9, 9] for i in range(60)]


def rows(num_predicates, *chosen):
    """Scores of pairs: so much for one predicate, the rest for the background."""
    scores = torch.zeros(len(chosen), num_predicates)
    for row, (predicate, score) in zip(scores, chosen, strict=True):
        row[0] = 1 - score
        row[predicate] += score
    return scores


def predicted(pairs, scores, boxes=BOXES, classes=None, object_scores=None):
    classes = classes or [1] * len(boxes)
    return Prediction(
        boxes=torch.tensor(boxes).float(),
        classes=torch.tensor(classes),
        scores=torch.tensor(object_scores or [1.0] * len(boxes)),
        pairs=torch.tensor(pairs, dtype=torch.int64).view(-1, 2),
        predicate_scores=scores,
    )


def table(pictures, num_predicates=4, mode="predcls"):
    return recalls_of(pictures, num_predicates, mode).table()


def test_a_relation_is_found_with_its_classes_boxes_and_predicate():
    truth = truth_of(BOXES, [1, 1, 1], [(0, 1, 2), (1, 0, 3)])
    said = predicted([(0, 1), (1, 0)], rows(4, (2, 0.9), (1, 0.8)))
    assert table([(said, truth)])["R@20"] == 0.5


def test_the_mean_over_predicates_counts_those_that_never_come():
    # Of predicates 1, 2 and 3, the second is found, the third is missed.
    truth = truth_of(BOXES, [1, 1, 1], [(0, 1, 2), (1, 0, 3)])
    said = predicted([(0, 1), (1, 0)], rows(4, (2, 0.9), (1, 0.8)))
    assert table([(said, truth)])["mR@20"] == pytest.approx((0 + 1 + 0) / 3)


def test_the_mean_is_over_pictures_first():
    once = truth_of(BOXES, [1, 1, 1], [(0, 1, 1)])
    thrice = truth_of(BOXES, [1, 1, 1], [(0, 1, 1), (1, 0, 1), (0, 2, 2)])
    said = predicted([(0, 1)], rows(4, (1, 0.9)))
    found = table([(said, once), (said, thrice)])
    assert found["R@20"] == pytest.approx((1 + 1 / 3) / 2)
    # Predicate 1: all of the first picture, half of the second; 2: none; 3: absent.
    assert found["mR@20"] == pytest.approx(((1 + 1 / 2) / 2 + 0 + 0) / 3)


def test_only_the_surest_k_count():
    classes = [1] * len(FAR)
    pairs = [(i, i + 1) for i in range(59)]
    # The relation is the 31st surest.
    scores = rows(4, *[(1, 0.9 - 0.01 * i) for i in range(59)])
    truth = truth_of(FAR, classes, [(30, 31, 1)])
    found = table([(predicted(pairs, scores, FAR), truth)])
    assert [found[f"R@{k}"] for k in KS] == [0, 1, 1]


def test_without_the_constraint_a_pair_says_more_than_one_predicate():
    scores = torch.tensor([[0.1, 0.5, 0.4, 0.0]])
    truth = truth_of(BOXES, [1, 1, 1], [(0, 1, 1), (0, 1, 2)])
    found = table([(predicted([(0, 1)], scores), truth)])
    assert (found["R@20"], found["ng-R@20"]) == (0.5, 1.0)
    assert found["ng-mR@20"] == pytest.approx(2 / 3)


def test_no_more_than_a_hundred_are_ranked_freely():
    said = predicted([(0, 1)] * 40, torch.rand(40, 51))
    assert len(ranked_freely(said).predicates) == 100


def test_a_detected_box_must_overlap_by_half():
    # Boxes name their last pixel: these are 10 wide, and share 7 and 6 columns.
    truth = truth_of(BOXES, [1, 1, 1], [(0, 1, 1)])
    for shift, share in ((3, 1.0), (4, 0.0)):
        boxes = [[shift, 0, shift + 9, 9], *BOXES[1:]]
        said = predicted([(0, 1)], rows(4, (1, 0.9)), boxes)
        assert table([(said, truth)], mode="sgdet")["R@20"] == share


def test_a_wrong_class_is_not_found():
    truth = truth_of(BOXES, [1, 2, 1], [(0, 1, 1)])
    said = predicted([(0, 1)], rows(4, (1, 0.9)))
    assert table([(said, truth)], mode="sgcls")["R@20"] == 0


def test_pairs_are_ranked_by_what_their_objects_score_as_well():
    said = predicted(
        [(0, 1), (1, 2)], rows(4, (1, 0.9), (1, 0.5)), object_scores=[0.5, 0.9, 0.9]
    )
    # 0.9 x 0.5 x 0.9 against 0.5 x 0.9 x 0.9.
    assert ranked(said, "sgdet").pairs.tolist() == [[0, 1], [1, 2]]
    said = predicted(
        [(0, 1), (1, 2)], rows(4, (1, 0.9), (1, 0.6)), object_scores=[0.5, 0.9, 0.9]
    )
    assert ranked(said, "sgdet").pairs.tolist() == [[1, 2], [0, 1]]


def test_a_picture_without_relations_is_passed_over():
    empty = truth_of(BOXES, [1, 1, 1], [])
    truth = truth_of(BOXES, [1, 1, 1], [(0, 1, 1)])
    said = predicted([(0, 1)], rows(4, (1, 0.9)))
    assert table([(said, empty), (said, truth)])["R@20"] == 1


def test_a_picture_without_pairs_finds_nothing():
    truth = truth_of(BOXES[:1], [1], [(0, 0, 1)])
    said = predicted([], torch.zeros(0, 4), BOXES[:1])
    assert set(table([(said, truth)]).values()) == {0.0}


class TestSuppression:
    """Two boxes on the same object, of the same class, and one apart."""

    boxes = ([0, 0, 9, 9], [1, 0, 10, 9], [50, 50, 59, 59])

    def said(self, *chosen, classes=(1, 1, 2), boxes=boxes):
        return predicted(
            [(0, 2), (1, 2)], torch.tensor(chosen), list(boxes), list(classes)
        )

    def test_the_surer_of_two_pairs_that_are_the_same_says_the_predicate(self):
        said = self.said([0.1, 0.6, 0.2, 0.1], [0.1, 0.5, 0.3, 0.1])
        assert suppressed_predicates(said).tolist() == [1, 2]

    def test_pairs_of_other_classes_are_not_the_same(self):
        said = self.said([0.1, 0.6, 0.2, 0.1], [0.1, 0.5, 0.3, 0.1], classes=(1, 3, 2))
        assert suppressed_predicates(said).tolist() == [1, 1]

    def test_pairs_of_boxes_apart_are_not_the_same(self):
        boxes = [[0, 0, 9, 9], [3, 0, 12, 9], [50, 50, 59, 59]]  # 7 of 13 columns
        said = self.said([0.1, 0.6, 0.2, 0.1], [0.1, 0.5, 0.3, 0.1], boxes=boxes)
        assert suppressed_predicates(said).tolist() == [1, 1]

    def test_a_pair_that_nothing_is_left_for_takes_nothing_from_another(self):
        # Five pairs that are the same, and three predicates for them.
        same = [[0, 0, 9, 9]] * 5
        scores = torch.tensor([[0.1, 0.5, 0.3, 0.1]] * 5)
        pairs = [(i, 5) for i in range(5)]
        said = predicted(pairs, scores, [*same, [50, 50, 59, 59]], [1, 1, 1, 1, 1, 2])
        assert suppressed_predicates(said).tolist() == [1, 2, 3, 0, 0]

    def test_it_is_for_given_boxes_alone(self):
        said = self.said([0.1, 0.6, 0.2, 0.1], [0.1, 0.5, 0.3, 0.1])
        assert ranked(said, "sgdet").predicates.tolist() == [1, 1]
        assert ranked(said, "predcls").predicates.tolist() == [1, 2]
        assert ranked(said, "sgcls").predicates.tolist() == [1, 2]

    @settings(deadline=None)
    @given(st.integers(2, 51), st.integers(0, 2**31))
    def test_the_published_norm_of_two_rows_is_never_below_its_limit(self, k, seed):
        generator = torch.Generator().manual_seed(seed)
        first, second = torch.rand(2, k, generator=generator).softmax(dim=1)
        assert (first**2 + second**2).sqrt().sum() > 0.7


pictures = st.integers(0, 2**31).map(lambda seed: random_picture(seed))


def random_picture(seed):
    generator = torch.Generator().manual_seed(seed)

    def integers(high, *shape):
        return torch.randint(0, high, shape, generator=generator)

    count = int(integers(5, 1)) + 2
    corners = integers(40, count, 2).float()
    boxes = torch.cat([corners, corners + 1 + integers(20, count, 2)], dim=1)
    classes = integers(3, count) + 1
    pairs = torch.tensor([(s, o) for s in range(count) for o in range(count) if s != o])
    chosen = torch.randperm(len(pairs), generator=generator)[: 1 + int(integers(6, 1))]
    relations = torch.cat([pairs[chosen], integers(3, len(chosen), 1) + 1], dim=1)
    scores = torch.rand(len(pairs), 4, generator=generator).softmax(dim=1)
    said = Prediction(
        boxes=boxes,
        classes=classes,
        scores=torch.rand(count, generator=generator),
        pairs=pairs,
        predicate_scores=scores,
    )
    return said, truth_of(boxes.tolist(), classes.tolist(), relations.tolist())


@settings(max_examples=40, deadline=None)
@given(st.lists(pictures, max_size=3), st.sampled_from(["predcls", "sgcls", "sgdet"]))
def test_every_measure_is_a_share_and_grows_with_k(some, mode):
    found = table(some, mode=mode)
    for name in ("R", "mR", "ng-R", "ng-mR"):
        values = [found[f"{name}@{k}"] for k in KS]
        assert values == sorted(values)
        assert all(0 <= value <= 1 for value in values)


@settings(max_examples=40, deadline=None)
@given(pictures)
def test_who_says_what_is_annotated_finds_all(picture):
    said, truth = picture
    subjects, objects, predicates = truth.relations.T
    place = {tuple(pair): row for row, pair in enumerate(said.pairs.tolist())}
    scores = torch.zeros_like(said.predicate_scores)
    scores[:, 0] = 1
    for pair, predicate in zip(
        zip(subjects.tolist(), objects.tolist(), strict=True),
        predicates.tolist(),
        strict=True,
    ):
        scores[place[pair]] = torch.eye(4)[predicate]
    right = Prediction(
        boxes=said.boxes,
        classes=said.classes,
        scores=torch.ones(len(said.boxes)),
        pairs=said.pairs,
        predicate_scores=scores,
    )
    assert table([(right, truth)], mode="sgdet")["R@20"] == 1


@settings(max_examples=40, deadline=None)
@given(pictures, st.randoms(use_true_random=False))
def test_the_order_of_annotations_changes_nothing(picture, random):
    said, truth = picture
    order = list(range(len(truth.relations)))
    random.shuffle(order)
    shuffled = truth_of(
        truth.boxes.tolist(), truth.classes.tolist(), truth.relations[order].tolist()
    )
    assert table([(said, truth)]) == pytest.approx(table([(said, shuffled)]))


def test_before_there_is_a_picture_all_is_nothing():
    recall = Recall(51)
    assert (recall.recall(20), recall.mean_recall(20)) == (0, 0)
