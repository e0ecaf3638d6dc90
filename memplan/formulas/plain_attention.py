"""Attention operator by operator: transformers' eager code, and PyTorch's math kernel.

Letters: B batch, H query heads, L query length, S key length, K size of a head. Query,
key and value arrive as views [B, H, L, K] of memory ordered [B, L, H, K], unless query
and key are in the order of heads, `heads_first`.
"""

from math import prod

from memplan.errors import PlanError
from memplan.formulas.layers import (
    add,
    cast,
    copy,
    dropout,
    lower,
    promote,
    scale,
    softcap,
)
from memplan.formulas.parameters import Shape
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import ITEM_BYTES, Tensor


def eager(
    t: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    position_bias: Tensor | None,
    mask: Tensor | None,
    dropout_probability: float,
    *,
    softmax_in_fp32: bool,
    casts_weights: bool,
    caps_scores: bool,
    heads_first: bool,
    returned: list[Tensor] | None = None,
) -> Tensor:
    """`eager_attention_forward` of transformers: every step is a tensor.

    Saved: copies of query, key and value in head order, the softmax in fp32, its cast
    to the query's dtype, and the dropout mask and result; the tanh of capped scores.
    The weights are returned too, into `returned` where the caller keeps them.
    """
    key_states = repeat_heads(t, key, query)
    value_states = repeat_heads(t, value, query)
    # Copies for every query head lie in head order; the view of one head does not.
    is_grouped = key.shape[1] not in (1, query.shape[1])
    shape = (*query.shape[:3], key.shape[2])
    attn_weights = scale(
        t,
        matmul(
            t,
            query,
            key_states,
            shape,
            copies_first=not heads_first,
            copies_second=not (heads_first or is_grouped),
        ),
    )
    if caps_scores:
        attn_weights = softcap(t, attn_weights)
    if position_bias is not None:
        attn_weights = add(t, attn_weights, position_bias)
    if mask is not None:
        attn_weights = add(t, attn_weights, mask)
    if softmax_in_fp32:
        attn_weights = cast(t, softmax(t, attn_weights, in_fp32=True), query.dtype)
    else:
        attn_weights = softmax(t, attn_weights, in_fp32=False)
    if casts_weights:
        attn_weights = cast(t, attn_weights, value.dtype)
    attn_weights = dropout(t, attn_weights, dropout_probability)
    if returned is not None:
        returned.append(attn_weights)
    attn_output = matmul(
        t,
        attn_weights,
        value_states,
        (*query.shape[:3], value.shape[3]),
        copies_first=False,
        copies_second=not is_grouped,
        copies_gradient=True,
    )
    return copy(t, attn_output)


def require_eager(t: Tape, model: str) -> None:
    """For a model whose only attention is its own code (`_supports_sdpa` is false).

    Raises:
        PlanError: the plan asks for a kernel.
    """
    if t.setting.attention not in ("auto", "eager"):
        raise PlanError(
            f"{model} computes its attention step by step: the {t.setting.attention} "
            "kernel cannot run it.",
            hint="Use --attn-implementation eager.",
        )


def math(
    t: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout_probability: float,
    heads_first: bool,
) -> Tensor:
    """`_scaled_dot_product_attention_math`: half precision is computed in fp32.

    Query and key are scaled before their product, and a causal mask is made for the
    call. The output comes in head order, so its caller copies it to rows. Autocast
    does not reach inside (`native/transformers/attention.cpp`).
    """
    q, k, v = (cast(t, x, "fp32") for x in (query, key, value))
    shape = (*query.shape[:3], key.shape[2])
    scaled = scale(t, q)
    bias = mask
    if causal:
        allowed = t.tensor(shape[2:], "bool")
        bias = t.tensor(shape[2:], q.dtype)
        del allowed
    keys, values = _repeat_interleave(t, k, query), _repeat_interleave(t, v, query)
    is_grouped = keys is not k
    scores = product(
        t,
        scaled,
        scale(t, keys),
        shape,
        copies_first=not heads_first,
        copies_second=not (heads_first or is_grouped),
    )
    if bias is not None:
        scores = _add_in_place(t, scores, bias)
    # Rows without a key are found in a boolean copy, and set to zero.
    scores = softmax(t, scores, in_fp32=False, scratch_bytes=prod(shape))
    scores = dropout(t, scores, dropout_probability)
    if query.dtype != "fp32":
        returned = t.tensor(shape, query.dtype)
    output = product(
        t,
        scores,
        values,
        (*query.shape[:3], value.shape[3]),
        copies_first=False,
        copies_second=not is_grouped,
        copies_gradient=True,
    )
    output = cast(t, output, query.dtype)
    if query.dtype != "fp32":
        # The weights in the caller's dtype are a second result, which nobody takes.
        del returned
    del q, k, v, scaled, bias, keys, values, scores
    return copy(t, output)


