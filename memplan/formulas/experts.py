"""A mixture of experts, as transformers computes it with grouped products.

Every token goes to `top_k` experts, so there are always S = T * top_k rows, however
they are spread: sorted by expert, all experts are one grouped product over them, whose
sizes do not depend on the routing (`integrations/moe.py`, grouped_mm_experts_forward,
the default of transformers 5). Autocast does not reach that product: it runs in the
dtype of the weights, in fp32 where they are.

Letters: T tokens, S rows, D hidden size, F inner size of an expert, E experts.
"""

from math import prod

from memplan.formulas.layers import activation, cast, multiply
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor, Weight

STATIC_SIZES = (
    "experts as one grouped product over sorted rows, transformers' default on CUDA: "
    "sizes do not depend on the routing, and autocast does not reach it"
)
"""What holds of every model whose experts are computed so."""


def experts(
    t: Tape,
    x: Tensor,
    top_k_weights: Tensor,
    *,
    num_experts: int,
    inner_size: int,
    hidden_act: str,
) -> Tensor:
    """Gated experts with their weights in one tensor: [T, D] in and out.

    Locals of the function that holds them all live until it returns: the rows as they
    were sorted, their order and its inverse, the counts.
    """
    T, D = x.shape
    S = prod(top_k_weights.shape)
    with t.scope("experts"):
        gate_up_proj = t.weight("gate_up_proj", (num_experts, 2 * inner_size, D))
        down_proj = t.weight("down_proj", (num_experts, D, inner_size))
        expert_ids = t.tensor((S,), "int64")
        perm = t.tensor((S,), "int64")
        selected = select(t, x, t.tensor((S,), "int64"), (S, D))
        weights = t.view(top_k_weights, (S,))
        sorted_weights = select(t, weights, perm, (S,))
        proj_out = grouped_product(t, selected, gate_up_proj, 2 * inner_size)
        gate, up = t.split(proj_out, [(S, inner_size), (S, inner_size)])
        proj_out = multiply(t, activation(t, hidden_act, gate), up)
        del gate, up
        proj_out = grouped_product(t, proj_out, down_proj, D)
        weighted_out = multiply(t, proj_out, t.view(sorted_weights, (S, 1)))
        inv_perm = t.tensor((S,), "int64")
        weighted_out = select(t, weighted_out, inv_perm, (S, D))
        final_hidden_states = sum_of_rows(t, weighted_out, (T, D))
        del expert_ids
        return cast(t, final_hidden_states, x.dtype)


def grouped_product(t: Tape, x: Tensor, weight: Weight, out_features: int) -> Tensor:
    """`F.grouped_mm` of rows with the weights of their experts.

    Saved: the rows where the weights are trained, the weights where the rows want a
    gradient.
    """
    rows = cast(t, x, weight.dtype)
    saved: list[Tensor] = []
    if weight.edge is not None:
        saved.append(rows)
    if rows.edge is not None:
        saved.append(weight)
    return t.apply(
        "grouped_mm",
        (rows, weight),
        (x.shape[0], out_features),
        weight.dtype,
        saved=saved,
    )


def select(t: Tape, x: Tensor, indices: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`x[indices]`: saves the indices.

    Backward adds into zeros of the size of `x`, in the order of the sorted indices.
    """
    return t.apply(
        "index",
        (x,),
        shape,
        x.dtype,
        saved=(indices,),
        backward_scratch_bytes=4 * indices.num_bytes,
    )


def sum_of_rows(t: Tape, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`x.view(T, top_k, D).sum(dim=1)`: its gradient is written out for every row."""
    return t.apply("sum", (x,), shape, x.dtype)


def best(t: Tape, probabilities: Tensor, top_k: int) -> Tensor:
    """`torch.topk` over the experts: [T, top_k] of the values; saves their indices."""
    shape = (probabilities.shape[0], top_k)
    return t.apply(
        "topk",
        (probabilities,),
        shape,
        probabilities.dtype,
        saved=(t.tensor(shape, "int64"),),
    )


def normalized(t: Tape, weights: Tensor) -> Tensor:
    """`weights / weights.sum(dim=-1, keepdim=True)`: saves both."""
    total = t.apply("sum", (weights,), (weights.shape[0], 1), weights.dtype)
    return t.apply(
        "div", (weights, total), weights.shape, weights.dtype, saved=(weights, total)
    )
