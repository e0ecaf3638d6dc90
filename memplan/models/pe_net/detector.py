"""The frozen detector: ResNeXt with FPN, region proposals, box head.

In the shape of torchvision's `models/resnet.py` and of maskrcnn-benchmark's
`modeling/{backbone/fpn,rpn/rpn,roi_heads/box_head/box_head}.py`, run without gradients:
everything here is gone when the relation head begins, but the pyramid and the features
of the boxes, which the callers' names hold to the end of the forward pass.

Letters: B images, R regions.
"""

from dataclasses import dataclass

from memplan.formulas.convolution import (
    add_in_place,
    conv2d,
    frozen_batch_norm,
    max_pool2d,
    relu,
    relu_in_place,
    roi_align,
    upsample,
)
from memplan.formulas.layers import add
from memplan.formulas.linear import linear
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import stack
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.pe_net.config import PENetConfig
from memplan.units import ceil_div, round_up

STEM_CHANNELS = 64
SIZE_DIVISIBILITY = 32
NUM_LEVELS = 4
"""Levels that regions are pooled from; a fifth is for proposals alone."""


def sides(image_size: int) -> tuple[int, int]:
    """Height and width of a padded picture, whose mean side is `image_size`.

    Batches are grouped by orientation and padded to multiples of 32.
    """
    shorter, longer = resized_sides(image_size)
    return round_up(shorter, SIZE_DIVISIBILITY), round_up(longer, SIZE_DIVISIBILITY)


def resized_sides(image_size: int) -> tuple[int, int]:
    """The sides of a picture before it is padded, the longer one at its largest.

    Pictures are resized to 600 by at most 1000 pixels, 3 to 5: a mean of 800.
    """
    return ceil_div(3 * image_size, 4), ceil_div(5 * image_size, 4)


def detect(t: Tape, config: PENetConfig, batch: Batch) -> tuple[list[Tensor], Tensor]:
    """Backbone, proposals and box head: the pyramid, and features of the regions."""
    images = t.input((batch.size, 3, *sides(batch.image_size)), "fp32")
    features = backbone(t, config, images)
    propose(t, config, features)
    return features, classify_boxes(t, config, batch, features)


def backbone(t: Tape, config: PENetConfig, images: Tensor) -> list[Tensor]:
    """ResNeXt and feature pyramid: five levels, the finest first."""
    with t.scope("backbone"):
        with t.scope("body"):
            levels = residual_stages(t, config, images)
        with t.scope("fpn"):
            return pyramid(t, config, levels)


def residual_stages(t: Tape, config: PENetConfig, images: Tensor) -> list[Tensor]:
    """The outputs of the four stages, which the pyramid needs together."""
    with t.scope("stem"):
        x = conv2d(t, "conv1", images, STEM_CHANNELS, 7, stride=2, bias=False)
        x = frozen_batch_norm(t, x)
        x = relu_in_place(t, x)
        x = max_pool2d(t, x, 3, 2, padding=1)
    levels = []
    for index, count in enumerate(config.num_blocks):
        x = stage(t, config, f"layer{index + 1}", count, index, x)
        levels.append(x)
    return levels


def stage(
    t: Tape, config: PENetConfig, name: str, count: int, index: int, x: Tensor
) -> Tensor:
    """`nn.Sequential` of bottlenecks, the first with a shortcut of its own."""
    width = config.num_groups * config.width_per_group << index
    first = Bottleneck(config.num_groups, width, 256 << index, 1 if index == 0 else 2)
    with t.scope(f"{name}.0"):
        y = first(t, x)
    block = Bottleneck(config.num_groups, width, 256 << index, 0)
    return stack(t, name, count - 1, block, y) if count > 1 else y


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """torchvision's `Bottleneck`: the stride is in the grouped convolution."""

    num_groups: int
    width: int
    out_channels: int
    stride: int
    """Of the shortcut; 0 where the input itself is added."""

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        identity = x
        stride = max(self.stride, 1)

        out = conv2d(t, "conv1", x, self.width, 1, bias=False)
        out = frozen_batch_norm(t, out)
        out = relu_in_place(t, out)

        out = conv2d(
            t,
            "conv2",
            out,
            self.width,
            3,
            stride=stride,
            groups=self.num_groups,
            bias=False,
        )
        out = frozen_batch_norm(t, out)
        out = relu_in_place(t, out)

        out = conv2d(t, "conv3", out, self.out_channels, 1, bias=False)
        out = frozen_batch_norm(t, out)

        if self.stride:
            with t.scope("downsample"):
                identity = conv2d(
                    t, "0", x, self.out_channels, 1, stride=stride, bias=False
                )
                identity = frozen_batch_norm(t, identity)

        out = add_in_place(t, out, identity)
        return relu_in_place(t, out)


