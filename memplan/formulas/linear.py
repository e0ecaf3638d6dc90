"""`nn.Linear`, PEFT's adapters beside it, and what bitsandbytes puts in its place.

Sources: peft 0.21 `tuners/lora/layer.py` and `bnb.py`, bitsandbytes 0.50
`nn/modules.py`, `autograd/_functions.py` and `backends/cuda/ops.py`.
"""

from math import prod

from memplan.formulas.layers import (
    add,
    cast,
    copy,
    dropout,
    lower,
    scale,
    sum_scratch_bytes,
)
from memplan.formulas.setting import LowRank
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import ITEM_BYTES, Tensor, Weight


def linear(
    t: Tape,
    name: str,
    x: Tensor,
    out_features: int,
    *,
    bias: bool = True,
    weight: Weight | None = None,
    transposed: bool = False,
) -> Tensor:
    """`nn.Linear`, with a low-rank update beside it where the plan asks for one.

    Saved: the input where the weight is trained, the weight where the input wants a
    gradient (`derivatives.yaml`). `weight` shares another module's; `transposed` is
    GPT-2's Conv1D, which bitsandbytes replaces by a linear layer.
    """
    with t.scope(name):
        weight, offset = linear_weights(
            t,
            x.shape[-1],
            out_features,
            bias=bias,
            weight=weight,
            transposed=transposed,
        )
        low_rank = t.setting.low_rank
        if low_rank is None or not low_rank.matches(t.place):
            return matmul_weight(t, x, weight, out_features, offset)
        return _low_rank(t, low_rank, x, weight, out_features, offset)


def linear_weights(
    t: Tape,
    in_features: int,
    out_features: int,
    *,
    bias: bool,
    weight: Weight | None = None,
    transposed: bool = False,
) -> tuple[Weight, Weight | None]:
    """Those of the `nn.Linear` in scope: `weight` where it is another module's."""
    if weight is None:
        shape = (out_features, in_features)
        if transposed and t.setting.quantization == "none":
            shape = shape[::-1]
        weight = t.weight("weight", shape, is_linear=True)
    else:
        t.share(weight)
    offset = t.weight("bias", (out_features,), is_linear=True) if bias else None
    return weight, offset


def _low_rank(
    t: Tape,
    low_rank: LowRank,
    x: Tensor,
    weight: Weight,
    out_features: int,
    bias: Weight | None,
) -> Tensor:
    """PEFT's LoRA: the layer, plus B(A(dropout(x))) * scaling beside it.

    A and B are linear layers in fp32. Their input is cast to that, but beside a
    quantized layer under autocast. Beside one in 4 bits the result is copied first
    (peft `tuners/lora/layer.py` and `bnb.py`, `Linear.forward`).
    """
    with t.scope("lora_A"):
        down = t.weight("weight", (low_rank.rank, x.shape[-1]))
    with t.scope("lora_B"):
        up = t.weight("weight", (out_features, low_rank.rank))
    result = matmul_weight(t, x, weight, out_features, bias)
    dtype = result.dtype
    if weight.is_quantized and t.setting.quantization == "nf4":
        result = copy(t, result)
    source = x
    if not weight.is_quantized or t.setting.autocast is None:
        source = cast(t, x, down.dtype)
    update = scale(
        t,
        matmul_weight(
            t,
            matmul_weight(
                t, dropout(t, source, low_rank.dropout), down, low_rank.rank, None
            ),
            up,
            out_features,
            None,
        ),
    )
    if weight.is_quantized and t.setting.autocast is None:
        update = cast(t, update, dtype)
    result = add(t, result, update)
    return result if weight.is_quantized else cast(t, result, dtype)


def matmul_weight(
    t: Tape, x: Tensor, weight: Weight, out_features: int, bias: Weight | None
) -> Tensor:
    """The product itself: inputs are cast as autocast does, or as bitsandbytes does."""
    if weight.is_quantized and t.setting.quantization == "nf4":
        return _linear_4bit(t, x, weight, out_features)
    if weight.is_quantized:
        return _linear_8bit(t, x, weight, out_features)
    # The last argument is cast first, and so its cast runs backward last.
    offset = [] if bias is None else [lower(t, bias)]
    used = lower(t, weight)
    lowered = lower(t, x)
    inputs: list[Tensor] = [lowered, used, *offset]
    saved = []
    if weight.edge is not None:
        saved.append(lowered)
    if x.edge is not None:
        saved.append(used)
    dtype = used.dtype if used is not weight else lowered.dtype
    scratch = 0
    if bias is not None and bias.edge is not None:
        scratch = sum_scratch_bytes(t, (*x.shape[:-1], out_features), bias.shape, dtype)
    return t.apply(
        "linear",
        inputs,
        (*x.shape[:-1], out_features),
        dtype,
        saved=saved,
        sum_scratch_bytes=scratch,
        is_expensive=True,
        # Its transpose; Conv1D's weight is that already.
        strided=(used,) if x.edge and weight.shape[0] == out_features else (),
    )


def _linear_4bit(t: Tape, x: Tensor, weight: Weight, out_features: int) -> Tensor:
    """bitsandbytes' `Linear4bit`: in its compute dtype, whatever the input's is.

    Nothing is saved. The operator is bitsandbytes' own, which selective checkpointing
    does not know to keep. The weight is dequantized for the product, forward and
    backward, and freed after it. A forward over at most 1536 rows can do without, by a
    kernel of its own (`backends/cuda/ops.py`, gemm_4bit): not counted
    (`nn/modules.py`, `autograd/_functions.py` of 0.50).
    """
    product = t.apply(
        "4-bit linear",
        (cast(t, x, weight.dtype),),
        (*x.shape[:-1], out_features),
        weight.dtype,
        scratch_bytes=weight.num_bytes,
        backward_scratch_bytes=weight.num_bytes,
    )
    return cast(t, product, x.dtype)


def _linear_8bit(t: Tape, x: Tensor, weight: Weight, out_features: int) -> Tensor:
    """bitsandbytes' `Linear8bitLt` (LLM.int8): product in int8, result in x's dtype.

    Pinned: the input. Selective checkpointing does not know the operator. Forward
    quantizes its input, from a copy in fp16 and beside its magnitudes and a mask of
    outliers, then holds the product in int32 and in fp16. Backward copies the weight to
    the dtype of the input. Columns with values from 6.0 on are multiplied apart: how
    many there are depends on the data, and they are not counted
    (`autograd/_functions.py`, `backends/cuda/ops.py` of 0.50).
    """
    rows, item_bytes = prod(x.shape[:-1]), ITEM_BYTES[x.dtype]
    num_inputs, num_outputs = rows * x.shape[-1], rows * out_features
    is_half = x.dtype == "fp16"
    quantizing = (4 if is_half else 6) * num_inputs + 4 * rows
    multiplying = num_inputs + 4 * rows + (4 if is_half else 6) * num_outputs
    return t.apply(
        "8-bit linear",
        (x,),
        (*x.shape[:-1], out_features),
        x.dtype,
        pinned=(x,),
        scratch_bytes=max(multiplying, quantizing - num_outputs * item_bytes),
        backward_scratch_bytes=item_bytes * prod(weight.shape) + 4 * out_features,
    )
