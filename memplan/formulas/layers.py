"""Building blocks every network is made of, one function each.

Each runs one module or operator on a `Tape` and returns its output. The docstring says
what the backward pass holds, and where that is decided in PyTorch (`derivatives.yaml`
of 2.14 unless another file is named).

Letters: B batch, L sequence length, D hidden size, F inner size of the MLP.
"""

from collections.abc import Sequence
from math import prod

from memplan.formulas.parameters import Shape
from memplan.formulas.reductions import row_sum_bytes
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import ITEM_BYTES, Tensor, Weight
from memplan.units import round_up

FLOATING = ("fp32", "bf16", "fp16")
"""Dtypes that autocast and promotion know."""


def cast(t: Tape, x: Tensor, dtype: str) -> Tensor:
    """`x.to(dtype)`: a copy where the dtype differs; its gradient is cast back."""
    if x.dtype == dtype:
        return x
    return t.apply("cast", (x,), x.shape, dtype)


def lower(t: Tape, x: Tensor) -> Tensor:
    """An input of an operator that autocast runs in low precision.

    Activations are cast at every use: three projections of one fp32 input make three
    copies, and each is saved (`autocast_mode.cpp`, `cached_cast` keeps leaves only).
    fp16 autocast casts bf16 as well.
    """
    if t.setting.autocast is None or x.dtype not in FLOATING:
        return x
    if isinstance(x, Weight):
        return t.cast_weight(x, t.setting.autocast)
    return cast(t, x, t.setting.autocast)


def upper(t: Tape, x: Tensor) -> Tensor:
    """An input of an operator that autocast runs in fp32."""
    return cast(t, x, "fp32") if t.setting.autocast else x


def promote(x: Tensor, y: Tensor) -> str:
    """The dtype of an elementwise result; a number in a tensor does not widen it."""
    if not x.shape or not y.shape:
        return x.dtype if x.shape else y.dtype
    return widest([x.dtype, y.dtype])


def widest(dtypes: Sequence[str]) -> str:
    """The dtype that holds the values of all; of bf16 and fp16 neither holds the other.

    Source: `c10/core/ScalarType.cpp`, `promoteTypes`.
    """
    floating = {dtype for dtype in dtypes if dtype in FLOATING}
    if not floating:
        return dtypes[0]
    return floating.pop() if len(floating) == 1 else "fp32"


def sum_scratch_bytes(t: Tape, shape: Shape, target: Shape, dtype: str) -> int:
    """Scratch of summing a gradient of `shape` to its last dimensions, `target`."""
    num_columns = prod(target)
    return row_sum_bytes(
        prod(shape) // num_columns,
        num_columns,
        ITEM_BYTES[dtype],
        t.setting.compute_capability,
        t.setting.num_sms,
    )


def embedding(
    t: Tape, weight: Weight, shape: Shape, indices: Tensor | None = None
) -> Tensor:
    """A row of the table for each index of `shape`.

    Saved: the indices, given where they are not the batch's own. Backward makes the
    dense gradient of the table; above 3072 indices it sorts them first, with four int64
    arrays of that length, and adds up partial sums in fp32: one for each 10 indices,
    and one for each row that can be among them, in multiples of 32 columns
    (`native/cuda/Embedding.cu` and `EmbeddingBackwardKernel.cu`).
    """
    t.mark_embedding(weight)
    return t.apply(
        "embedding",
        (weight,),
        (*shape, weight.shape[-1]),
        weight.dtype,
        saved=() if indices is None else (indices,),
        backward_scratch_bytes=embedding_scratch_bytes(weight.shape, prod(shape)),
    )


def embedding_scratch_bytes(table: Shape, num_indices: int) -> int:
    """Scratch of the dense gradient of a table."""
    if num_indices <= 3072:
        return 0
    num_rows, num_columns = table
    num_sums = num_indices // 10 + min(num_indices, num_rows)
    return 4 * 8 * num_indices + 4 * num_sums * round_up(num_columns, 32)


def token_embedding(t: Tape, weight: Weight, shape: Shape) -> Tensor:
    """`embedding` of the input ids, of a model whose main input they are."""
    rows = embedding(t, weight, shape)
    t.leave_table(weight)
    return input_embedding(t, rows)


def input_embedding(t: Tape, output: Tensor) -> Tensor:
    """What a model, or a model within one, begins with: tokens or patches.

    Where layers are checkpointed, transformers makes its output require a gradient
    (`modeling_utils.py`, `enable_input_require_grads`), so that one reaches adapters
    between frozen weights. Then the first layer runs backward like the others, and the
    output keeps its gradient until the loss is let go of.
    """
    if t.setting.checkpointing == "none":
        return output
    return t.require_gradient(output)


def adapted_embedding(t: Tape, weight: Weight, shape: Shape) -> Tensor:
    """`embedding` of a model whose main input is another."""
    return adapted_input(t, embedding(t, weight, shape))


