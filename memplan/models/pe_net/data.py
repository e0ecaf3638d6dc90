"""Scenes as PE-Net is fed them: pictures resized and padded, boxes with them, pairs.

As Scene-Graph-Benchmark.pytorch prepares them (`data/transforms`, `structures/
image_list.py`, `modeling/poolers.py`). Pictures are not flipped: predicates may say
left or right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from memplan.data.images import open_picture
from memplan.models.pe_net.config import PENetConfig
from memplan.models.pe_net.detector import NUM_LEVELS, SIZE_DIVISIBILITY, resized_sides
from memplan.models.pe_net.pairs import (
    Pair,
    all_pairs,
    choose_predicates,
    sample_pairs,
)
from memplan.models.pe_net.scenes import Scene, Scenes
from memplan.units import round_up

PIXEL_MEAN = (102.9801, 115.9465, 122.7717)
"""Of blue, green, red, as Caffe2's detectors were trained; nothing is divided."""
CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4
"""A region of this side is pooled from this level; the levels begin at 2."""
FIRST_LEVEL = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One scene, resized, with pairs; without predicates in testing."""

    picture: Tensor
    """[3, height, width]."""
    boxes: Tensor
    labels: Tensor
    pairs: Tensor
    predicates: Tensor | None = None
    regions: Tensor | None = None
    """In sgdet, those that became the boxes."""


class TrainingScenes:
    """Scenes to train on, with pairs sampled anew at every draw.

    Args:
        image_size: the mean of the sides that a picture is resized to.
    """

    def __init__(self, scenes: Scenes, config: PENetConfig, image_size: int) -> None:
        self.scenes = scenes
        self.config = config
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.scenes)

    def scene(self, index: int) -> Scene:
        """As it is annotated.

        Raises:
            BadRecordError: its record cannot be used.
        """
        return self.scenes.parse(self.scenes.record(index))

    def draw(self, index: int, random: Random) -> Sample:
        scene = self.scene(index)
        annotated = choose_predicates(scene.relations, random)
        pairs, predicates = sample_pairs(
            len(scene.boxes), annotated, self.config.num_pairs_per_image, random
        )
        picture, boxes = prepare(scene, self.image_size)
        return Sample(
            picture=picture,
            boxes=boxes,
            labels=torch.tensor(scene.classes),
            pairs=pairs_of(pairs),
            predicates=torch.tensor(predicates, dtype=torch.int64),
        )


def whole_sample(scene: Scene, image_size: int) -> Sample:
    """A scene with every ordered pair of its boxes."""
    picture, boxes = prepare(scene, image_size)
    return Sample(
        picture=picture,
        boxes=boxes,
        labels=torch.tensor(scene.classes),
        pairs=pairs_of(all_pairs(len(boxes))),
    )


def pairs_of(pairs: Sequence[Pair]) -> Tensor:
    """[P, 2], also where there is none."""
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2)


def prepare(scene: Scene, image_size: int) -> tuple[Tensor, Tensor]:
    """The resized picture, and the boxes on it.

    Raises:
        BadRecordError: the picture cannot be opened, or has another size.
    """
    picture = open_picture(scene.picture, scene.record, scene.picture_field)
    if picture.size != scene.size:
        raise scene.record.error(
            scene.picture_field, "names a picture of another size than its boxes"
        )
    width, height = resized(scene.size, image_size)
    scale = torch.tensor([width / scene.size[0], height / scene.size[1]] * 2)
    pixels = pixels_of(picture.resize((width, height), Image.Resampling.BILINEAR))
    return pixels, torch.tensor(scene.boxes) * scale


def resized(size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Width and height so that the shorter side is as wished, the longer not beyond."""
    shortest, longest = resized_sides(image_size)
    shorter, longer = min(size), max(size)
    if longer / shorter * shortest > longest:
        shortest = round(longest * shorter / longer)
    width, height = (
        shortest if side == shorter else int(shortest * side / shorter) for side in size
    )
    return max(width, 1), max(height, 1)


def pixels_of(picture: Image.Image) -> Tensor:
    """[3, height, width]: blue, green, red from 0 to 255, less their means."""
    red_green_blue: Tensor = pil_to_tensor(picture)
    return red_green_blue.float().flip(0) - torch.tensor(PIXEL_MEAN)[:, None, None]


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """The arguments of PE-Net's forward pass."""
    boxes = [sample.boxes for sample in samples]
    batch = {
        "images": padded([sample.picture for sample in samples]),
        "image_sizes": [tuple(sample.picture.shape[-2:]) for sample in samples],
        "boxes": boxes,
        "levels": levels_of(torch.cat(boxes)),
        "labels": [sample.labels for sample in samples],
        "pairs": [sample.pairs for sample in samples],
    }
    predicates = [s.predicates for s in samples if s.predicates is not None]
    if predicates:
        batch["predicates"] = predicates
    regions = [s.regions for s in samples if s.regions is not None]
    if regions:
        batch |= {
            "proposals": regions,
            "proposal_levels": levels_of(torch.cat(regions)),
        }
    return batch


def padded(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures in the upper left of one tensor, whose sides are multiples of 32."""
    height, width = (
        round_up(max(picture.shape[axis] for picture in pictures), SIZE_DIVISIBILITY)
        for axis in (1, 2)
    )
    batch = pictures[0].new_zeros(len(pictures), 3, height, width)
    for place, picture in zip(batch, pictures, strict=True):
        place[:, : picture.shape[1], : picture.shape[2]] = picture
    return batch


def levels_of(boxes: Tensor) -> list[Tensor]:
    """The numbers of the boxes at each level of the pyramid, by their area."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    side = sides.prod(dim=1).sqrt()
    level = (CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIDE + 1e-6)).floor()
    level = level.clamp(FIRST_LEVEL, FIRST_LEVEL + NUM_LEVELS - 1)
    return [
        torch.nonzero(level == FIRST_LEVEL + number).flatten()
        for number in range(NUM_LEVELS)
    ]
