"""Attention: which kernel PyTorch takes, what it saves, what its backward needs.

Letters: B batch, H query heads, G key-value heads, L query length, S key length,
K size of a head. Queries arrive as views [B, H, L, K] of memory ordered [B, L, H, K].
"""

from memplan.formulas.layers import (
    add,
    cast,
    concatenate,
    copy,
    dropout,
    lower,
    multiply,
    part,
    promote,
    scale,
    upper,
)
from memplan.formulas.tape import ITEM_BYTES, Shape, Tape, Tensor
from memplan.units import MiB, ceil_div, round_up


def rotary(t: Tape, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """`x * cos + rotate_half(x) * sin`: saves the two tables, which layers share.

    Under autocast the tables are fp32, and so is the result.
    """
    return add(t, multiply(t, x, cosines), multiply(t, rotate_half(t, x), sines))


def rotate_half(t: Tape, x: Tensor) -> Tensor:
    """`cat((-x[..., K/2:], x[..., :K/2]))`."""
    half = (*x.shape[:-1], x.shape[-1] // 2)
    first = part(t, x, half)
    second = part(t, x, half)
    return concatenate(t, [scale(t, second), first], x.shape)


def attend(
    t: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout_probability: float = 0.0,
    softmax_in_fp32: bool = True,
    repeats_heads: bool = False,
    position_bias: Tensor | None = None,
) -> Tensor:
    """transformers' attention interface: [B, H, L, K] in, [B, L, H * K] out.

    `softmax_in_fp32` is how the model's own eager code computes it. `repeats_heads`
    copies key and value to all heads, as it must where a mask comes with GQA.
    `position_bias` [1, H, L, S] is added to the scores of every sample.
    """
    if not t.setting.is_training:
        dropout_probability = 0.0
    if t.setting.attention == "eager":
        output = _eager(
            t,
            query,
            key,
            value,
            position_bias,
            mask,
            causal,
            dropout_probability,
            softmax_in_fp32,
        )
        return copy(t, _rows(t, output))
    if position_bias is not None:
        mask, causal = _position_bias_mask(t, position_bias, mask, causal), False
    if key.shape[1] != query.shape[1] and (mask is not None or repeats_heads):
        key, value = _repeat(t, key, query), _repeat(t, value, query)
    output = scaled_dot_product(t, query, key, value, mask, causal, dropout_probability)
    return _rows(t, output)


def scaled_dot_product(
    t: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout_probability: float,
) -> Tensor:
    """`F.scaled_dot_product_attention`."""
    q, k, v = lower(t, query), lower(t, key), lower(t, value)
    kernel = choose_kernel(
        t.setting.attention,
        dtype=q.dtype,
        head_size=q.shape[-1],
        has_mask=mask is not None,
        is_grouped=q.shape[1] != k.shape[1],
        has_dropout=dropout_probability > 0,
        compute_capability=t.setting.compute_capability,
        torch_version=t.setting.torch_version,
    )
    if kernel == "math":
        return _math(t, q, k, v, mask, causal, dropout_probability)
    B, H, L, K = q.shape
    S = k.shape[2]
    inputs = [q, k, v]
    if mask is not None:
        inputs.append(_expanded_mask(t, lower(t, mask), (B, H, L, S)))
    statistics = {
        "flash": 4 * B * H * L,
        "efficient": 4 * B * H * round_up(L, 32),
        "cudnn": 4 * B * H * L,
    }[kernel]
    return t.apply(
        f"{kernel} attention",
        inputs,
        q.shape,
        q.dtype,
        saved=inputs,
        saves_output=True,
        stats_bytes=statistics,
        backward_scratch_bytes=backward_bytes(kernel, B, H, k.shape[1], L, S, K),
        is_expensive=True,
    )


def choose_kernel(
    wanted: str,
    *,
    dtype: str,
    head_size: int,
    has_mask: bool,
    is_grouped: bool,
    has_dropout: bool,
    compute_capability: tuple[int, int],
    torch_version: tuple[int, int],
) -> str:
    """The kernel `scaled_dot_product_attention` takes on CUDA.

    Source: `native/transformers/cuda/sdp_utils.cpp`. Order in 2.14: cuDNN first on
    compute capability 9.x and 10.x, else flash, memory-efficient, math. Flash needs
    half precision, capability 8.0 and no mask; cuDNN half precision; the efficient
    kernel equal head counts.
    """
    is_half = dtype in ("bf16", "fp16")
    is_ampere = compute_capability >= (8, 0)
    can = {
        "flash": is_half and is_ampere and not has_mask and head_size <= 256,
        "cudnn": (
            is_half
            and is_ampere
            and head_size <= 128
            and head_size % 8 == 0
            and not has_dropout
        ),
        "efficient": not is_grouped and not (dtype == "bf16" and not is_ampere),
        "math": True,
    }
    if wanted not in ("auto", "eager"):
        return wanted if can[wanted] else "math"
    order = ["flash", "efficient", "math"]
    if torch_version >= (2, 14) and compute_capability[0] in (9, 10):
        order.insert(0, "cudnn")
    return next(kernel for kernel in order if can[kernel])


def backward_bytes(kernel: str, B: int, H: int, G: int, L: int, S: int, K: int) -> int:
    """Temporaries of a fused kernel's backward beside dq, dk and dv.

    Flash (`flash_attn/flash_api.cpp`, mha_bwd): softmax_d fp32 [B, H, L128] and dq
    accumulated in fp32 [B, L128, H, K32]; for grouped heads dk and dv at all heads.
    Efficient (`mem_eff_attention/kernel_backward.h`): delta fp32 [B, H, L32], and dq
    accumulated in fp32 by blocks of 64 queries with 16 bytes of counters each; in fp32
    the products that delta sums take as much instead.
    cuDNN: delta and dq in fp32.
    """
    L128 = round_up(L, 128)
    if kernel == "flash":
        K32 = round_up(K, 32 if K <= 128 else 64)
        grouped = 2 * 2 * B * S * H * K if G != H else 0
        return 4 * B * H * L128 + 4 * B * L128 * H * K32 + grouped
    if kernel == "efficient":
        num_blocks = ceil_div(L, 64)
        return 4 * B * H * (round_up(L, 32) + num_blocks * (64 * K + 4))
    return min(4 * B * H * L * K + 4 * B * H * L, 256 * MiB)


def _rows(t: Tape, output: Tensor) -> Tensor:
    """[B, H, L, K] with memory [B, L, H, K] as [B, L, H * K]: a view."""
    B, H, L, K = output.shape
    return t.view(output, (B, L, H * K))


def _repeat(t: Tape, x: Tensor, query: Tensor) -> Tensor:
    """`repeat_kv`: a copy for every query head; backward sums over the copies."""
    if x.shape[1] == query.shape[1]:
        return x
    shape = (x.shape[0], query.shape[1], *x.shape[2:])
    size = x.num_bytes * query.shape[1] // x.shape[1]
    return t.apply("repeat_kv", (x,), shape, x.dtype, backward_scratch_bytes=size)


def _position_bias_mask(
    t: Tape, position_bias: Tensor, mask: Tensor | None, causal: bool
) -> Tensor:
    """`create_position_bias_mask`: a contiguous mask, made anew in every layer.

    A learned bias comes as a permuted view and is copied. `where` saves its condition,
    a boolean mask.
    """
    if causal:
        mask = t.tensor((1, 1, *position_bias.shape[2:]), "bool")
    if mask is not None:
        position_bias = t.apply(
            "where",
            (position_bias,),
            (mask.shape[0], *position_bias.shape[1:]),
            position_bias.dtype,
            saved=(mask,),
        )
    if position_bias.edge is None:
        return position_bias
    return copy(t, position_bias)


def _expanded_mask(t: Tape, mask: Tensor, shape: Shape) -> Tensor:
    """A mask for every sample and head, padded to multiples of 16 keys: a view.

    The kernel makes the gradient of a mask for each of them; it is summed then
    (`native/transformers/attention.cpp`, `preprocess_mask`).
    """
    if shape[-1] % 16:
        padded = (*mask.shape[:-1], round_up(mask.shape[-1], 16))
        mask = t.apply("pad", (mask,), padded, mask.dtype)
    return t.apply("expand", (mask,), shape, mask.dtype, alias=mask)


def _eager(
    t: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    position_bias: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    dropout_probability: float,
    softmax_in_fp32: bool,
) -> Tensor:
    """`eager_attention_forward` of transformers: every step is a tensor.

    Saved: copies of query, key and value in head order, the softmax in fp32, its cast
    to the query's dtype, and the dropout mask and result.
    """
    key_states = _repeat(t, key, query)
    value_states = _repeat(t, value, query)
    shape = (*query.shape[:3], key.shape[2])
    attn_weights = scale(t, batched_matmul(t, query, key_states, shape))
    if position_bias is not None:
        attn_weights = add(t, attn_weights, position_bias)
    if mask is not None or causal:
        bias = mask if mask is not None else t.tensor((1, 1, *shape[2:]), query.dtype)
        attn_weights = add(t, attn_weights, bias)
    attn_weights = softmax(t, attn_weights, in_fp32=softmax_in_fp32)
    if softmax_in_fp32:
        attn_weights = cast(t, attn_weights, query.dtype)
    attn_weights = dropout(t, attn_weights, dropout_probability)
    return batched_matmul(
        t, attn_weights, value_states, query.shape, copies_first=False
    )


def _math(
    t: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout_probability: float,
) -> Tensor:
    """`_scaled_dot_product_attention_math`: half precision is computed in fp32.

    Query and key are scaled before their product; a causal mask is made for the call.
    """
    q, k, v = (cast(t, x, "fp32") for x in (query, key, value))
    shape = (*query.shape[:3], key.shape[2])
    bias = mask
    if causal:
        bias = t.tensor(shape[2:], q.dtype)
    q = scale(t, q)
    k = _repeat(t, k, query)
    v = _repeat(t, v, query)
    scores = batched_matmul(t, q, scale(t, k), shape)
    if bias is not None:
        scores = add(t, scores, bias)
    scores = softmax(t, scores, in_fp32=False)
    scores = dropout(t, scores, dropout_probability)
    output = batched_matmul(t, scores, v, query.shape, copies_first=False)
    return copy(t, cast(t, output, query.dtype))


def batched_matmul(
    t: Tape,
    x: Tensor,
    y: Tensor,
    shape: tuple[int, ...],
    *,
    copies_first: bool = True,
    copies_second: bool = True,
) -> Tensor:
    """`torch.matmul` of 4-D tensors: saves both factors.

    It reshapes them to [B * H, ...], which copies a factor that is a transposed view.
    """
    a, b = lower(t, x), lower(t, y)
    a = copy(t, a) if copies_first and a is x else a
    b = copy(t, b) if copies_second and b is y else b
    saved = [first for first, second in ((a, b), (b, a)) if second.edge is not None]
    return t.apply(
        "matmul", (a, b), shape, promote(a, b), saved=saved, is_expensive=True
    )


def softmax(t: Tape, x: Tensor, *, in_fp32: bool) -> Tensor:
    """`F.softmax(x, dim=-1)`, or with dtype=torch.float32: saves its output.

    From a half-precision input to an fp32 output it is one kernel without a cast copy.
    Backward first makes the product of gradient and output (`SoftMax.cu`,
    softmax_backward_cuda_out).
    """
    if in_fp32 and t.setting.autocast is None:
        dtype = "fp32"
    else:
        x = upper(t, x)
        dtype = x.dtype
    scratch = x.num_bytes // ITEM_BYTES[x.dtype] * ITEM_BYTES[dtype]
    return t.apply(
        "softmax",
        (x,),
        x.shape,
        dtype,
        saves_output=True,
        backward_scratch_bytes=scratch,
    )