def adapted_input(t: Tape, output: Tensor) -> Tensor:
    """What a model begins with whose main input is no tokens: pictures, or its own.

    transformers leaves it alone. PEFT makes it require a gradient where layers are
    checkpointed, in every model within the model, but not beside a quantized base
    (peft 0.21 `peft_model.py`, prepare_model_for_gradient_checkpointing).
    """
    if t.setting.low_rank is None or t.setting.quantization != "none":
        return output
    return input_embedding(t, output)


def layer_norm(
    t: Tape,
    name: str,
    x: Tensor,
    *,
    weight: bool = True,
    bias: bool = True,
    is_strided: bool = False,
) -> Tensor:
    """`nn.LayerNorm`: saves its input, and mean and reciprocal deviation in fp32.

    Autocast runs it in fp32, from an fp32 copy of a low-precision input. An input that
    `is_strided` is copied for the moment of the kernel, forward and backward.
    """
    with t.scope(name):
        source = upper(t, x)
        inputs: list[Tensor] = [source]
        if weight:
            inputs.append(t.weight("weight", x.shape[-1:]))
            if bias:
                inputs.append(t.weight("bias", x.shape[-1:]))
        contiguous_bytes = source.num_bytes if is_strided and source is x else 0
        return t.apply(
            "layer_norm",
            inputs,
            x.shape,
            source.dtype,
            saved=(source,),
            scratch_bytes=contiguous_bytes,
            backward_scratch_bytes=contiguous_bytes,
            stats_bytes=2 * 4 * prod(x.shape[:-1]),
        )


def rms_norm(t: Tape, name: str, x: Tensor) -> Tensor:
    """transformers' RMSNorm, written out as it is there (`LlamaRMSNorm`).

    Saved: the fp32 input, the reciprocal root, and the normalised input in the input's
    dtype. In bf16 that is 4 + 2 bytes an element, in fp32 4 + 4.
    """
    with t.scope(name):
        hidden_states = cast(t, x, "fp32")
        variance = mean_of_squares(t, hidden_states)
        hidden_states = multiply(t, hidden_states, rsqrt(t, variance))
        return multiply(
            t, t.weight("weight", x.shape[-1:]), cast(t, hidden_states, x.dtype)
        )


def mean_of_squares(t: Tape, x: Tensor) -> Tensor:
    """`x.pow(2).mean(-1, keepdim=True)`: saves `x`.

    Backward makes x ** 1, and two times that, before it multiplies.
    """
    squares = t.apply(
        "pow",
        (x,),
        x.shape,
        x.dtype,
        saved=(x,),
        backward_scratch_bytes=2 * x.num_bytes,
    )
    return t.apply("mean", (squares,), (*x.shape[:-1], 1), x.dtype)


def rsqrt(t: Tape, x: Tensor) -> Tensor:
    """`torch.rsqrt`: saves its output."""
    return t.apply("rsqrt", (x,), x.shape, x.dtype, saves_output=True)


def add(t: Tape, x: Tensor, y: Tensor) -> Tensor:
    """`x + y`: nothing saved; equal shapes pass the gradient on without a copy."""
    shape = x.shape if len(x.shape) >= len(y.shape) else y.shape
    return t.apply("add", (x, y), shape, promote(x, y), passes_gradient=True)


def multiply(t: Tape, x: Tensor, y: Tensor) -> Tensor:
    """`x * y`: saves each factor where the other wants a gradient (`derivatives.yaml`).

    The gradient of a broadcast factor is made at full size, then summed; that of a
    factor in a narrower dtype is cast then. That is done when both are made, one after
    the other (`engine.cpp`, validate_outputs).
    """
    shape = tuple(
        max(a, b)
        for a, b in zip(
            _aligned(x.shape, y.shape), _aligned(y.shape, x.shape), strict=True
        )
    )
    saved = [a for a, b in ((x, y), (y, x)) if b.edge is not None]
    dtype = promote(x, y)
    full_bytes = ITEM_BYTES[dtype] * prod(shape)
    reduced = [
        a
        for a in (x, y)
        if a.edge is not None and (a.shape != shape or a.dtype != dtype)
    ]
    reducing = [0]
    for done, a in enumerate(reduced):
        later = reduced[done + 1 :]
        summed = 0
        if a.shape != shape and shape[-1:] == a.shape[-1:]:
            summed = sum_scratch_bytes(t, shape, a.shape, dtype)
        waiting = full_bytes * (1 + len(later)) - sum(b.num_bytes for b in later)
        reducing.append(waiting + summed)
    return t.apply(
        "mul",
        (x, y),
        shape,
        dtype,
        saved=saved,
        backward_scratch_bytes=sum(full_bytes - a.num_bytes for a in reduced),
        sum_scratch_bytes=max(reducing),
    )


