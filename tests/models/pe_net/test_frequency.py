"""The frequency baseline counts what classes say, and nothing else."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from memplan.data.records import Record  # noqa: E402
from memplan.models.pe_net.frequency import FrequencyBaseline  # noqa: E402
from memplan.models.pe_net.scenes import BACKGROUND, Scene, Vocabulary  # noqa: E402

VOCABULARY = Vocabulary((BACKGROUND, "a", "b"), (BACKGROUND, "on", "by"))


def scene(relations, boxes=((0, 0, 9, 9), (5, 5, 14, 14), (50, 50, 59, 59))):
    return Scene(
        record=Record(Path("list.json"), 1, {}),
        picture=Path("a.jpg"),
        picture_field="image",
        size=(100, 100),
        boxes=boxes,
        classes=(1, 2, 1)[: len(boxes)],
        relations=tuple(relations),
    )


def test_it_says_how_often_two_classes_had_each_predicate():
    scenes = [scene([(0, 1, 1)]), scene([(0, 1, 1)]), scene([(0, 1, 2)])]
    baseline = FrequencyBaseline(scenes, VOCABULARY)
    # One to begin with, and three times the two of them overlapped.
    assert baseline.counts[1, 2].tolist() == [1 + 3, 2, 1]
    found = baseline.predict(scenes[0])
    place = found.pairs.tolist().index([0, 1])
    shares = torch.tensor([4.0, 2, 1]) / 7 + 1e-3
    assert torch.allclose(found.predicate_scores[place], shares / shares.sum())


def test_all_pairs_are_in_the_background_where_none_overlaps():
    apart = ((0, 0, 9, 9), (50, 50, 59, 59))
    baseline = FrequencyBaseline([scene([], apart)], VOCABULARY)
    assert float(baseline.counts[1, 2, 0]) == 2
    assert float(baseline.counts[2, 1, 0]) == 2
    assert float(baseline.counts[1, 1, 0]) == 1


def test_classes_that_were_never_seen_together_say_nothing():
    baseline = FrequencyBaseline([], VOCABULARY)
    found = baseline.predict(scene([])).predicate_scores
    assert torch.allclose(found.sum(dim=1), torch.ones(len(found)))
    assert found[:, 0].min() > 0.99
