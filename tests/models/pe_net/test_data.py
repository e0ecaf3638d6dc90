"""Pictures are resized, padded and normalised as published; regions have levels."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from PIL import Image  # noqa: E402

from memplan.data.records import Record  # noqa: E402
from memplan.models.pe_net.data import (  # noqa: E402
    PIXEL_MEAN,
    collate,
    levels_of,
    pixels_of,
    resized,
    whole_sample,
)
from memplan.models.pe_net.scenes import Scene  # noqa: E402


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((800, 600), (800, 600)),
        ((400, 300), (800, 600)),
        ((300, 400), (600, 800)),
        ((500, 500), (600, 600)),
        ((1000, 500), (1000, 500)),  # the longer side is 1000 at most
        ((2000, 100), (1000, 50)),
        ((640, 427), (899, 600)),
    ],
)
def test_the_shorter_side_is_600_and_the_longer_1000_at_most(size, expected):
    assert resized(size, 800) == expected


def test_pixels_are_blue_green_red_less_their_means():
    found = pixels_of(Image.new("RGB", (2, 1), (10, 20, 30)))
    expected = torch.tensor([30.0, 20, 10]) - torch.tensor(PIXEL_MEAN)
    assert torch.equal(found, expected[:, None, None].expand(3, 1, 2))


def test_regions_are_pooled_from_the_level_of_their_size():
    sides = torch.tensor([1.0, 100, 111, 112, 223, 224, 447, 448, 1000])
    boxes = torch.stack([torch.zeros(9), torch.zeros(9), sides - 1, sides - 1], dim=1)
    # 224 pixels belong to the third of the levels from 2 to 5, and halves one below.
    found = [level.tolist() for level in levels_of(boxes)]
    assert found == [[0, 1, 2], [3, 4], [5, 6], [7, 8]]


def scene(folder, name, size):
    Image.new("RGB", size, (200, 100, 50)).save(folder / name)
    return Scene(
        record=Record(Path("list.json"), 1, {}),
        picture=folder / name,
        picture_field="image",
        size=size,
        boxes=((0, 0, 9, 9), (10, 5, 19, 14), (0, 5, 9, 14)),
        classes=(1, 2, 1),
        relations=((0, 1, 1),),
    )


def test_a_batch_is_padded_to_multiples_of_32(tmp_path):
    samples = [
        whole_sample(scene(tmp_path, "a.png", (40, 30)), 40),
        whole_sample(scene(tmp_path, "b.png", (30, 40)), 40),
    ]
    batch = collate(samples)
    assert batch["images"].shape == (2, 3, 64, 64)
    assert batch["image_sizes"] == [(30, 40), (40, 30)]
    assert not batch["images"][0, :, 30:].any()
    assert not batch["images"][0, :, :, 40:].any()
    assert "predicates" not in batch


def test_testing_looks_at_every_ordered_pair(tmp_path):
    sample = whole_sample(scene(tmp_path, "a.png", (40, 30)), 40)
    assert sample.pairs.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]


def test_boxes_are_resized_with_their_picture(tmp_path):
    # 30 pixels become 60 of a mean of 80.
    sample = whole_sample(scene(tmp_path, "a.png", (40, 30)), 80)
    assert sample.picture.shape == (3, 60, 80)
    assert sample.boxes[1].tolist() == [20, 10, 38, 28]