def repeat_heads(t: Tape, x: Tensor, query: Tensor) -> Tensor:
    """`repeat_kv`: a copy for every query head; backward sums over the copies.

    One head for all is expanded, which is a view.
    """
    if x.shape[1] == query.shape[1]:
        return x
    shape = (x.shape[0], query.shape[1], *x.shape[2:])
    alias = x if x.shape[1] == 1 else None
    return t.apply("repeat_kv", (x,), shape, x.dtype, alias=alias)


def _repeat_interleave(t: Tape, x: Tensor, query: Tensor) -> Tensor:
    """The math kernel's `pre_process_group_query_attention_input`: always a copy."""
    if x.shape[1] == query.shape[1]:
        return x
    shape = (x.shape[0], query.shape[1], *x.shape[2:])
    return t.apply("repeat_interleave", (x,), shape, x.dtype)


def matmul(
    t: Tape,
    x: Tensor,
    y: Tensor,
    shape: Shape,
    *,
    copies_first: bool = True,
    copies_second: bool = True,
    copies_gradient: bool = False,
) -> Tensor:
    """`torch.matmul` of 4-D tensors, which autocast runs in low precision."""
    return product(
        t,
        lower(t, x),
        lower(t, y),
        shape,
        copies_first=copies_first,
        copies_second=copies_second,
        copies_gradient=copies_gradient,
    )


def product(
    t: Tape,
    x: Tensor,
    y: Tensor,
    shape: Shape,
    *,
    copies_first: bool = True,
    copies_second: bool = True,
    copies_gradient: bool = False,
) -> Tensor:
    """A product of batches of matrices: saves both factors.

    `torch.matmul` views them as [B * H, ...], which copies a factor whose memory is
    ordered [B, L, H, K], unless there is one sample; and so backward does with a
    gradient in that order.
    """
    is_batched = shape[0] > 1 and shape[1] > 1
    a = copy(t, x) if copies_first and is_batched else x
    b = copy(t, y) if copies_second and is_batched else y
    saved = [first for first, second in ((a, b), (b, a)) if second.edge is not None]
    output = t.apply(
        "matmul", (a, b), shape, promote(a, b), saved=saved, is_expensive=True
    )
    if copies_gradient and is_batched:
        output = t.apply("view", (output,), shape, output.dtype, alias=output)
    return output


def softmax(t: Tape, x: Tensor, *, in_fp32: bool, scratch_bytes: int = 0) -> Tensor:
    """`F.softmax(x, dim=-1)`, or with dtype=torch.float32: saves its output.

    Autocast runs it in fp32 too. fp16 becomes fp32 in the same kernel, bf16 is copied
    first (`native/SoftMax.cpp`). Backward first makes the product of gradient and
    output (`native/cuda/SoftMax.cu`, softmax_backward_cuda_out).
    """
    dtype = x.dtype
    if in_fp32 or t.setting.autocast:
        dtype = "fp32"
        if x.dtype != "fp16":
            x = cast(t, x, dtype)
    return t.apply(
        "softmax",
        (x,),
        x.shape,
        dtype,
        saves_output=True,
        scratch_bytes=scratch_bytes,
        backward_scratch_bytes=prod(x.shape) * ITEM_BYTES[dtype],
    )


def _add_in_place(t: Tape, scores: Tensor, bias: Tensor) -> Tensor:
    """`scores.add_(bias)`; the gradient of a learned bias is cast and then summed."""
    full_bytes = prod(scores.shape) * ITEM_BYTES[bias.dtype]
    return t.apply(
        "add_",
        (scores, bias),
        scores.shape,
        scores.dtype,
        passes_gradient=True,
        alias=scores,
        backward_scratch_bytes=full_bytes if bias.edge is not None else 0,
    )
