"""The detector's own boxes: anchors, their moves, suppression; and sgdet on them."""

import math
from dataclasses import replace
from random import Random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("transformers")
pytest.importorskip("h5py")

from memplan.models import find_model  # noqa: E402
from memplan.models.pe_net import module  # noqa: E402
from memplan.models.pe_net.data import TrainingScenes, collate, levels_of  # noqa: E402
from memplan.models.pe_net.detected import (  # noqa: E402
    detect_scenes,
    labels_of,
    matches_of,
)
from memplan.models.pe_net.detection import (  # noqa: E402
    BOX_WEIGHTS,
    REGION_WEIGHTS,
    anchors,
    boxes_of,
    decode,
    detect,
    proposals,
)
from memplan.models.pe_net.evaluation import evaluate  # noqa: E402
from memplan.models.pe_net.generated import VOCABULARY, draw_scenes  # noqa: E402
from memplan.models.pe_net.pairs import sample_detected_pairs  # noqa: E402
from memplan.models.pe_net.scenes import usable_scenes  # noqa: E402
from memplan.models.pe_net.suppression import box_overlaps  # noqa: E402
from memplan.models.pe_net.visual_genome import (  # noqa: E402
    VisualGenome,
    write_visual_genome,
)
from memplan.recipes.pe_net import freeze_detector  # noqa: E402

IMAGE_SIZE = 85
"""Of drawn scenes, which are not resized."""


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_anchors_have_the_shapes_of_four_ratios_at_every_place():
    found = anchors(0, 2, 3)
    assert found.shape == (2 * 3 * 4, 4)
    sizes = found[:4, 2:] - found[:4, :2] + 1
    # Of a base of 4 x 4: 8 x 2, 5 x 3, 4 x 5 and 2 x 6, eight times as large.
    assert sizes.tolist() == [[64, 16], [40, 24], [32, 40], [16, 48]]
    centres = (found[::4, :2] + found[::4, 2:]) / 2
    assert centres.tolist() == [
        [1.5 + 4 * x, 1.5 + 4 * y] for y in (0, 1) for x in (0, 1, 2)
    ]


def test_no_move_leaves_a_box_as_it_is():
    boxes = torch.tensor([[10.0, 20, 29, 59]])
    assert torch.equal(decode(boxes, torch.zeros(1, 4), BOX_WEIGHTS), boxes)


def test_a_move_is_in_sizes_of_the_box_and_growth_in_logarithms():
    boxes = torch.tensor([[10.0, 20, 29, 59]])  # 20 x 40
    moves = torch.tensor([[0.5, 0.25, math.log(2), 0.0]])
    found = decode(boxes, moves, REGION_WEIGHTS)
    # The centre (20, 40) moves by (10, 10), and the width doubles.
    assert torch.allclose(found, torch.tensor([[10.0, 30, 49, 69]]))
    scaled = decode(boxes, moves * torch.tensor(BOX_WEIGHTS), BOX_WEIGHTS)
    assert torch.allclose(scaled, found)


def test_growth_has_an_end():
    found = decode(
        torch.tensor([[0.0, 0, 9, 9]]), torch.full((1, 4), 100.0), REGION_WEIGHTS
    )
    assert torch.isfinite(found).all()


def test_the_surest_regions_of_all_levels_are_proposed():
    logits = [torch.full((4, 2, 2), -5.0) for _ in range(5)]
    logits[1][2, 0, 1] = 5.0  # of level 1, the third shape, upper right
    moves = [torch.zeros(16, 2, 2) for _ in range(5)]
    found = proposals(logits, moves, (64, 64), 3)
    expected = anchors(1, 2, 2)[1 * 4 + 2].clamp(min=0, max=63)
    assert torch.equal(found[0], expected)
    assert len(found) <= 3


def tiny(**changes):
    sizes = {
        "num_object_classes": len(VOCABULARY.objects),
        "num_predicate_classes": len(VOCABULARY.predicates),
        "num_boxes_per_image": 6,
        "num_proposals_per_image": 20,
        "num_pairs_per_image": 16,
        "mode": "sgdet",
    }
    return replace(find_model("pe-net-tiny").config, **sizes | changes)


def test_a_region_is_a_box_of_its_surest_class_that_is_left():
    regions = torch.tensor([[0.0, 0, 19, 19], [1, 1, 20, 20], [40, 40, 59, 59]])
    shares = torch.tensor(
        [
            [0.0, 0.8, 0.1, 0.05, 0.05],
            [0.0, 0.6, 0.3, 0.05, 0.05],  # the first is surer of class 1
            [0.99, 0.004, 0.003, 0.002, 0.001],  # nothing that is sure enough
        ]
    )
    found = boxes_of(tiny(), regions, shares, torch.zeros(3, 20), (64, 64))
    assert found.labels.tolist() == [1, 2]
    assert found.scores.tolist() == pytest.approx([0.8, 0.3])
    assert torch.equal(found.boxes, regions[:2])
    assert torch.equal(found.regions, regions[:2])


def test_a_picture_is_never_without_a_box():
    shares = torch.tensor([[0.999, 0.0004, 0.0003, 0.0002, 0.0001]])
    found = boxes_of(
        tiny(), torch.tensor([[0.0, 0, 9, 9]]), shares, torch.zeros(1, 20), (64, 64)
    )
    assert found.labels.tolist() == [1]


