"""SigLIP's pooling: one learned query attends to all patches (`nn.MultiheadAttention`).

Letters: B batch, L patches, D hidden size, H heads, K size of a head.
"""

from memplan.formulas.layers import (
    add,
    copy,
    layer_norm,
    lower,
    part,
    scale,
    sum_scratch_bytes,
)
from memplan.formulas.linear import linear
from memplan.formulas.plain_attention import matmul, product, softmax
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.clip.towers import mlp
from memplan.models.siglip.config import VisionConfig


def pool(t: Tape, config: VisionConfig, patches: Tensor) -> Tensor:
    """`SiglipMultiheadAttentionPoolingHead`: [B, L, D] in, [B, D] out."""
    B, _, D = patches.shape
    with t.scope("head"):
        token = t.weight("probe", (1, 1, D))
        probe = t.apply("repeat", (token,), (B, 1, D), token.dtype)
        with t.scope("attention"):
            hidden_state = attention(t, config.num_attention_heads, probe, patches)
        residual = hidden_state
        hidden_state = layer_norm(t, "layernorm", hidden_state)
        hidden_state = add(t, residual, mlp(t, config, hidden_state))
        return part(t, hidden_state, (B, D))


def attention(t: Tape, num_heads: int, probe: Tensor, patches: Tensor) -> Tensor:
    """`F.multi_head_attention_forward`, which returns weights, and so is eager.

    One matrix projects query, key and value: it is split before autocast casts it. The
    patches are turned to [L, B, D], and so the product of their projection copies
    them; key and value are views of a copy that has each in one piece, [2, L, B, D].
    """
    B, L, D = patches.shape
    shape = (B, num_heads, 1, D // num_heads)
    weight = t.weight("in_proj_weight", (3 * D, D))
    bias = t.weight("in_proj_bias", (3 * D,))
    for_query, for_both = t.split(weight, [(D, D), (2 * D, D)])
    query_bias, bias_of_both = t.split(bias, [(D,), (2 * D,)])
    query = t.view(project(t, probe, for_query, query_bias), shape)
    turned = copy(t, lower(t, patches)) if B > 1 else patches
    both = copy(t, project(t, turned, for_both, bias_of_both))
    del turned
    key, value = (
        t.view(part(t, both, (B, L, D)), (B, num_heads, L, shape[-1])) for _ in range(2)
    )
    del both
    attn_weights = product(
        t,
        scale(t, query),
        key,
        (*shape[:3], L),
        copies_first=False,
        copies_second=False,
    )
    del query, key
    attn_weights = softmax(t, attn_weights, in_fp32=False)
    attn_output = matmul(
        t, attn_weights, value, shape, copies_first=False, copies_second=False
    )
    return linear(t, "out_proj", t.view(attn_output, (B, 1, D)), D)


def project(t: Tape, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` with parts of a weight and a bias, whose casts are made anew."""
    offset, used, lowered = lower(t, bias), lower(t, weight), lower(t, x)
    shape = (*x.shape[:-1], weight.shape[0])
    saved = [a for a, b in ((lowered, used), (used, lowered)) if b.edge is not None]
    scratch = 0
    if offset.edge is not None:
        scratch = sum_scratch_bytes(t, shape, offset.shape, lowered.dtype)
    return t.apply(
        "linear",
        (lowered, used, offset),
        shape,
        lowered.dtype,
        saved=saved,
        sum_scratch_bytes=scratch,
        is_expensive=True,
    )
