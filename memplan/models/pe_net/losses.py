"""Losses on prototypes: how far they are from each other, and pairs from theirs.

In the shape of the end of `PrototypeEmbeddingNetwork.forward`. The hot spot of the
published code is here: the differences of every pair and every prototype.

Letters: P pairs of all images together, K predicate classes.
"""

from memplan.formulas.convolution import expand, norm, square, subtract
from memplan.formulas.layers import lower, multiply, scale
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.pe_net.config import PENetConfig


def prototype_losses(
    t: Tape, config: PENetConfig, rel_rep: Tensor, proto: Tensor, proto_norm: Tensor
) -> list[Tensor]:
    """All three, kept in one dictionary until they are summed."""
    return [
        similarity_loss(t, proto_norm),
        spread_loss(t, proto),
        distance_loss(t, config, rel_rep, proto),
    ]


def similarity_loss(t: Tape, proto_norm: Tensor) -> Tensor:
    """L_r_sim, the norm of `C @ C.t()` with one side detached: a copy of C is saved."""
    K = proto_norm.shape[0]
    target = t.tensor(proto_norm.shape, proto_norm.dtype)
    first, second = lower(t, proto_norm), lower(t, target)
    similarities = t.apply("mm", (first,), (K, K), first.dtype, saved=(second,))
    return mean(t, norm(t, similarities))


def spread_loss(t: Tape, proto: Tensor) -> Tensor:
    """L_r_euc, on distances of all prototypes: differences K x K x size are saved."""
    K, size = proto.shape
    rows = expand(t, proto, (K, K, size))
    differences = t.apply("sub", (rows,), rows.shape, rows.dtype, passes_gradient=True)
    return mean(t, nearest(t, square(t, norm(t, differences))))


def distance_loss(
    t: Tape, config: PENetConfig, rel_rep: Tensor, proto: Tensor
) -> Tensor:
    """L_e_euc: pairs shall be nearer to their prototype than to the nearest others."""
    distances = DISTANCES[config.distance](t, rel_rep, proto)
    P, K = distances.shape
    mask_neg = t.tensor((P, K), "fp32")
    distance_set_neg = multiply(t, distances, mask_neg)
    distance_set_pos = t.apply("index", (distances,), (P,), distances.dtype)
    negatives = nearest(t, distance_set_neg)
    return mean(t, subtract(t, distance_set_pos, negatives))


def expanded_distances(t: Tape, rel_rep: Tensor, proto: Tensor) -> Tensor:
    """`(r.expand - c.expand).norm(dim=2) ** 2`, as published.

    The differences [P, K, size] are saved. Backward holds them, their quotient by the
    norm, and the gradient: three tensors of that size at its height, the latter two in
    fp32 under autocast; then the gradient and its negation.
    """
    shape = (rel_rep.shape[0], *proto.shape)
    rows, columns = expand(t, rel_rep, shape), expand(t, proto, shape)
    return square(t, norm(t, subtract(t, rows, columns)))


def algebraic_distances(t: Tape, rel_rep: Tensor, proto: Tensor) -> Tensor:
    """`|r|**2 - 2 r.c + |c|**2`: nothing larger than the pairs themselves is saved."""
    P, K = rel_rep.shape[0], proto.shape[0]
    lengths = row_sums(t, square(t, rel_rep), (P, 1))
    first, second = lower(t, scale(t, rel_rep)), lower(t, proto)
    products = t.apply(
        "mm", (first, second), (P, K), first.dtype, saved=(first, second)
    )
    differences = t.apply("sub", (lengths, products), (P, K), lengths.dtype)
    return t.apply(
        "add",
        (differences, row_sums(t, square(t, proto), (K,))),
        (P, K),
        lengths.dtype,
        passes_gradient=True,
    )


DISTANCES = {"expanded": expanded_distances, "algebraic": algebraic_distances}


def row_sums(t: Tape, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`x.sum(dim=1)`: nothing saved; the gradient is an expanded view."""
    return t.apply("sum", (x,), shape, x.dtype, passes_views=True)


def nearest(t: Tape, x: Tensor) -> Tensor:
    """`sort(x, dim=1)[0][:, :k].sum(dim=1)`: saves the int64 places."""
    rows = x.shape[0]
    places = 8 * rows * x.shape[1]
    ordered = t.apply("sort", (x,), x.shape, x.dtype, stats_bytes=places)
    return t.apply("sum", (ordered,), (rows,), x.dtype)


def mean(t: Tape, x: Tensor) -> Tensor:
    """What a loss ends with: a number."""
    return t.apply("mean", (x,), (), x.dtype)
