"""PE-Net: prototype-based scene graph generation on a frozen detector."""

from dataclasses import dataclass
from typing import Literal

from memplan.errors import ModelConfigError

MAX_BLOCKS = 2**20
"""No stage is deeper: it would be a typing error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PENetConfig:
    """What decides sizes; defaults are those of Visual Genome's 150 classes.

    The published code has no config.json: fields are named after its configuration
    (`e2e_relation_X_101_32_8_FPN_1x.yaml`) where it has a name for them.
    """

    model_type: str = "pe-net"

    mode: Literal["predcls", "sgcls", "sgdet"] = "predcls"
    """Given boxes and classes, given boxes, or neither."""
    distance: Literal["expanded", "algebraic"] = "expanded"
    """|r - c|^2 of every pair and prototype: from their differences, as published, or
    as |r|^2 - 2 r.c + |c|^2, which never makes a tensor of pairs x classes x size."""

    num_pairs_per_image: int = 512
    """Pairs sampled in training (BATCH_SIZE_PER_IMAGE), the most there can be."""
    num_boxes_per_image: int = 80
    """Detections kept, or objects annotated; all ordered pairs of them in testing."""
    num_proposals_per_image: int = 1000
    """Regions the detector's box head classifies in sgdet, after suppression."""
    num_object_classes: int = 151
    """With background."""
    num_predicate_classes: int = 51

    num_blocks: tuple[int, int, int, int] = (3, 4, 23, 3)
    """Bottlenecks of the ResNeXt's stages."""
    num_groups: int = 32
    width_per_group: int = 8
    fpn_channels: int = 256
    num_anchors: int = 4
    """Aspect ratios at each place of a level."""
    pooler_resolution: int = 7
    mlp_head_dim: int = 4096
    """Of a region's features (MLP_HEAD_DIM, CONTEXT_POOLING_DIM)."""

    mlp_dim: int = 2048
    embed_dim: int = 300
    context_hidden_dim: int = 512
    dropout: float = 0.2

    @property
    def pooled_size(self) -> int:
        """Elements of a region's feature map."""
        return self.fpn_channels * self.pooler_resolution**2

    @property
    def rect_size(self) -> int:
        """Pixels of a side of the masks of subject and object."""
        return 4 * self.pooler_resolution - 1


def check(config: PENetConfig) -> None:
    """What ranges of single fields do not say.

    Raises:
        ModelConfigError: the configuration cannot be built.
    """
    if not all(1 <= count <= MAX_BLOCKS for count in config.num_blocks):
        raise ModelConfigError(
            f"num_blocks is {config.num_blocks}, with a stage of no size.",
            hint="ResNeXt-101 has (3, 4, 23, 3).",
        )
    if config.fpn_channels % 2 or config.mlp_dim % 2:
        raise ModelConfigError(
            "fpn_channels and mlp_dim are halved, and so must be even.",
            hint="Compare them with the preset pe-net-vg150.",
        )