def test_the_surest_boxes_are_kept():
    regions = torch.tensor([[20.0 * i, 0, 20 * i + 9, 9] for i in range(8)])
    shares = torch.zeros(8, 5)
    shares[:, 1] = torch.linspace(0.1, 0.8, 8)
    found = boxes_of(tiny(), regions, shares, torch.zeros(8, 20), (64, 200))
    assert found.scores.tolist() == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4, 0.3])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    splits = [("train", one) for one in draw_scenes(3, 0)]
    write_visual_genome(folder, VOCABULARY, splits)
    return VisualGenome(folder, "train", num_validation=0)


@pytest.fixture
def model():
    made = module.build(tiny(), torch.float32, None).train()
    freeze_detector(made)
    return made


def test_a_box_has_the_logits_of_the_region_that_became_it(model):
    images, sides = torch.randn(2, 3, 64, 96), [(64, 96), (50, 70)]
    found = detect(model, images, sides)
    for one, (height, width) in zip(found, sides, strict=True):
        assert 1 <= len(one.boxes) <= 6
        assert one.boxes[:, 2].max() <= width - 1
        assert one.boxes[:, 3].max() <= height - 1
        assert one.class_boxes.shape == (len(one.boxes), 5, 4)
    with torch.no_grad():
        regions = [one.regions for one in found]
        _, logits = model.roi_heads["box"](
            model.backbone(images),
            regions,
            levels_of(torch.cat(regions)),
            [len(some) for some in regions],
        )
    for one, some in zip(found, logits, strict=True):
        shares = some.softmax(dim=1).gather(1, one.labels[:, None])[:, 0]
        assert torch.allclose(shares, one.scores, atol=1e-5)


def test_sgdet_trains_on_the_boxes_that_were_found(model, drawn):
    samples = detect_scenes(model, TrainingScenes(drawn, model.config, IMAGE_SIZE))
    batch = collate([samples.draw(index, Random(index)) for index in range(3)])
    loss = model(**batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    predictor = model.roi_heads["relation"].predictor
    assert predictor.out_obj.weight.grad is not None


def test_the_annotated_boxes_are_looked_at_in_training(model, drawn):
    # A box head that finds all regions to be the same, so that most are left.
    for layer in model.roi_heads["box"].predictor.values():
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    model.config = replace(model.config, num_boxes_per_image=100)
    annotated = TrainingScenes(drawn, model.config, IMAGE_SIZE)
    sample = detect_scenes(model, annotated).draw(0, Random(0))
    overlaps = box_overlaps(torch.tensor(annotated.scene(0).boxes), sample.regions)
    assert (overlaps.max(dim=1).values == 1).any()


def test_sgdet_is_evaluated_in_the_pixels_of_the_annotation(model, drawn):
    # Twice as large pictures have their boxes brought back.
    for image_size in (IMAGE_SIZE, 2 * IMAGE_SIZE):
        found = evaluate(model, usable_scenes(drawn), image_size).table()
        assert all(0 <= value <= 1 for value in found.values())


def test_a_region_has_the_class_of_the_object_it_lies_on():
    boxes = torch.tensor([[0.0, 0, 9, 9], [50, 50, 59, 59]])
    regions = torch.tensor(
        [[0.0, 0, 9, 9], [0, 0, 4, 9], [0, 0, 3, 9], [49, 50, 58, 59]]
    )
    assert labels_of(regions, boxes, torch.tensor([3, 4])).tolist() == [3, 3, 0, 4]


def test_a_match_is_of_the_same_class_and_more_than_half(drawn):
    scene = replace(drawn.parse(drawn.record(0)), classes=(1, 2))
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9]])
    found = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 7], [0, 0, 4, 9]])
    labels = torch.tensor([1, 2, 1])
    assert matches_of(found, labels, boxes, scene) == [
        {0: 1.0},
        {1: pytest.approx(0.8)},
    ]


def test_a_relation_stands_for_all_pairs_that_lie_on_its_objects():
    # Boxes 0 and 1 lie on the subject, 2 on the object, 3 on another, 4 on none.
    labels, matches = [1, 1, 2, 3, 0], [{0: 0.9, 1: 0.6}, {2: 0.8}]
    pairs, predicates = sample_detected_pairs(
        labels, matches, {(0, 1): 7}, 100, Random(0)
    )
    positive = {p for p, found in zip(pairs, predicates, strict=True) if found}
    assert positive == {(0, 2), (1, 2)}
    assert len(pairs) == 4 * 3
    assert not any(4 in pair for pair in pairs)


def test_four_pairs_at_most_stand_for_a_relation_and_the_best_most_often():
    labels = 12 * [1]
    matches = [
        dict.fromkeys(range(6), 0.6) | {0: 1.0},
        dict.fromkeys(range(6, 12), 0.9),
    ]
    counts = [0, 0]
    for seed in range(200):
        pairs, predicates = sample_detected_pairs(
            labels, matches, {(0, 1): 7}, 512, Random(seed)
        )
        positive = [p for p, found in zip(pairs, predicates, strict=True) if found]
        assert len(positive) == 4
        counts[0] += sum(subject == 0 for subject, _ in positive)
        counts[1] += sum(subject == 1 for subject, _ in positive)
    assert counts[0] > counts[1]


def test_a_picture_without_a_match_has_a_pair_all_the_same():
    assert sample_detected_pairs([0, 0], [{}], {}, 16, Random(0)) == ([(0, 0)], [0])
