"""Scenes to train sgdet on: pairs of the boxes that the detector finds by itself.

The detector is frozen, so its boxes are found once and kept. Which of them lie on which
annotated object decides their classes and predicates (`detect_relsample` of
Scene-Graph-Benchmark.pytorch).
"""

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from memplan.data.records import BadRecordError
from memplan.models.pe_net.data import Sample, TrainingScenes, padded, pairs_of, prepare
from memplan.models.pe_net.detection import Detections, detect
from memplan.models.pe_net.module import PENet
from memplan.models.pe_net.pairs import choose_predicates, sample_detected_pairs
from memplan.models.pe_net.scenes import Scene
from memplan.models.pe_net.suppression import box_overlaps

OVERLAP = 0.5
"""A box lies on an object from here on."""


class DetectedScenes:
    """The scenes of `annotated`, with the boxes found in each.

    Where a scene cannot be used, neither boxes are needed: drawing it says why.
    """

    def __init__(
        self, annotated: TrainingScenes, detections: Sequence[Detections | None]
    ) -> None:
        self.annotated = annotated
        self.detections = detections

    def __len__(self) -> int:
        return len(self.annotated)

    def draw(self, index: int, random: Random) -> Sample:
        scene = self.annotated.scene(index)
        picture, boxes = prepare(scene, self.annotated.image_size)
        found = self.detections[index]
        assert found is not None, "the scene could not be used, and now it can"
        labels = labels_of(found.regions, boxes, torch.tensor(scene.classes))
        pairs, predicates = sample_detected_pairs(
            labels.tolist(),
            matches_of(found.boxes, labels, boxes, scene),
            choose_predicates(scene.relations, random),
            self.annotated.config.num_pairs_per_image,
            random,
        )
        return Sample(
            picture=picture,
            boxes=found.boxes,
            labels=labels,
            pairs=pairs_of(pairs),
            predicates=torch.tensor(predicates, dtype=torch.int64),
            regions=found.regions,
        )


def detect_scenes(model: PENet, annotated: TrainingScenes) -> DetectedScenes:
    """Find the boxes of every scene, the annotated ones being looked at as well."""
    device = next(model.parameters()).device
    detections: list[Detections | None] = []
    for index in range(len(annotated)):
        try:
            picture, boxes = prepare(annotated.scene(index), annotated.image_size)
        except BadRecordError:
            detections.append(None)
            continue
        sides = (picture.shape[1], picture.shape[2])
        images = padded([picture]).to(device)
        detections += detect(model, images, [sides], [boxes.to(device)])
    return DetectedScenes(
        annotated, [found and found.to_host() for found in detections]
    )


def labels_of(regions: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
    """The class of each region: that of the object it lies on, else the background."""
    overlap, place = box_overlaps(regions, boxes).max(dim=1)
    return torch.where(overlap >= OVERLAP, classes[place], 0)


def matches_of(
    found: Tensor, labels: Tensor, boxes: Tensor, scene: Scene
) -> list[dict[int, float]]:
    """Of each annotated box, the found ones of its class that lie on it."""
    overlaps = box_overlaps(boxes, found)
    is_match = (overlaps > OVERLAP) & (torch.tensor(scene.classes)[:, None] == labels)
    return [
        {
            place: float(row[place])
            for place in torch.nonzero(matched).flatten().tolist()
        }
        for row, matched in zip(overlaps, is_match, strict=True)
    ]