def scale(t: Tape, x: Tensor) -> Tensor:
    """`x * number`, or `-x`: a new tensor, nothing saved."""
    return t.apply("scale", (x,), x.shape, x.dtype)


def copy(t: Tape, x: Tensor) -> Tensor:
    """`contiguous()` of what is not: a copy, nothing saved."""
    return t.apply("copy", (x,), x.shape, x.dtype, passes_gradient=True)


def concatenate(t: Tape, parts: list[Tensor], shape: Shape) -> Tensor:
    """`torch.cat`: a copy in the widest dtype; gradients are views of the incoming one.

    That of a part in a narrower dtype is a copy.
    """
    dtype = widest([x.dtype for x in parts])
    return t.apply("cat", parts, shape, dtype, passes_views=True)


def part(t: Tape, x: Tensor, shape: Shape) -> Tensor:
    """A slice: a view; its gradient is written into zeros of the whole size."""
    return t.apply("slice", (x,), shape, x.dtype, alias=x)


def masked_fill(t: Tape, x: Tensor, mask: Tensor) -> Tensor:
    """`x.masked_fill(mask, number)`: saves the mask."""
    return t.apply("masked_fill", (x,), x.shape, x.dtype, saved=(mask,))


def dropout(t: Tape, x: Tensor, probability: float) -> Tensor:
    """Saves a mask of one byte an element; nothing at probability 0."""
    if not probability or not t.setting.is_training:
        return x
    num_elements = x.num_bytes // ITEM_BYTES[x.dtype]
    return t.apply("dropout", (x,), x.shape, x.dtype, stats_bytes=num_elements)


def activation(t: Tape, name: str, x: Tensor) -> Tensor:
    """The activation function of an MLP by its transformers name."""
    match name:
        case "gelu_new" | "gelu_python_tanh":
            return _gelu_new(t, x)
        case "gelu_fast":
            return _gelu_fast(t, x)
        case "relu2" | "squared_relu":
            return _squared_relu(t, x)
        case "quick_gelu":
            gate = t.apply(
                "sigmoid", (scale(t, x),), x.shape, x.dtype, saves_output=True
            )
            return multiply(t, x, gate)
        case "relu" | "tanh" | "sigmoid":
            return t.apply(name, (x,), x.shape, x.dtype, saves_output=True)
        case _:
            return t.apply(name, (x,), x.shape, x.dtype, saved=(x,))


ACTIVATIONS = (
    "gelu",
    "gelu_new",
    "gelu_fast",
    "gelu_python_tanh",
    "gelu_pytorch_tanh",
    "quick_gelu",
    "relu",
    "relu2",
    "sigmoid",
    "silu",
    "swish",
    "tanh",
)
"""transformers' names that `activation` knows."""


def softcap(t: Tape, x: Tensor) -> Tensor:
    """`tanh(x / cap) * cap`: saves the tanh."""
    return scale(t, _tanh(t, scale(t, x)))


def _gelu_new(t: Tape, x: Tensor) -> Tensor:
    """transformers' NewGELUActivation, an expression of eight operators.

    Saved: the input (for pow, in fp32 under autocast), 0.5 x, tanh, and 1 + tanh.
    """
    half = scale(t, x)
    return multiply(
        t, half, scale(t, _tanh(t, scale(t, add(t, x, scale(t, _power(t, x))))))
    )


def _gelu_fast(t: Tape, x: Tensor) -> Tensor:
    """FastGELUActivation, 0.5 x (1 + tanh(a x (1 + b x x))), in the input's dtype.

    Saved: the input, 0.5 x, a x, b x, 1 + b x x, tanh, and 1 + tanh.
    """
    half = scale(t, x)
    scaled = scale(t, x)
    squashed = _tanh(t, multiply(t, scaled, scale(t, multiply(t, scale(t, x), x))))
    return multiply(t, half, scale(t, squashed))


def _tanh(t: Tape, x: Tensor) -> Tensor:
    """Saves its output."""
    return t.apply("tanh", (x,), x.shape, x.dtype, saves_output=True)


def _squared_relu(t: Tape, x: Tensor) -> Tensor:
    """`relu(x).square()`: saves the relu twice over, as its output and pow's input."""
    return _power(t, t.apply("relu", (x,), x.shape, x.dtype, saves_output=True))


def _power(t: Tape, x: Tensor) -> Tensor:
    """`torch.pow`: saves its input; autocast runs it in fp32."""
    source = upper(t, x)
    return t.apply(
        "pow",
        (source,),
        x.shape,
        source.dtype,
        saved=(source,),
        backward_scratch_bytes=2 * source.num_bytes,
    )


def _aligned(shape: Shape, other: Shape) -> Shape:
    """`shape` with leading ones up to the length of `other`."""
    return (1,) * (len(other) - len(shape)) + shape
