"""DeepSeek's latent attention, as in transformers' `modeling_deepseek_v3.py`.

Letters: B batch, L sequence length, H heads, K size of a head of query and key, of
which R is rotated, V size of a head of values.
"""

from memplan.formulas.attention import attend
from memplan.formulas.layers import (
    add,
    cast,
    concatenate,
    multiply,
    part,
    rms_norm,
)
from memplan.formulas.linear import linear
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.deepseek.config import DeepseekConfig


def latent_attention(
    t: Tape,
    config: DeepseekConfig,
    x: Tensor,
    mask: Tensor | None,
    tables: tuple[Tensor, ...],
) -> Tensor:
    """`DeepseekV3Attention`: [B, L, D] in and out."""
    B, L, D = x.shape
    H, R, V = config.num_attention_heads, config.qk_rope_head_dim, config.v_head_dim
    N, K = config.qk_nope_head_dim, config.head_size
    with t.scope("self_attn"):
        q_states = by_heads(t, queries(t, config, x))
        q_pass, q_rot = t.split(q_states, [(B, H, L, N), (B, H, L, R)])
        compressed_kv = linear(
            t,
            "kv_a_proj_with_mqa",
            x,
            config.kv_lora_rank + R,
            bias=config.attention_bias,
        )
        kv_nope, k_rot = t.split(
            compressed_kv, [(B, L, config.kv_lora_rank), (B, 1, L, R)]
        )
        kv_nope = rms_norm(t, "kv_a_layernorm", kv_nope)
        rotate = rotate_pairs if config.is_v3 else rotate_complex
        q_rot, k_rot = rotate(t, q_rot, tables), rotate(t, k_rot, tables)
        query_states = concatenate(t, [q_pass, q_rot], (B, H, L, K))
        expanded = by_heads(t, linear(t, "kv_b_proj", kv_nope, H * (N + V), bias=False))
        k_nope, value_states = t.split(expanded, [(B, H, L, N), (B, H, L, V)])
        key_states = fill(t, [k_nope, k_rot], (B, H, L, K), expanded.dtype)
        attn_output = attend(
            t,
            query_states,
            key_states,
            value_states,
            mask=mask,
            causal=mask is None,
            dropout_probability=config.attention_dropout,
            heads_first=True,
        )
        return linear(t, "o_proj", attn_output, D, bias=config.attention_bias)


def queries(t: Tape, config: DeepseekConfig, x: Tensor) -> Tensor:
    """All heads of the query, by way of a low rank where there is one."""
    size = config.num_attention_heads * config.head_size
    if config.q_lora_rank is None:
        return linear(t, "q_proj", x, size, bias=False)
    states = linear(t, "q_a_proj", x, config.q_lora_rank, bias=config.attention_bias)
    states = rms_norm(t, "q_a_layernorm", states)
    return linear(t, "q_b_proj", states, size, bias=False)


def by_heads(t: Tape, x: Tensor) -> Tensor:
    """`view(...).transpose(1, 2)`, before a split.

    The gradients of the parts are joined in head order, and so copied to rows.
    """
    return t.apply("transpose", (x,), x.shape, x.dtype, alias=x)


def rotate_pairs(t: Tape, x: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
    """`apply_rotary_pos_emb_interleave`: even and odd places are turned and joined."""
    cosines, sines = (
        t.view(table, (*table.shape[:-1], table.shape[-1] // 2)) for table in tables
    )
    half = (*x.shape[:-1], x.shape[-1] // 2)
    first, second = part(t, x, half), part(t, x, half)
    even = add(t, multiply(t, first, cosines), multiply(t, second, sines))
    odd = add(t, multiply(t, second, cosines), multiply(t, first, sines))
    return concatenate(t, [even, odd], x.shape)


def rotate_complex(t: Tape, x: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
    """`apply_rotary_emb` of V2: pairs in fp32 times complex numbers, saved."""
    upper = cast(t, x, "fp32")
    turned = t.apply("mul", (upper,), x.shape, "fp32", saved=tables)
    return cast(t, turned, x.dtype)


def fill(t: Tape, parts: list[Tensor], shape: tuple[int, ...], dtype: str) -> Tensor:
    """A new tensor into which parts are copied, one after the other (`CopySlices`).

    Backward copies the whole gradient for each part, and the part of it; that of the
    key that all heads share is cast and summed over them.
    """
    states = t.tensor(shape, dtype)
    for x in parts:
        full = (*shape[:-1], x.shape[-1])
        source = x
        if x.shape != full:
            source = t.apply("expand", (x,), full, x.dtype, alias=x)
        inputs = [source] if states.edge is None else [states, source]
        states = t.apply("copy slices", inputs, shape, dtype, alias=states)
    return states
