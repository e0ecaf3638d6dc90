"""PE-Net's own predictions of scenes, and how many of their relations it finds."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from memplan.models.pe_net.data import collate, levels_of, pairs_of, whole_sample
from memplan.models.pe_net.detection import Detections, detect
from memplan.models.pe_net.frequency import FrequencyBaseline
from memplan.models.pe_net.module import PENet
from memplan.models.pe_net.pairs import all_pairs
from memplan.models.pe_net.recall import (
    Prediction,
    Recalls,
    Truth,
    recalls_of,
    truth_of,
)
from memplan.models.pe_net.scenes import Scene


def evaluate(
    model: PENet, scenes: Iterable[Scene], image_size: int, batch_size: int = 1
) -> Recalls:
    """R@K and mR@K of the model in the mode of its configuration."""
    config = model.config
    predicted = predictions(model, scenes, image_size, batch_size)
    return recalls_of(predicted, config.num_predicate_classes, config.mode)


def evaluate_baseline(baseline: FrequencyBaseline, scenes: Iterable[Scene]) -> Recalls:
    """The same of the frequency baseline, which is given boxes and classes."""
    num_predicates = baseline.counts.shape[2]
    pictures = ((baseline.predict(scene), truth(scene)) for scene in scenes)
    return recalls_of(pictures, num_predicates, "predcls")


def predictions(
    model: PENet, scenes: Iterable[Scene], image_size: int, batch_size: int = 1
) -> Iterator[tuple[Prediction, Truth]]:
    """What the model says of each scene, and what is annotated there."""
    model.eval()
    remaining = iter(scenes)
    while some := list(islice(remaining, batch_size)):
        yield from zip(predict(model, some, image_size), map(truth, some), strict=True)


def truth(scene: Scene) -> Truth:
    return truth_of(scene.boxes, scene.classes, scene.relations)


@torch.no_grad()
def predict(model: PENet, scenes: Sequence[Scene], image_size: int) -> list[Prediction]:
    """One batch of scenes; boxes come back in the pixels of the annotation."""
    device = next(model.parameters()).device
    batch = collate([whole_sample(scene, image_size) for scene in scenes])
    batch["images"] = batch["images"].to(device)
    detections = None
    if model.config.mode == "sgdet":
        detections = detect(model, batch["images"], batch["image_sizes"])
        batch |= detected_inputs(detections)
    output = model(**{name: _to(device, value) for name, value in batch.items()})

    num_boxes = [len(boxes) for boxes in batch["boxes"]]
    labels = output.labels.cpu().split(num_boxes)
    shares = output.object_logits.cpu().softmax(dim=1).split(num_boxes)
    relation_scores = output.relation_logits.cpu().softmax(dim=1)
    by_image = relation_scores.split([len(pairs) for pairs in batch["pairs"]])
    found = []
    for number, scene in enumerate(scenes):
        boxes = torch.tensor(scene.boxes).float()
        if detections is not None:
            places = torch.arange(num_boxes[number])
            boxes = detections[number].class_boxes.cpu()[places, labels[number]]
            boxes = boxes * _enlarging(scene, batch["image_sizes"][number])
        found.append(
            Prediction(
                boxes=boxes,
                classes=labels[number],
                scores=shares[number].gather(1, labels[number][:, None])[:, 0],
                pairs=batch["pairs"][number],
                predicate_scores=by_image[number],
            )
        )
    return found


def detected_inputs(detections: Sequence[Detections]) -> dict[str, Any]:
    """What takes the place of annotated boxes; every pair of the detected ones."""
    boxes = [some.boxes for some in detections]
    regions = [some.regions for some in detections]
    return {
        "boxes": boxes,
        "levels": levels_of(torch.cat(boxes)),
        "labels": [some.labels for some in detections],
        "proposals": regions,
        "proposal_levels": levels_of(torch.cat(regions)),
        "class_boxes": [some.class_boxes for some in detections],
        "pairs": [pairs_of(all_pairs(len(some))) for some in boxes],
    }


def _enlarging(scene: Scene, resized: tuple[int, int]) -> Tensor:
    """From the pixels of the resized picture to those of the annotation."""
    height, width = resized
    return torch.tensor([scene.size[0] / width, scene.size[1] / height] * 2)


def _to(device: torch.device, value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return [v.to(device) if isinstance(v, Tensor) else v for v in value]
