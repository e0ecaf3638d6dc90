"""Attention: scaled_dot_product_attention as PyTorch dispatches it, or eager code.

Letters: B batch, H query heads, G key-value heads, L query length, S key length,
K size of a head. Queries arrive as views [B, H, L, K] of memory ordered [B, L, H, K].
"""

from memplan.errors import PlanError
from memplan.formulas.kernels import (
    Call,
    backward_bytes,
    choose_kernel,
    forward_bytes,
    statistics_bytes,
    why_not,
)
from memplan.formulas.layers import (
    add,
    cast,
    concatenate,
    copy,
    lower,
    multiply,
    part,
    scale,
)
from memplan.formulas.parameters import Shape
from memplan.formulas.plain_attention import eager, math, repeat_heads
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.units import round_up


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


def rotary_part(t: Tape, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """`cat((rotated x[..., :R], x[..., R:]))`: of a head as many as the tables have.

    Where they have all, an empty rest is joined all the same. The result lies in memory
    as [B, H, L, K], unlike what is rotated whole.
    """
    *places, K = x.shape
    R = cosines.shape[-1]
    turned = x if R == K else part(t, x, (*places, R))
    rest = part(t, x, (*places, K - R))
    turned = rotary(t, turned, cosines, sines)
    return concatenate(t, [turned, cast(t, rest, turned.dtype)], x.shape)


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
    casts_weights: bool = False,
    position_bias: Tensor | None = None,
    is_permuted_bias: bool = True,
    caps_scores: bool = False,
    heads_first: bool = False,
    returned: list[Tensor] | None = None,
) -> Tensor:
    """transformers' attention interface: [B, H, L, K] in, [B, L, H * K] out.

    How the model's own eager code computes: `softmax_in_fp32` makes fp32 weights and
    casts them to the query's dtype, `casts_weights` casts them to the value's.
    `position_bias` [1, H, L, S] is added to the scores of every sample; looked up in a
    table, it is a permuted view of memory ordered [L, S, H]. `caps_scores` bends them
    by a tanh, which eager code alone can do. `heads_first` says that query and key lie
    in memory as [B, H, L, K]. What eager code returns beside its output is added to
    `returned`, where a layer holds on to it.
    """
    if not t.setting.is_training:
        dropout_probability = 0.0
    if t.setting.attention == "eager":
        if mask is None and causal:
            mask = causal_mask(t, (1, query.shape[2], key.shape[2]), query.dtype)
        output = eager(
            t,
            query,
            key,
            value,
            position_bias,
            mask,
            dropout_probability,
            softmax_in_fp32=softmax_in_fp32,
            casts_weights=casts_weights,
            caps_scores=caps_scores,
            heads_first=heads_first,
            returned=returned,
        )
        return _rows(t, output)
    if position_bias is not None:
        mask = _position_bias_mask(t, position_bias, mask, causal, is_permuted_bias)
        causal = False
    if mask is not None or key.shape[-1] > 256:
        # Else the kernels take grouped heads as they are (`use_gqa_in_sdpa`).
        key, value = repeat_heads(t, key, query), repeat_heads(t, value, query)
    output = scaled_dot_product(
        t, query, key, value, mask, causal, dropout_probability, heads_first
    )
    return _rows(t, output)


def causal_mask(
    t: Tape, shape: tuple[int, int, int], dtype: str, window: int | None = None
) -> Tensor | None:
    """transformers' `create_causal_mask` [B, 1, L, S], which all layers share.

    Eager attention adds a mask in the dtype of the embeddings, made from a boolean one.
    The other kernels are causal by themselves; only where a sliding `window` is not
    longer than the keys they get a boolean mask, one for all samples
    (`masking_utils.py`).
    """
    B, L, S = shape
    if t.setting.attention != "eager" and (window is None or window > S):
        return None
    allowed = t.view(t.tensor((1, 1, L, S), "bool"), (B, 1, L, S))
    if t.setting.attention != "eager":
        return allowed
    return t.tensor((B, 1, L, S), "fp32" if t.setting.autocast else dtype)


