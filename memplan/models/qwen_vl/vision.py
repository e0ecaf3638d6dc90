"""The tower of Qwen2-VL and Qwen2.5-VL, as in their modules of transformers.

All pictures stand in one sequence. Attention takes it apart, one call for each picture,
or for each window of one. Letters: P patches of all pictures, D hidden size, H heads,
K size of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass

from memplan.formulas.attention import attend, rotary
from memplan.formulas.decoder import gated_mlp
from memplan.formulas.experts import select
from memplan.formulas.layers import (
    activation,
    add,
    cast,
    concatenate,
    input_embedding,
    layer_norm,
    lower,
    rms_norm,
)
from memplan.formulas.linear import linear
from memplan.formulas.stacks import repeat_kinds
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.qwen_vl.config import QwenVlConfig
from memplan.units import ceil_div


def vision_tower(
    t: Tape, config: QwenVlConfig, num_pictures: int, size: int
) -> tuple[Tensor, Tensor]:
    """The last hidden states [P, D], and the pictures' tokens."""
    tower = config.vision_config
    grid = size // tower.patch_size
    P, K = num_pictures * grid**2, config.width // tower.num_heads
    hidden_states = patch_embed(t, config, P)
    if config.has_windows:
        # Patches that become one token are moved together.
        order = t.tensor((P // tower.spatial_merge_size**2,), "int64")
        hidden_states = select(t, hidden_states, order, hidden_states.shape)
    cosines, sines = (t.tensor((P, 1, K), "fp32") for _ in range(2))
    whole = Block(config, cosines, sines, (grid**2,) * num_pictures)
    windows = Block(config, cosines, sines, window_lengths(config, grid) * num_pictures)
    blocks = [
        whole if config.is_full(number) else windows for number in range(tower.depth)
    ]
    hidden_states = repeat_kinds(t, "blocks", blocks, hidden_states)
    merged_hidden_states = merge(t, config, hidden_states)
    if config.has_windows:
        order = t.tensor(merged_hidden_states.shape[:1], "int64")
        merged_hidden_states = select(
            t, merged_hidden_states, order, merged_hidden_states.shape
        )
    return hidden_states, merged_hidden_states


def window_lengths(config: QwenVlConfig, grid: int) -> tuple[int, ...]:
    """Patches of each window of a picture of `grid` x `grid` patches."""
    merge_size = config.vision_config.spatial_merge_size
    side = config.vision_config.window_size // config.pixels_per_token
    tokens = grid // merge_size
    sides = [min(side, tokens - start) for start in range(0, tokens, side)]
    assert len(sides) == ceil_div(tokens, side)
    return tuple(merge_size**2 * height * width for height in sides for width in sides)


def patch_embed(t: Tape, config: QwenVlConfig, num_patches: int) -> Tensor:
    """`PatchEmbed`: a convolution over patches that come as rows: a product."""
    tower = config.vision_config
    shape = (
        tower.in_channels,
        tower.temporal_patch_size,
        tower.patch_size,
        tower.patch_size,
    )
    with t.scope("patch_embed.proj"):
        weight = t.weight("weight", (config.width, *shape))
        pixel_values = t.input((num_patches, *shape), "fp32")
        pixels = lower(t, cast(t, pixel_values, weight.dtype))
        kernel = lower(t, weight)
        patches = t.apply(
            "convolution",
            (pixels, kernel),
            (num_patches, config.width),
            pixels.dtype,
            saved=(pixels, kernel),
        )
    return input_embedding(t, patches)


@dataclass(frozen=True, slots=True)
class Block:
    """`Qwen2VLVisionBlock` and `Qwen2_5_VLVisionBlock`."""

    config: QwenVlConfig
    cosines: Tensor
    sines: Tensor
    lengths: tuple[int, ...]
    """Patches that attend to each other: of a picture, or of a window."""

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        config = self.config
        norm = norm_of(config)
        hidden_states = add(t, x, self.attention(t, norm(t, "norm1", x)))
        return add(t, hidden_states, self.mlp(t, norm(t, "norm2", hidden_states)))

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`VisionAttention`: query and key are rotated in fp32."""
        P, D = x.shape
        H = self.config.vision_config.num_heads
        K = D // H
        with t.scope("attn"):
            mixed = linear(t, "qkv", x, 3 * D)
            # Its gradient is made in another order, and copied.
            mixed = t.apply("reshape", (mixed,), mixed.shape, mixed.dtype, alias=mixed)
            query, key, value = t.split(mixed, [(P, H, K)] * 3)
            del mixed
            dtype = query.dtype
            upper_query, upper_key = cast(t, query, "fp32"), cast(t, key, "fp32")
            query = rotary(t, upper_query, self.cosines, self.sines)
            key = rotary(t, upper_key, self.cosines, self.sines)
            query, key = cast(t, query, dtype), cast(t, key, dtype)
            del upper_query, upper_key
            shapes = [(1, H, length, K) for length in self.lengths]
            parts = [t.split(states, shapes) for states in (query, key, value)]
            outputs = [attend(t, *chunk) for chunk in zip(*parts, strict=True)]
            del parts
            attn_output = concatenate(t, outputs, (1, P, D))
            return linear(t, "proj", t.view(attn_output, (P, D)), D)

    def mlp(self, t: Tape, x: Tensor) -> Tensor:
        config = self.config
        if config.has_windows:
            return gated_mlp(t, x, config.inner_size, config.vision_act, bias=True)
        with t.scope("mlp"):
            states = activation(
                t, config.vision_act, linear(t, "fc1", x, config.inner_size)
            )
            return linear(t, "fc2", states, config.width)


def merge(t: Tape, config: QwenVlConfig, x: Tensor) -> Tensor:
    """`PatchMerger`: four patches side by side become one token."""
    num_merged = config.vision_config.spatial_merge_size**2
    P, D = x.shape
    with t.scope("merger"):
        states = norm_of(config)(t, "ln_q", x)
        states = t.view(states, (P // num_merged, num_merged * D))
        states = linear(t, "mlp.0", states, num_merged * D)
        states = activation(t, "gelu", states)
        return linear(t, "mlp.2", states, config.output_size)


def norm_of(config: QwenVlConfig) -> Callable[[Tape, str, Tensor], Tensor]:
    """The tower's norm: LayerNorm in Qwen2-VL, RMSNorm in Qwen2.5-VL."""
    return rms_norm if config.has_windows else layer_norm
