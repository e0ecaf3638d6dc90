"""PE-Net's training step: a frozen detector, and the relation head that is trained.

In the shape of the published code, an extension of Scene-Graph-Benchmark.pytorch
(`maskrcnn_benchmark/modeling/detector/generalized_rcnn.py` and
`roi_heads/relation_head/relation_head.py`).
"""

from memplan.errors import PlanError
from memplan.formulas.convolution import batch_norm_buffer_bytes
from memplan.formulas.layers import add
from memplan.formulas.loss import cross_entropy
from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.pe_net.config import PENetConfig
from memplan.models.pe_net.detector import STEM_CHANNELS, box_features, detect, sides
from memplan.models.pe_net.predictor import BOX_HIDDEN_SIZE, predict
from memplan.models.pe_net.regions import union_features


def forward(t: Tape, config: PENetConfig, batch: Batch) -> Tensor:
    """`GeneralizedRCNN.forward`: the sum of the losses, or in testing the logits."""
    if t.setting.checkpointing != "none":
        raise PlanError(
            "PE-Net has no layers that are checkpointed.",
            hint='Its hot spot goes with distance = "algebraic" in the configuration.',
        )
    with t.no_grad():
        held = detect(t, config, batch)
    check_frozen(t)
    features = held[0]
    with t.scope("roi_heads.relation"):
        return relate(t, config, batch, features)


def check_frozen(t: Tape) -> None:
    """The detector runs without gradients, so nothing in it can be trained."""
    for parameter in t.parameters.values():
        if parameter.stored.is_trainable:
            raise PlanError(
                f"PE-Net's detector is frozen: {parameter.name} cannot be trained.",
                hint=r"Add --trainable '^roi_heads\.relation\.', the part that learns.",
            )


def relate(
    t: Tape, config: PENetConfig, batch: Batch, features: list[Tensor]
) -> Tensor:
    """`ROIRelationHead.forward`, and the sum of what it returns."""
    num_boxes = batch.size * config.num_boxes_per_image
    num_pairs = pairs_per_image(config, batch)
    with t.scope("box_feature_extractor"):
        roi_features = box_features(t, config, features, num_boxes)
    union = union_features(t, config, features, batch.size * num_pairs)
    with t.scope("predictor"):
        refine_logits, relation_logits, losses = predict(
            t,
            config,
            batch.size,
            num_pairs,
            roi_features,
            union,
            has_labels=batch.has_labels,
        )
    t.end_phase("forward")
    if not batch.has_labels:
        return relation_logits
    loss = add(t, cross_entropy(t, relation_logits), cross_entropy(t, refine_logits))
    for other in losses:
        loss = add(t, loss, other)
    return loss


def pairs_per_image(config: PENetConfig, batch: Batch) -> int:
    """Those sampled in training; in testing every ordered pair of two boxes."""
    if batch.has_labels:
        return config.num_pairs_per_image
    return max(config.num_boxes_per_image * (config.num_boxes_per_image - 1), 1)


def batch_bytes(config: PENetConfig, batch: Batch) -> int:
    """Pictures in fp32, boxes, labels and pairs; and the buffers of the batch norms.

    A frozen batch norm keeps four tensors, a trained one mean, variance and a count.
    """
    height, width = sides(batch.image_size)
    boxes = batch.size * config.num_boxes_per_image
    pairs = batch.size * pairs_per_image(config, batch)
    images = 4 * 3 * batch.size * height * width
    per_box, per_pair = 4 * 4 + 8, 2 * 8 + 8
    return images + per_box * boxes + per_pair * pairs + buffer_bytes(config)


def buffer_bytes(config: PENetConfig) -> int:
    """Statistics of all batch norms, which parameter counts leave out."""
    frozen = [STEM_CHANNELS]
    for index, count in enumerate(config.num_blocks):
        width = config.num_groups * config.width_per_group << index
        out = 256 << index
        frozen += [out] + count * [width, width, out]
    C = config.fpn_channels
    trained = (C // 2, C, BOX_HIDDEN_SIZE)
    return 4 * 4 * sum(frozen) + sum(map(batch_norm_buffer_bytes, trained))
