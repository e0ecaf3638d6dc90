"""NFNet-F under no_grad, in the shape of timm's `dm_nfnet_f6` (`models/nfnet.py`).

Frozen, it keeps nothing: its largest moment is while its first, largest maps are
computed. Letters: B pictures, C channels, H and W height and width of a map.
"""

from dataclasses import dataclass

from memplan.formulas.convolution import workspace_bytes
from memplan.formulas.layers import add, lower, scale
from memplan.formulas.stacks import stack
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.flamingo.config import NfnetConfig
from memplan.units import ceil_div

STEM = ((16, 2), (32, 1), (64, 1), (128, 2))
"""Channels and strides of the four 3 x 3 convolutions at the start."""
CHANNELS = (256, 512, 1536, 1536)
GROUP_SIZE = 128
NUM_FEATURES = 3072
"""Channels of the last map."""


def nfnet(t: Tape, config: NfnetConfig, pixel_values: Tensor) -> Tensor:
    """`NormFreeNet.forward_features`: the last map [B, 3072, H / 32, W / 32]."""
    stem = stem_of(t, pixel_values)
    # Each Sequential holds what it was given until it returns.
    stage = t.view(stem, stem.shape)
    for index, (channels, depth) in enumerate(
        zip(CHANNELS, config.depths, strict=True)
    ):
        with t.scope(f"stages.{index}"):
            with t.scope("0"):
                x = Block(channels, 1 if index == 0 else 2)(t, stage)
            x = stack(t, "rest", depth - 1, Block(channels, 1), x)
        stage = x
    del stem, stage
    return act(t, std_conv(t, "final_conv", x, NUM_FEATURES, 1, 1))


def stem_of(t: Tape, pixel_values: Tensor) -> Tensor:
    """The `deep_quad` stem: a quarter of the picture's height and width."""
    x = pixel_values
    with t.scope("stem"):
        for index, (channels, stride) in enumerate(STEM, 1):
            y = std_conv(t, f"conv{index}", x, channels, 3, stride)
            x = y if index == len(STEM) else act(t, y)
            del y
    return x


@dataclass(frozen=True, slots=True)
class Block:
    """`NormFreeBlock`: pre-activation, two grouped 3 x 3 between two 1 x 1."""

    channels: int
    stride: int

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        C, middle = self.channels, self.channels // 2
        groups = middle // GROUP_SIZE
        out = scale(t, act(t, x))
        shortcut = x
        if x.shape[1] != C or self.stride != 1:
            with t.scope("downsample"):
                shortcut = std_conv(t, "conv", pooled(t, out, self.stride), C, 1, 1)
        out = std_conv(t, "conv1", out, middle, 1, 1)
        out = std_conv(t, "conv2", act(t, out), middle, 3, self.stride, groups)
        out = std_conv(t, "conv2b", act(t, out), middle, 3, 1, groups)
        out = std_conv(t, "conv3", act(t, out), C, 1, 1)
        out = scale(t, squeeze_and_excite(t, out))
        t.weight("skipinit_gain", ())
        return add(t, scale(t, out), shortcut)


def act(t: Tape, x: Tensor) -> Tensor:
    """`GammaAct`: GELU, then a factor in place."""
    return t.apply("gelu", (x,), x.shape, x.dtype)


def pooled(t: Tape, x: Tensor, stride: int) -> Tensor:
    """`AvgPool2d(2)` before a block that halves the map."""
    if stride == 1:
        return x
    B, C, H, W = x.shape
    shape = (B, C, ceil_div(H, 2), ceil_div(W, 2))
    return t.apply("avg_pool2d", (x,), shape, x.dtype)


def std_conv(
    t: Tape,
    name: str,
    x: Tensor,
    out_channels: int,
    kernel_size: int,
    stride: int,
    groups: int = 1,
) -> Tensor:
    """`ScaledStdConv2dSame`: the kernel is standardised at each use, into a copy.

    With stride 2 the map is padded first, into another one.
    """
    B, C, H, W = x.shape
    shape = (B, out_channels, ceil_div(H, stride), ceil_div(W, stride))
    with t.scope(name):
        weight = t.weight(
            "weight", (out_channels, C // groups, kernel_size, kernel_size)
        )
        bias = t.weight("bias", (out_channels,))
        t.weight("gain", (out_channels, 1, 1, 1))
        source = x
        if stride > 1 and kernel_size > 1:
            source = t.apply("pad", (x,), (B, C, H + 1, W + 1), x.dtype)
        kernel = t.apply("batch_norm", (weight,), weight.shape, weight.dtype)
        inputs = [lower(t, source), lower(t, kernel), lower(t, bias)]
        workspace, _ = workspace_bytes(
            source.shape,
            weight.shape,
            shape,
            inputs[0].dtype,
            t.setting.compute_capability,
        )
        return t.apply(
            "convolution", inputs, shape, inputs[0].dtype, scratch_bytes=workspace
        )


def squeeze_and_excite(t: Tape, x: Tensor) -> Tensor:
    """`SEModule`: channels weighted by a small MLP on their means."""
    B, C = x.shape[:2]
    with t.scope("attn_last"):
        for name, inputs, outputs in (("fc1", C, C // 2), ("fc2", C // 2, C)):
            with t.scope(name):
                t.weight("weight", (outputs, inputs, 1, 1))
                t.weight("bias", (outputs,))
        gate = t.tensor((B, C, 1, 1), x.dtype)
        weighted = t.apply("mul", (x, gate), x.shape, x.dtype)
        return weighted
