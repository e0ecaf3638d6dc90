"""Boxes that PE-Net's detector finds by itself, for sgdet.

As maskrcnn-benchmark chooses them (`modeling/rpn`, `roi_heads/box_head/inference.py`),
with the settings of PE-Net's configuration. The detector is frozen, so what it finds in
a picture stays the same through the whole training.

Letters: R regions of a picture, N those that become its boxes, C object classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import cast

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image, nms

from memplan.models.pe_net.config import PENetConfig
from memplan.models.pe_net.data import levels_of
from memplan.models.pe_net.faster_rcnn import BoxHead
from memplan.models.pe_net.module import PENet
from memplan.models.pe_net.prototypes import Sides

ANCHOR_SIZES = (32, 64, 128, 256, 512)
ANCHOR_STRIDES = (4, 8, 16, 32, 64)
ASPECT_RATIOS = (0.23232838, 0.63365731, 1.28478321, 3.15089189)
"""Height by width, as in neural-motifs."""
NUM_BEFORE_SUPPRESSION = 6000
"""Of each level, the surest regions."""
REGION_OVERLAP = 0.7
SCORE_THRESHOLD = 0.01
BOX_OVERLAP = 0.3
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
REGION_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
LARGEST_GROWTH = math.log(1000 / 16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """The boxes of one picture, in the pixels it is given in."""

    regions: Tensor
    """[N, 4]: what was classified."""
    boxes: Tensor
    """[N, 4]: where the object of that class is."""
    class_boxes: Tensor
    """[N, C, 4]: where it would be, were it of another class."""
    labels: Tensor
    scores: Tensor

    def to_host(self) -> "Detections":
        """The same in the memory that a loader's workers see."""
        values = {item.name: getattr(self, item.name).cpu() for item in fields(self)}
        return Detections(**values)


@torch.no_grad()
def detect(
    model: PENet,
    images: Tensor,
    image_sizes: Sequence[Sides],
    also: Sequence[Tensor] | None = None,
) -> list[Detections]:
    """What the detector finds in each picture, at least one box.

    Args:
        also: further regions to classify: the annotated boxes, in training.
    """
    box_head = cast(BoxHead, model.roi_heads["box"])
    features = model.backbone(images)
    objectness, offsets = model.rpn["head"](features)
    regions = [
        proposals(
            [level[number] for level in objectness],
            [level[number] for level in offsets],
            sides,
            model.config.num_proposals_per_image,
        )
        for number, sides in enumerate(image_sizes)
    ]
    if also is not None:
        regions = [torch.cat(pair) for pair in zip(regions, also, strict=True)]
    x = box_head.feature_extractor(features, regions, levels_of(torch.cat(regions)))
    counts = [len(some) for some in regions]
    class_logits, moves = box_head.classify(x)
    shares = torch.split(class_logits.softmax(dim=1), counts)
    found = zip(regions, shares, torch.split(moves, counts), image_sizes, strict=True)
    return [boxes_of(model.config, *one) for one in found]


def proposals(
    objectness: Sequence[Tensor], offsets: Sequence[Tensor], sides: Sides, count: int
) -> Tensor:
    """[R, 4]: the surest regions of one picture over all levels.

    Args:
        objectness: of each level, [anchors, height, width].
        offsets: of each level, [4 anchors, height, width].
    """
    found, scores = [], []
    for level, (logits, moves) in enumerate(zip(objectness, offsets, strict=True)):
        height, width = logits.shape[1:]
        score = logits.permute(1, 2, 0).flatten().sigmoid()
        move = moves.view(-1, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
        score, places = score.topk(min(len(score), NUM_BEFORE_SUPPRESSION))
        anchor = anchors(level, height, width).to(move)[places]
        region = clip(decode(anchor, move[places], REGION_WEIGHTS), sides)
        kept = nms(region, score, REGION_OVERLAP)[:count]
        found.append(region[kept])
        scores.append(score[kept])
    score, regions = torch.cat(scores), torch.cat(found)
    return regions[score.topk(min(len(score), count)).indices]


def anchors(level: int, height: int, width: int) -> Tensor:
    """[height * width * anchors, 4]: the shapes that regions start from."""
    size, stride = ANCHOR_SIZES[level], ANCHOR_STRIDES[level]
    centre = (stride - 1) / 2
    shapes = []
    for ratio in ASPECT_RATIOS:
        # Whole numbers at the scale of the stride, as from the first Faster R-CNN on.
        across = round(math.sqrt(stride**2 / ratio))
        half_width = (across * size / stride - 1) / 2
        half_height = (round(across * ratio) * size / stride - 1) / 2
        shapes.append([-half_width, -half_height, half_width, half_height])
    x = torch.arange(width) * stride + centre
    y = torch.arange(height) * stride + centre
    down, right = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([right, down, right, down], dim=-1).view(-1, 1, 4)
    return (centres + torch.tensor(shapes)).view(-1, 4)


def boxes_of(
    config: PENetConfig, regions: Tensor, shares: Tensor, moves: Tensor, sides: Sides
) -> Detections:
    """The boxes of one picture, each of one class.

    A region takes the surest of the classes that suppression among the regions leaves
    it; the surest regions are kept.
    """
    C = config.num_object_classes
    each = regions[:, None].expand(-1, C, 4).reshape(-1, 4)
    class_boxes = clip(decode(each, moves.reshape(-1, 4), BOX_WEIGHTS), sides)
    class_boxes = class_boxes.view(-1, C, 4)

    is_left = torch.zeros_like(shares, dtype=torch.bool)
    region, label = torch.nonzero(shares[:, 1:] > SCORE_THRESHOLD, as_tuple=True)
    label = label + 1
    kept = batched_nms(
        class_boxes[region, label], shares[region, label], label, BOX_OVERLAP
    )
    is_left[region[kept], label[kept]] = True
    if not len(kept):
        is_left[:, 1:] = shares[:, 1:] == shares[:, 1:].max()

    scores, labels = (shares * is_left).max(dim=1)
    count = min(config.num_boxes_per_image, int((scores > 0).sum()))
    chosen = scores.topk(count).indices
    return Detections(
        regions=regions[chosen],
        boxes=class_boxes[chosen, labels[chosen]],
        class_boxes=class_boxes[chosen],
        labels=labels[chosen],
        scores=scores[chosen],
    )


def decode(boxes: Tensor, moves: Tensor, weights: Sequence[float]) -> Tensor:
    """The boxes moved and grown; they name their last pixel."""
    sizes = boxes[:, 2:] - boxes[:, :2] + 1
    centres = boxes[:, :2] + sizes / 2
    moves = moves / moves.new_tensor(weights)
    centres = centres + moves[:, :2] * sizes
    sizes = sizes * moves[:, 2:].clamp(max=LARGEST_GROWTH).exp()
    return torch.cat([centres - sizes / 2, centres + sizes / 2 - 1], dim=1)


def clip(boxes: Tensor, sides: Sides) -> Tensor:
    height, width = sides
    clipped: Tensor = clip_boxes_to_image(boxes, (height - 1, width - 1))
    return clipped
