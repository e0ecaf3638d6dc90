"""What image encoders begin with: patches, a class token, positions.

Letters: B images, C channels, P pixels of a patch's side, N patches, D hidden size.
"""

from math import prod

from memplan.errors import PlanError
from memplan.formulas.layers import (
    add,
    cast,
    concatenate,
    lower,
    part,
    sum_scratch_bytes,
)
from memplan.formulas.parameters import Shape
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import ITEM_BYTES, Tensor, Weight
from memplan.units import round_up


def patch_embedding(
    t: Tape,
    name: str,
    pixel_values: Tensor,
    hidden_size: int,
    patch_size: tuple[int, int],
    *,
    bias: bool,
) -> Tensor:
    """`nn.Conv2d` with kernel and stride of a patch, as [B, N, D].

    Models cast the pixels to the dtype of the kernel first. Saved: pixels and kernel,
    as autocast casts them, whichever wants a gradient.

    Raises:
        PlanError: the pictures are smaller than a patch.
    """
    B, C, height, width = pixel_values.shape
    rows, columns = height // patch_size[0], width // patch_size[1]
    if not rows or not columns:
        raise PlanError(
            f"Pictures of {height} x {width} pixels have no patch of "
            f"{patch_size[0]} x {patch_size[1]}.",
            hint=f"Use --image-size {max(patch_size)} or more.",
        )
    with t.scope(name):
        weight = t.weight("weight", (hidden_size, C, *patch_size))
        pixels = cast(t, pixel_values, weight.dtype)
        inputs = [lower(t, pixels), lower(t, weight)]
        is_summed = False
        if bias:
            offset = t.weight("bias", (hidden_size,))
            is_summed = offset.edge is not None
            inputs.append(lower(t, offset))
        lowered, kernel = inputs[:2]
        dtype = lowered.dtype
        patches = (B, rows * columns, hidden_size)
        workspace = convolution_workspace_bytes(
            lowered.shape, weight.shape, patches, dtype, t.setting.compute_capability
        )
        # Backward puts the gradient's channels first again, then sums it for the bias.
        backward_bytes = prod(patches) * ITEM_BYTES[dtype] + workspace
        if is_summed:
            # cuDNN leaves that sum to PyTorch, within the same function.
            summed = sum_scratch_bytes(t, patches, (hidden_size,), dtype)
            backward_bytes = max(backward_bytes, summed)
        return t.apply(
            "convolution",
            inputs,
            patches,
            dtype,
            saved=(lowered, kernel),
            scratch_bytes=workspace if _copies_forward(t, dtype) else 0,
            backward_scratch_bytes=backward_bytes,
        )


def prepend_token(t: Tape, token: Weight, patches: Tensor) -> Tensor:
    """`cat((token.expand(B, 1, D), patches), dim=1)`: a copy in the wider dtype."""
    B, N, D = patches.shape
    tokens = t.apply("expand", (token,), (B, 1, D), token.dtype, alias=token)
    return concatenate(t, [tokens, patches], (B, 1 + N, D))


def add_positions(
    t: Tape,
    embeddings: Tensor,
    positions: Tensor,
    grid: tuple[int, int],
    *,
    has_class_token: bool = True,
) -> Tensor:
    """Add position embeddings [1, 1 + M, D], resized where `grid` has not M patches.

    transformers' `interpolate_pos_encoding`: those of the patches are resized as a
    picture is (bicubic), and joined with that of the class token, where there is one.
    """
    _, num_positions, D = positions.shape
    num_patches = grid[0] * grid[1]
    if num_patches + has_class_token == num_positions:
        return add(t, embeddings, positions)
    patch_positions = positions
    if has_class_token:
        class_position = part(t, positions, (1, 1, D))
        patch_positions = part(t, positions, (1, num_positions - 1, D))
    patch_positions = t.apply(
        "upsample_bicubic2d",
        (patch_positions,),
        (1, num_patches, D),
        patch_positions.dtype,
    )
    if not has_class_token:
        return add(t, embeddings, patch_positions)
    resized = concatenate(t, [class_position, patch_positions], (1, 1 + num_patches, D))
    return add(t, embeddings, resized)


def convolution_workspace_bytes(
    pixels: Shape,
    kernel: Shape,
    patches: Shape,
    dtype: str,
    compute_capability: tuple[int, int],
) -> int:
    """Workspace of cuDNN's kernels on tensor cores, which want channels last.

    Input, kernel and output are copied in that order; the three channels of a picture
    are padded to 8 in half precision and, before capability 9.0, to 4 in fp32 (which
    runs as TF32). So chose the heuristics of cuDNN 9.24 for patches of 14, 16 and 32
    pixels on capability 8.0 and 9.0, to 16 bytes. For the kernel's gradient they
    choose between a tenth and four times of it: never where a step is highest.
    """
    C = pixels[1]
    if dtype != "fp32":
        C = round_up(C, 8)
    elif compute_capability < (9, 0):
        C = round_up(C, 4)
    padded = (prod(pixels) + prod(kernel)) // pixels[1] * C
    return (padded + prod(patches)) * ITEM_BYTES[dtype]


def _copies_forward(t: Tape, dtype: str) -> bool:
    """Whether cuDNN's choice for the forward pass copies; seen on 7.5, 8.x and 9.0."""
    capability = t.setting.compute_capability
    if capability in ((8, 6), (8, 9)):
        return False
    return capability >= (8, 0) or (capability == (7, 5) and dtype == "fp16")
