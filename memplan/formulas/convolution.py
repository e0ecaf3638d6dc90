"""What convolutional networks and detectors are made of.

Each function runs one operator on a `Tape`; the docstring says what the backward pass
holds, and where PyTorch decides it (`derivatives.yaml` of 2.14 unless another file is
named). Feature maps are [B, C, H, W], channels first.

Letters: B images, C channels, H and W height and width of a map, R regions.
"""

from math import prod

from memplan.formulas.layers import add, cast, lower, promote, upper
from memplan.formulas.parameters import Shape
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import ITEM_BYTES, Tensor
from memplan.units import round_up

INDEX_BYTES = 8
"""An int64."""
TURING = (7, 5)


def conv2d(
    t: Tape,
    name: str,
    x: Tensor,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    bias: bool = True,
) -> Tensor:
    """`nn.Conv2d`; without `padding` the map keeps its size at stride 1.

    Saved: the input where the kernel is trained, the kernel where the input wants a
    gradient; under autocast their low-precision copies. Backward makes the gradients
    of input, kernel and bias before it lets go of the incoming one.
    """
    padding = kernel_size // 2 if padding is None else padding
    B, C, H, W = x.shape
    H, W = (slide(size, kernel_size, stride, padding) for size in (H, W))
    shape = (B, out_channels, H, W)
    with t.scope(name):
        weight = t.weight(
            "weight", (out_channels, C // groups, kernel_size, kernel_size)
        )
        lowered, used = lower(t, x), lower(t, weight)
        inputs: list[Tensor] = [lowered, used]
        if bias:
            inputs.append(lower(t, t.weight("bias", (out_channels,))))
        saved = [lowered] if weight.edge is not None else []
        if x.edge is not None:
            saved.append(used)
        forward, backward = workspace_bytes(
            x.shape,
            weight.shape,
            shape,
            used.dtype,
            t.setting.compute_capability,
        )
        return t.apply(
            "convolution",
            inputs,
            shape,
            used.dtype,
            saved=saved,
            scratch_bytes=forward,
            backward_scratch_bytes=backward,
        )


def slide(size: int, kernel_size: int, stride: int, padding: int) -> int:
    """How often a kernel fits along a side (`_conv_output_size`)."""
    return max((size + 2 * padding - kernel_size) // stride + 1, 1)


def workspace_bytes(
    pixels: Shape,
    kernel: Shape,
    outputs: Shape,
    dtype: str,
    compute_capability: tuple[int, int],
) -> tuple[int, int]:
    """What cuDNN takes for a moment, forward and backward.

    Its kernels on tensor cores (half precision, and fp32 as TF32) want channels last,
    padded to 16 bytes: it copies input, kernel and output into that order. So chose
    the heuristics of cuDNN 9.24 for 3 x 3 kernels on capability 9.0, to some hundred
    bytes; before 9.0 fp32 goes forward without the copy of the output. A kernel of
    1 x 1 is mostly a plain product without any, and counted so. Where they choose an
    older algorithm (large grouped maps on 8.6) less is taken, and seldom more.
    """
    if kernel[2:] == (1, 1):
        return 0, 0
    if (
        dtype == "fp32"
        and compute_capability == TURING
        and _is_winograd(pixels, kernel, outputs)
    ):
        return _winograd_bytes(pixels, kernel)
    item_bytes = ITEM_BYTES[dtype]
    C = pixels[1]
    if dtype != "fp32" or compute_capability < (9, 0):
        C = round_up(C, 16 // item_bytes)
    copied = (prod(pixels) // pixels[1] * C + prod(kernel)) * item_bytes
    output_bytes = prod(outputs) * item_bytes
    is_kept = compute_capability < (9, 0) and dtype == "fp32"
    return copied + (0 if is_kept else output_bytes), copied + output_bytes


def _is_winograd(pixels: Shape, kernel: Shape, outputs: Shape) -> bool:
    """3 x 3, all channels in one group, and a map that keeps its size."""
    is_plain = kernel[1:] == (pixels[1], 3, 3)
    return is_plain and outputs[2:] == pixels[2:]


def _winograd_bytes(pixels: Shape, kernel: Shape) -> tuple[int, int]:
    """Winograd's transforms in fp32, on cards without tensor cores for it.

    Not fused: tiles of 4 x 4 outputs become 36 numbers for each channel of input and
    output, and so does the kernel. Below 16 pictures cuDNN goes forward by a fused
    kernel of 3 x 3 tiles, which transforms the kernel alone, to 25 numbers. So chose
    the heuristics of cuDNN 9.24 on capability 7.5 for 23 of 27 shapes that were asked.
    """
    B, C, H, W = pixels
    K = kernel[0]
    num_tiles = B * -(-H // 4) * -(-W // 4)
    apart = 36 * 4 * (num_tiles * (C + K) + C * K)
    return (apart if B >= 16 else 25 * 4 * C * K), apart


def frozen_batch_norm(t: Tape, x: Tensor) -> Tensor:
    """torchvision's `FrozenBatchNorm2d`: `x * scale + bias`, two tensors of its size.

    Scale and bias are buffers, so there are no parameters, and nothing but the scale
    is saved. The buffers stay fp32 under autocast, and so is the output.
    """
    dtype = "fp32" if t.setting.autocast else x.dtype
    scaled = t.apply("mul", (x,), x.shape, dtype)
    return t.apply("add", (scaled,), x.shape, dtype, passes_gradient=True)


def batch_norm(t: Tape, name: str, x: Tensor) -> Tensor:
    """`nn.BatchNorm1d` and `2d`: saves its input; in training mean and deviation too.

    Weight and bias are trained; the running statistics are buffers. The output has the
    dtype of the input, also under autocast.
    """
    with t.scope(name):
        C = x.shape[1]
        inputs = (x, t.weight("weight", (C,)), t.weight("bias", (C,)))
        return t.apply(
            "batch_norm",
            inputs,
            x.shape,
            x.dtype,
            saved=(x,),
            stats_bytes=2 * 4 * C if t.setting.is_training else 0,
        )


def batch_norm_buffer_bytes(num_channels: int) -> int:
    """Buffers of a batch norm: mean, variance, and an int64 count."""
    return 2 * 4 * num_channels + INDEX_BYTES


def relu(t: Tape, x: Tensor) -> Tensor:
    """`F.relu`: saves its output."""
    return t.apply("relu", (x,), x.shape, x.dtype, saves_output=True)


def relu_in_place(t: Tape, x: Tensor) -> Tensor:
    """`nn.ReLU(inplace=True)`: no new tensor; what it overwrote is what it saves."""
    return t.apply("relu_", (x,), x.shape, x.dtype, alias=x, saves_output=True)


def add_in_place(t: Tape, x: Tensor, y: Tensor) -> Tensor:
    """`x += y`: no new tensor, nothing saved; both take the gradient as it is."""
    return t.apply("add_", (x, y), x.shape, x.dtype, alias=x, passes_gradient=True)


def max_pool2d(
    t: Tape, x: Tensor, kernel_size: int, stride: int, padding: int = 0
) -> Tensor:
    """`F.max_pool2d`: saves its input, and an int64 index for each output.

    The indices are made without a gradient too, and dropped at once.
    """
    B, C, H, W = x.shape
    H, W = (slide(size, kernel_size, stride, padding) for size in (H, W))
    index_bytes = INDEX_BYTES * B * C * H * W
    return t.apply(
        "max_pool2d",
        (x,),
        (B, C, H, W),
        x.dtype,
        saved=(x,),
        scratch_bytes=index_bytes,
        stats_bytes=index_bytes,
    )


def upsample(t: Tape, x: Tensor, size: Shape) -> Tensor:
    """`F.interpolate` to height and width `size`: nothing saved, bilinear or not.

    A feature pyramid adds it to the level below: see `models/pe_net/detector.py`.
    """
    return t.apply("upsample", (x,), (*x.shape[:2], *size), x.dtype)


def roi_align(t: Tape, x: Tensor, num_regions: int, resolution: int) -> Tensor:
    """torchvision's `roi_align` of one level: [R, C, resolution, resolution].

    Saved: the regions alone, 20 bytes each. Autocast runs it in fp32, from an fp32 copy
    of the map, and casts back (`ops/autocast/roi_align_kernel.cpp`).
    """
    source = upper(t, x)
    shape = (num_regions, x.shape[1], resolution, resolution)
    pooled = t.apply("roi_align", (source,), shape, source.dtype)
    return cast(t, pooled, x.dtype)


def subtract(t: Tape, x: Tensor, y: Tensor) -> Tensor:
    """`x - y` of equal shapes: `x` takes the gradient as it is, `y` a negated copy."""
    return add(t, x, t.apply("neg", (y,), y.shape, y.dtype, alias=y))


def expand(t: Tape, x: Tensor, shape: Shape) -> Tensor:
    """`x.expand(shape)`: a view; its gradient is of the full shape, and then summed."""
    return t.apply("expand", (x,), shape, x.dtype, alias=x)


def square(t: Tape, x: Tensor) -> Tensor:
    """`x ** 2`: saves `x`; autocast runs it in fp32.

    Backward is `grad * (2 * x.pow(1))`, with two more tensors of its size for a moment
    (`FunctionsManual.cpp`, pow_backward).
    """
    source = upper(t, x)
    return t.apply(
        "pow",
        (source,),
        x.shape,
        source.dtype,
        saved=(source,),
        backward_scratch_bytes=2 * source.num_bytes,
    )


def norm(t: Tape, x: Tensor, *, keepdim: bool = False) -> Tensor:
    """`x.norm(dim=-1)`: saves its input and its output; in fp32 under autocast.

    Autocast reads a low-precision input as it is. Backward is
    `grad * (x / norm)`, two tensors of the input's size in the norm's dtype, cast to
    that of the input (`FunctionsManual.cpp`, norm_backward).
    """
    dtype = "fp32" if t.setting.autocast else x.dtype
    shape = (*x.shape[:-1], 1) if keepdim else x.shape[:-1]
    full_bytes = prod(x.shape) * ITEM_BYTES[dtype]
    return t.apply(
        "norm",
        (x,),
        shape,
        dtype,
        saved=(x,),
        saves_output=True,
        backward_scratch_bytes=2 * full_bytes - x.num_bytes,
    )


def divide_rows(t: Tape, x: Tensor, divisor: Tensor) -> Tensor:
    """`x / divisor`, one divisor a row: saves both.

    Backward needs four tensors of its size for the divisor's gradient,
    `-grad * ((x / divisor) / divisor)` (`FunctionsManual.cpp`, div_tensor_other_grad).
    """
    dtype = promote(x, divisor)
    full_bytes = prod(x.shape) * ITEM_BYTES[dtype]
    return t.apply(
        "div",
        (x, divisor),
        x.shape,
        dtype,
        saved=(x, divisor),
        backward_scratch_bytes=4 * full_bytes - x.num_bytes,
    )


def gather_rows(t: Tape, x: Tensor, num_rows: int) -> Tensor:
    """`x[indices]`: a copy; the indices are the batch's own.

    Backward adds into zeros of the whole of `x`.
    """
    return t.apply("index", (x,), (num_rows, *x.shape[1:]), x.dtype)