def scaled_dot_product(
    t: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout_probability: float,
    heads_first: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention`: [B, H, L, K] in the memory order [B, L, H, K].

    Saved: query, key, value and mask, the output, and a sum for each row
    (`derivatives.yaml`; sizes as in `kernels`). Flash and
    cuDNN give the output the order of the query, so that what has `heads_first` is
    copied to rows; backward needs gradient and output in one order, and copies one.

    Raises:
        PlanError: the kernel that the plan asks for cannot run.
    """
    q, k, v = lower(t, query), lower(t, key), lower(t, value)
    call = Call(
        dtype=q.dtype,
        B=q.shape[0],
        H=q.shape[1],
        G=k.shape[1],
        L=q.shape[2],
        S=k.shape[2],
        K=q.shape[3],
        compute_capability=t.setting.compute_capability,
        num_sms=t.setting.num_sms,
        torch_version=t.setting.torch_version,
        causal=causal,
        has_mask=mask is not None,
        trains_mask=mask is not None and mask.edge is not None,
        dropout=dropout_probability,
        trains=any(x.edge is not None for x in (q, k, v)),
        value_size=v.shape[3],
    )
    kernel = _kernel(t, call)
    if mask is not None:
        mask = _additive(t, lower(t, mask), q.dtype)
    if kernel == "math":
        return math(t, q, k, v, mask, causal, dropout_probability, heads_first)
    scratch = backward_bytes(kernel, call)
    padded = round_up(call.K, 8) if kernel == "flash" else call.K
    if padded != call.K:
        # Gradient and output are then copied to row order in backward.
        q, k, v = (_padded(t, x, padded) for x in (q, k, v))
        scratch += 2 * q.num_bytes
    copies_output = heads_first and kernel != "efficient" and padded == call.K
    if copies_output:
        scratch += q.num_bytes
    inputs = [q, k, v]
    if mask is not None:
        expand = _expanded if kernel == "efficient" else _broadcast
        inputs.append(expand(t, mask, (call.B, call.H, call.L, call.S)))
    statistics = statistics_bytes(kernel, call)
    output = t.apply(
        f"{kernel} attention",
        inputs,
        (*q.shape[:3], v.shape[3]),
        q.dtype,
        saved=inputs,
        saves_output=True,
        strided=(q, k, v),
        is_strided=True,
        stats_bytes=statistics,
        scratch_bytes=forward_bytes(kernel, call) + statistics,
        backward_scratch_bytes=scratch,
        is_expensive=True,
    )
    if padded != call.K:
        output = copy(t, part(t, output, query.shape))
    return copy(t, output) if copies_output else output


def _kernel(t: Tape, call: Call) -> str:
    """The kernel that the plan asks for, or the one PyTorch takes."""
    wanted = t.setting.attention
    if wanted in ("auto", "eager"):
        return choose_kernel(call)
    reason = why_not(wanted, call)
    if reason:
        raise PlanError(
            f"The {wanted} attention kernel cannot run in {t.place}: {reason}.",
            hint=f"Use --attn-implementation auto: it takes {choose_kernel(call)}.",
        )
    return wanted


def _rows(t: Tape, output: Tensor) -> Tensor:
    """[B, H, L, K] with memory [B, L, H, K] as [B, L, H * K]: a view."""
    B, H, L, K = output.shape
    return t.view(output, (B, L, H * K))


def _padded(t: Tape, x: Tensor, size: int) -> Tensor:
    """Heads padded with zeros: a copy."""
    return t.apply("pad", (x,), (*x.shape[:-1], size), x.dtype)


def _additive(t: Tape, mask: Tensor, dtype: str) -> Tensor:
    """`convert_boolean_attn_mask`: a boolean mask becomes one to add, at every call."""
    return t.tensor(mask.shape, dtype) if mask.dtype == "bool" else mask


def _expanded(t: Tape, mask: Tensor, shape: Shape) -> Tensor:
    """A mask for every sample and head: a view, padded where keys are no multiple of 8.

    The kernel makes the gradient of a mask for each of them, and for a multiple of 16
    keys; it is summed then (`native/transformers/attention.cpp`, `preprocess_mask`).
    """
    keys = round_up(shape[-1], 16)
    if shape[-1] % 8:
        mask = t.apply("pad", (mask,), (*mask.shape[:-1], keys), mask.dtype)
    return _broadcast(t, mask, (*shape[:-1], keys))


def _broadcast(t: Tape, mask: Tensor, shape: Shape) -> Tensor:
    """A mask for every sample and head: a view."""
    return t.apply("expand", (mask,), shape, mask.dtype, alias=mask)


def _position_bias_mask(
    t: Tape,
    position_bias: Tensor,
    mask: Tensor | None,
    causal: bool,
    is_permuted: bool,
) -> Tensor:
    """`create_position_bias_mask`: a contiguous mask, made anew in every layer.

    `where` saves its condition, a boolean mask.
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
    return copy(t, position_bias) if is_permuted else position_bias
