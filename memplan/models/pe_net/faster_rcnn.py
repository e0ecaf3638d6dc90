"""PE-Net's frozen detector in PyTorch: ResNeXt with FPN, proposals, box head.

As in maskrcnn-benchmark, on torchvision's ResNeXt and RoIAlign. How regions are chosen
among the proposals is left out: they are given, as they depend on trained weights.

Letters: R regions of all images together, C channels of the pyramid.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d, roi_align

from memplan.models.pe_net.config import PENetConfig
from memplan.models.pe_net.detector import NUM_LEVELS

SCALES = tuple(1 / 2**level for level in range(2, 2 + NUM_LEVELS))
"""Of the pyramid's levels that regions are pooled from, relative to the picture."""
SAMPLING_RATIO = 2
STAGE_CHANNELS = (256, 512, 1024, 2048)


class Body(nn.Module):
    """ResNeXt without its classifier: the outputs of its four stages."""

    def __init__(self, config: PENetConfig) -> None:
        super().__init__()
        net = ResNet(
            Bottleneck,
            list(config.num_blocks),
            groups=config.num_groups,
            width_per_group=config.width_per_group,
            norm_layer=FrozenBatchNorm2d,
        )
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.layer1, self.layer2 = net.layer1, net.layer2
        self.layer3, self.layer4 = net.layer3, net.layer4

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        levels = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            levels.append(x)
        return levels


class Pyramid(nn.Module):
    """`FPN`: from the coarsest level down, and one coarser by max pooling."""

    def __init__(self, config: PENetConfig) -> None:
        super().__init__()
        C = config.fpn_channels
        self.inner = nn.ModuleList(nn.Conv2d(n, C, 1) for n in STAGE_CHANNELS)
        self.layer = nn.ModuleList(nn.Conv2d(C, C, 3, 1, 1) for _ in STAGE_CHANNELS)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        last_inner = self.inner[-1](levels[-1])
        results = [self.layer[-1](last_inner)]
        for index in reversed(range(len(levels) - 1)):
            inner_lateral = self.inner[index](levels[index])
            inner_top_down = functional.interpolate(
                last_inner,
                size=inner_lateral.shape[-2:],
                mode="bilinear",
                align_corners=False,
            )
            last_inner = inner_lateral + inner_top_down
            results.insert(0, self.layer[index](last_inner))
        results.append(functional.max_pool2d(results[-1], 1, 2))
        return results


class ProposalHead(nn.Module):
    """`RPNHead`: objectness and box offsets at each place of each level."""

    def __init__(self, config: PENetConfig) -> None:
        super().__init__()
        C = config.fpn_channels
        self.conv = nn.Conv2d(C, C, 3, 1, 1)
        self.cls_logits = nn.Conv2d(C, config.num_anchors, 1)
        self.bbox_pred = nn.Conv2d(C, 4 * config.num_anchors, 1)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, bbox_reg = [], []
        for feature in features:
            x = functional.relu(self.conv(feature))
            logits.append(self.cls_logits(x))
            bbox_reg.append(self.bbox_pred(x))
        return logits, bbox_reg


def as_rois(boxes: list[Tensor]) -> Tensor:
    """[R, 5]: the image's number before each box."""
    concat_boxes = torch.cat(boxes)
    ids = [torch.full_like(some[:, :1], i) for i, some in enumerate(boxes)]
    return torch.cat([torch.cat(ids), concat_boxes], dim=1)


class Pooler(nn.Module):
    """RoIAlign of each region from the level of its size."""

    def __init__(self, config: PENetConfig) -> None:
        super().__init__()
        self.resolution = config.pooler_resolution

    def forward(
        self, features: list[Tensor], boxes: list[Tensor], levels: list[Tensor]
    ) -> Tensor:
        """`levels` are the numbers of the regions at each level of the pyramid."""
        rois = as_rois(boxes)
        side, first = self.resolution, features[0]
        result = first.new_zeros(len(rois), first.shape[1], side, side)
        for feature, scale, chosen in zip(features, SCALES, levels, strict=False):
            pooled = roi_align(
                feature, rois[chosen], (side, side), scale, SAMPLING_RATIO
            )
            result[chosen] = pooled.to(result.dtype)
            del pooled
        return result


class RegionMlp(nn.Module):
    """`FPN2MLPFeatureExtractor`: two linear layers with ReLU on a pooled region."""

    def __init__(self, config: PENetConfig, pooler: nn.Module) -> None:
        super().__init__()
        self.pooler = pooler
        self.fc6 = nn.Linear(config.pooled_size, config.mlp_head_dim)
        self.fc7 = nn.Linear(config.mlp_head_dim, config.mlp_head_dim)

    def forward(
        self, features: list[Tensor], boxes: list[Tensor], levels: list[Tensor]
    ) -> Tensor:
        return self.forward_without_pool(self.pooler(features, boxes, levels))

    def forward_without_pool(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        x = functional.relu(self.fc6(x))
        x = functional.relu(self.fc7(x))
        return x


class BoxHead(nn.Module):
    """Features and, unless they are given, classes of the regions."""

    def __init__(self, config: PENetConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor = RegionMlp(config, Pooler(config))
        self.predictor = nn.ModuleDict(
            {
                "cls_score": nn.Linear(config.mlp_head_dim, config.num_object_classes),
                "bbox_pred": nn.Linear(
                    config.mlp_head_dim, 4 * config.num_object_classes
                ),
            }
        )

    def forward(
        self,
        features: list[Tensor],
        regions: list[Tensor],
        levels: list[Tensor],
        num_boxes: list[int],
    ) -> tuple[Tensor, list[Tensor]]:
        """Features of all regions, and the class logits of those that are boxes.

        In sgdet more regions are classified than are kept: the first of each image are.
        """
        x = self.feature_extractor(features, regions, levels)
        if self.config.mode == "predcls":
            return x, []
        class_logits, _box_regression = self.classify(x)
        by_image = torch.split(class_logits, [len(some) for some in regions])
        return x, [
            logits[:kept] for logits, kept in zip(by_image, num_boxes, strict=True)
        ]

    def classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits of regions, and where the box of each class lies."""
        return self.predictor["cls_score"](x), self.predictor["bbox_pred"](x)
