"""What PE-Net trains, but for its predictor: features of boxes and of their unions.

As `relation_head/roi_relation_feature_extractors.py` of the published code. Letters:
P pairs of all images together, C channels of the pyramid.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

from memplan.models.pe_net.config import PENetConfig
from memplan.models.pe_net.detector import NUM_LEVELS
from memplan.models.pe_net.faster_rcnn import (
    SAMPLING_RATIO,
    SCALES,
    Pooler,
    RegionMlp,
    as_rois,
)
from memplan.models.pe_net.prototypes import PrototypeEmbeddingNetwork, Sides

STATISTICS_MOMENTUM = 0.01


class AllLevelsPooler(nn.Module):
    """RoIAlign of each region from every level, reduced to the channels of one."""

    def __init__(self, config: PENetConfig) -> None:
        super().__init__()
        C = config.fpn_channels
        self.resolution = config.pooler_resolution
        self.reduce_channel = nn.Sequential(
            nn.Conv2d(NUM_LEVELS * C, C, 3, 1, 1), nn.ReLU(inplace=True)
        )

    def forward(self, features: list[Tensor], boxes: list[Tensor]) -> Tensor:
        rois = as_rois(boxes)
        side, first = self.resolution, features[0]
        C = first.shape[1]
        result = first.new_zeros(len(rois), NUM_LEVELS * C, side, side)
        for level, (feature, scale) in enumerate(zip(features, SCALES, strict=False)):
            pooled = roi_align(feature, rois, (side, side), scale, SAMPLING_RATIO)
            result[:, level * C : (level + 1) * C] = pooled.to(result.dtype)
            del pooled
        reduced: Tensor = self.reduce_channel(result)
        return reduced


class UnionFeatures(nn.Module):
    """`RelationFeatureExtractor`: what subject and object span together, and where."""

    def __init__(self, config: PENetConfig) -> None:
        super().__init__()
        C = config.fpn_channels
        self.rect_size = config.rect_size
        self.feature_extractor = RegionMlp(config, AllLevelsPooler(config))
        self.rect_conv = nn.Sequential(
            nn.Conv2d(2, C // 2, 7, 2, 3),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(C // 2, momentum=STATISTICS_MOMENTUM),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(C // 2, C, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(C, momentum=STATISTICS_MOMENTUM),
        )

    def forward(
        self,
        features: list[Tensor],
        boxes: list[Tensor],
        pairs: list[Tensor],
        image_sides: list[Sides],
    ) -> Tensor:
        unions, rects = [], []
        for some, pair, sides in zip(boxes, pairs, image_sides, strict=True):
            head, tail = some[pair[:, 0]], some[pair[:, 1]]
            corners = (
                torch.min(head[:, :2], tail[:, :2]),
                torch.max(head[:, 2:], tail[:, 2:]),
            )
            unions.append(torch.cat(corners, dim=1))
            rects.append(
                torch.stack(
                    [self.rectangle(head, sides), self.rectangle(tail, sides)], dim=1
                )
            )
        rect_features = self.rect_conv(torch.cat(rects))
        union_features = self.feature_extractor.pooler(features, unions) + rect_features
        return self.feature_extractor.forward_without_pool(union_features)

    def rectangle(self, boxes: Tensor, image_sides: Sides) -> Tensor:
        """[pairs, side, side]: ones within the box, on a picture of a few pixels."""
        height, width = image_sides
        side = self.rect_size
        places = torch.arange(side, device=boxes.device)
        shrunk = boxes * boxes.new_tensor([side / width, side / height] * 2)
        first, last = shrunk[:, :2].floor().long(), shrunk[:, 2:].ceil().long()
        inside = (places >= first[:, :, None]) & (places <= last[:, :, None])
        return (inside[:, 0, None, :] & inside[:, 1, :, None]).float()


class RelationHead(nn.Module):
    """`ROIRelationHead`: its own copies of the extractors, and the predictor."""

    def __init__(self, config: PENetConfig) -> None:
        super().__init__()
        self.union_feature_extractor = UnionFeatures(config)
        self.box_feature_extractor = RegionMlp(config, Pooler(config))
        self.predictor = PrototypeEmbeddingNetwork(config)

    def forward(
        self,
        features: list[Tensor],
        boxes: list[Tensor],
        levels: list[Tensor],
        labels: list[Tensor],
        logits: list[Tensor],
        pairs: list[Tensor],
        predicates: list[Tensor] | None,
        image_sides: list[Sides],
        class_boxes: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """All losses, to be summed with equal weights; in testing what is predicted.

        That is `object_logits`, `labels` and `relation_logits`.
        """
        roi_features = self.box_feature_extractor(features, boxes, levels)
        union_features = self.union_feature_extractor(
            features, boxes, pairs, image_sides
        )
        object_logits, found_labels, relation_logits, losses = self.predictor(
            boxes,
            labels,
            logits,
            pairs,
            predicates,
            roi_features,
            union_features,
            image_sides,
            class_boxes,
        )
        if predicates is None:
            return {
                "object_logits": object_logits,
                "labels": found_labels,
                "relation_logits": relation_logits,
            }
        return {
            "loss_rel": functional.cross_entropy(
                relation_logits, torch.cat(predicates)
            ),
            "loss_refine_obj": functional.cross_entropy(
                object_logits, torch.cat(labels)
            ),
            **losses,
        }
