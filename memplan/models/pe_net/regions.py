"""What the relation head trains on regions: features of boxes, and of their unions.

In the shape of `relation_head/roi_relation_feature_extractors.py` of the published
code, which extends Scene-Graph-Benchmark.pytorch.

Letters: P pairs of all images together.
"""

from memplan.formulas.convolution import (
    batch_norm,
    conv2d,
    max_pool2d,
    relu_in_place,
    roi_align,
)
from memplan.formulas.layers import add, concatenate
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.pe_net.config import PENetConfig
from memplan.models.pe_net.detector import NUM_LEVELS, region_mlp


def union_features(
    t: Tape, config: PENetConfig, features: list[Tensor], num_pairs: int
) -> Tensor:
    """`RelationFeatureExtractor.forward`: what subject and object span together."""
    with t.scope("union_feature_extractor"):
        rect_inputs = masks(t, config, num_pairs, features[0].dtype)
        rect_features = rect_conv(t, config, rect_inputs)
        with t.scope("feature_extractor"):
            union_vis_features = pool_all_levels(t, config, features, num_pairs)
            union = add(t, union_vis_features, rect_features)
            return region_mlp(t, config, union)


def masks(t: Tape, config: PENetConfig, num_pairs: int, dtype: str) -> Tensor:
    """Two pictures a pair, ones within the subject's and the object's rectangle."""
    shape = (num_pairs, 2, config.rect_size, config.rect_size)
    rects = t.tensor(shape, dtype)
    return concatenate(t, [rects], shape)


def rect_conv(t: Tape, config: PENetConfig, rect_inputs: Tensor) -> Tensor:
    """`nn.Sequential`: two convolutions, each with ReLU in place and batch norm.

    ReLU overwrites the convolution's output and saves it, and batch norm saves the
    same; pooling keeps its input and 8 bytes for each output.
    """
    C = config.fpn_channels
    with t.scope("rect_conv"):
        x = conv2d(t, "0", rect_inputs, C // 2, 7, stride=2)
        x = relu_in_place(t, x)
        x = batch_norm(t, "2", x)
        x = max_pool2d(t, x, 3, 2, padding=1)
        x = conv2d(t, "4", x, C, 3)
        x = relu_in_place(t, x)
        return batch_norm(t, "6", x)


def pool_all_levels(
    t: Tape, config: PENetConfig, features: list[Tensor], num_pairs: int
) -> Tensor:
    """`Pooler.forward` with `cat_all_levels`: every region from every level.

    One tensor of 4 x 256 channels is filled level by level, and saved for the
    convolution that reduces it.
    """
    C, resolution = config.fpn_channels, config.pooler_resolution
    shape = (num_pairs, NUM_LEVELS * C, resolution, resolution)
    result = t.tensor(shape, features[0].dtype)
    for level in range(NUM_LEVELS):
        roi_align(t, features[level], num_pairs, resolution)
    with t.scope("pooler.reduce_channel"):
        result = conv2d(t, "0", result, C, 3)
        return relu_in_place(t, result)
