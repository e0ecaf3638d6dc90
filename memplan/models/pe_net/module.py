"""PE-Net in PyTorch: a frozen detector, and the relation head that is trained."""

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from memplan.formulas.setting import Batch
from memplan.models.pe_net.config import PENetConfig
from memplan.models.pe_net.detector import NUM_LEVELS, sides
from memplan.models.pe_net.faster_rcnn import Body, BoxHead, ProposalHead, Pyramid
from memplan.models.pe_net.pairs import all_pairs
from memplan.models.pe_net.prototypes import Sides
from memplan.models.pe_net.relation_head import RelationHead

Tensors = dict[str, Tensor | list[Tensor]]


def build(config: PENetConfig, dtype: torch.dtype, attention: str | None) -> "PENet":
    """The model with initial weights in `dtype`, on the default device.

    It has no attention to choose a kernel for.
    """
    return PENet(config).to(dtype)


def make_batch(config: PENetConfig, batch: Batch, dtype: torch.dtype) -> Tensors:
    """Pictures with boxes, their classes, and pairs of them with predicates.

    In testing all pairs are looked at. Which level a region is pooled from depends on
    its size alone, so a loader knows it: here regions are spread evenly.
    """
    B, height_and_width = batch.size, sides(batch.image_size)
    num_boxes = config.num_boxes_per_image
    made: Tensors = {
        "images": torch.randn(B, 3, *height_and_width, dtype=dtype),
        "boxes": [random_boxes(num_boxes, *height_and_width) for _ in range(B)],
        "levels": spread(B * num_boxes),
        "labels": random_lists(config.num_object_classes, B, num_boxes),
    }
    if batch.has_labels:
        pairs = config.num_pairs_per_image
        made["pairs"] = random_lists(num_boxes, B, pairs, 2)
        made["predicates"] = random_lists(config.num_predicate_classes, B, pairs)
    else:
        made["pairs"] = [torch.tensor(all_pairs(num_boxes)).view(-1, 2)] * B
    if config.mode == "sgdet":
        made["proposals"] = [
            random_boxes(config.num_proposals_per_image, *height_and_width)
            for _ in range(B)
        ]
        made["proposal_levels"] = spread(B * config.num_proposals_per_image)
    return made


def random_boxes(count: int, height: int, width: int) -> Tensor:
    """[count, 4]: left, top, right, bottom within a picture."""
    corners = torch.rand(2, count, 2) * torch.tensor([width, height])
    return torch.cat([corners.amin(dim=0), corners.amax(dim=0)], dim=1)


def random_lists(limit: int, num_images: int, *shape: int) -> list[Tensor]:
    return [torch.randint(0, limit, shape) for _ in range(num_images)]


def spread(count: int) -> list[Tensor]:
    return list(torch.arange(count).chunk(NUM_LEVELS))


class PENet(nn.Module):
    """`GeneralizedRCNN` of the published code; with predicates it returns the loss."""

    def __init__(self, config: PENetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = nn.Sequential(Body(config), Pyramid(config))
        self.rpn = nn.ModuleDict({"head": ProposalHead(config)})
        self.roi_heads = nn.ModuleDict(
            {"box": BoxHead(config), "relation": RelationHead(config)}
        )

    def forward(
        self,
        images: Tensor,
        boxes: list[Tensor],
        levels: list[Tensor],
        labels: list[Tensor],
        pairs: list[Tensor],
        predicates: list[Tensor] | None = None,
        proposals: list[Tensor] | None = None,
        proposal_levels: list[Tensor] | None = None,
        image_sizes: list[Sides] | None = None,
        class_boxes: list[Tensor] | None = None,
    ) -> ModelOutput:
        """The sum of the losses or, without predicates, what is predicted.

        Args:
            boxes: annotated, or in sgdet detected.
            labels: their classes; in sgcls and sgdet only the loss knows them.
            proposals: in sgdet, what is classified: the regions that became the boxes,
                and any others after them. Else it is the boxes themselves.
            image_sizes: height and width of each picture without its padding.
            class_boxes: in testing sgdet, [boxes, classes, 4]: see `detection`.
        """
        sizes = image_sizes or len(boxes) * [(images.shape[-2], images.shape[-1])]
        with torch.no_grad():
            features = self.backbone(images)
            self.rpn["head"](features)
            regions = boxes if proposals is None else proposals
            region_levels = levels if proposal_levels is None else proposal_levels
            x, logits = self.roi_heads["box"](
                features, regions, region_levels, [len(some) for some in boxes]
            )
        found = self.roi_heads["relation"](
            features,
            boxes,
            levels,
            labels,
            logits,
            pairs,
            predicates,
            sizes,
            class_boxes,
        )
        del x  # held to the end, as the published code's name for it does
        if predicates is None:
            return ModelOutput(**found)
        return ModelOutput(loss=sum(found.values()))