def pyramid(t: Tape, config: PENetConfig, levels: list[Tensor]) -> list[Tensor]:
    """`FPN.forward`: from the coarsest level down, and one coarser by max pooling.

    The names of the loop hold the lateral map and the upsampled one while their sum is
    convolved: at the finest level that is the detector's highest point.
    """
    C = config.fpn_channels
    last_inner = conv2d(t, "fpn_inner4", levels[-1], C, 1)
    results = [conv2d(t, "fpn_layer4", last_inner, C, 3)]
    for index in (3, 2, 1):
        inner_lateral = conv2d(t, f"fpn_inner{index}", levels[index - 1], C, 1)
        inner_top_down = upsample(t, last_inner, inner_lateral.shape[2:])
        last_inner = add(t, inner_lateral, inner_top_down)
        results.insert(0, conv2d(t, f"fpn_layer{index}", last_inner, C, 3))
    results.append(max_pool2d(t, results[-1], 1, 2))
    return results


def propose(t: Tape, config: PENetConfig, features: list[Tensor]) -> None:
    """`RPNHead.forward`: its outputs live until the proposals are chosen.

    How many are depends on values; what the choice itself takes is not counted.
    """
    logits, bbox_reg = [], []
    with t.scope("rpn.head"):
        for feature in features:
            x = relu(t, conv2d(t, "conv", feature, config.fpn_channels, 3))
            logits.append(conv2d(t, "cls_logits", x, config.num_anchors, 1))
            bbox_reg.append(conv2d(t, "bbox_pred", x, 4 * config.num_anchors, 1))


def classify_boxes(
    t: Tape, config: PENetConfig, batch: Batch, features: list[Tensor]
) -> Tensor:
    """`ROIBoxHead.forward`: features of the annotated boxes, or of the proposals.

    In predcls the classes are given and its predictor does not run.
    """
    num_regions = config.num_boxes_per_image
    if config.mode == "sgdet":
        num_regions = config.num_proposals_per_image
    with t.scope("roi_heads.box"):
        with t.scope("feature_extractor"):
            x = box_features(t, config, features, batch.size * num_regions)
        with t.scope("predictor"):
            for name, size in (("cls_score", 1), ("bbox_pred", 4)):
                out_features = size * config.num_object_classes
                if config.mode == "predcls":
                    with t.scope(name):
                        t.weight("weight", (out_features, config.mlp_head_dim))
                        t.weight("bias", (out_features,))
                else:
                    linear(t, name, x, out_features)
        return x


def box_features(
    t: Tape, config: PENetConfig, features: list[Tensor], num_regions: int
) -> Tensor:
    """`FPN2MLPFeatureExtractor.forward`: each region from the level of its size.

    The regions are taken to be spread over the levels evenly.
    """
    resolution = config.pooler_resolution
    x = t.tensor(
        (num_regions, config.fpn_channels, resolution, resolution), features[0].dtype
    )
    for level in range(NUM_LEVELS):
        roi_align(t, features[level], ceil_div(num_regions, NUM_LEVELS), resolution)
    return region_mlp(t, config, x)


def region_mlp(t: Tape, config: PENetConfig, x: Tensor) -> Tensor:
    """`forward_without_pool`: two linear layers with ReLU on the flattened region."""
    flat = t.view(x, (x.shape[0], config.pooled_size))
    hidden = relu(t, linear(t, "fc6", flat, config.mlp_head_dim))
    return relu(t, linear(t, "fc7", hidden, config.mlp_head_dim))
