"""Cross-entropy over parts of the tokens, each with its logits under a checkpoint.

The head is part of such a loss, so that of all logits those of one part are there at
once, forward and backward. Liger's fused kernel (arXiv 2410.10989) and torchtune's loss
in chunks save the same memory.

Letters: N rows (tokens that are predicted), D hidden size, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import prod

from memplan.formulas.layers import cast, lower
from memplan.formulas.linear import matmul_weight
from memplan.formulas.loss import cross_entropy
from memplan.formulas.tape import Cast, Mode, Tape
from memplan.formulas.tensors import ITEM_BYTES, Tensor, Weight
from memplan.formulas.trace import Again, Trace

Body = Callable[[Tensor, Tensor], Tensor]
"""The loss of some rows with their labels."""
Used = list[tuple[Weight, int]]
"""Trained weights, with the edge of what stands for each in all parts: its own, or that
of the copy which autocast keeps of it."""


def chunked_causal_lm_loss(
    t: Tape, hidden_states: Tensor, weight: Weight, bias: Weight | None
) -> Tensor:
    """The head and the loss on hidden states [B, L, D], a part of the rows at a time.

    Saved by every checkpoint: its rows, which are views of the hidden states, and their
    labels. Backward makes the logits of one part again, the last part first. Gradients
    of the rows wait until all of them are there and are joined (`SplitBackward0`);
    those of the weight, or of autocast's copy of it, are added up.
    """
    t.begin_loss()
    *samples, length, D = hidden_states.shape
    N = prod(samples) * length
    padded = t.tensor((*samples, length + 1), "int64")
    targets = t.tensor((N,), "int64")
    del padded
    rows = t.view(hidden_states, (N, D))
    bounds = [*range(0, N, -(-N // t.setting.cross_entropy_chunks)), N]
    sizes = [end - start for start, end in pairwise(bounds)]
    parts = t.split(rows, [(n, D) for n in sizes])
    used = _used(t, bias, weight)

    def loss_of(rows: Tensor, targets: Tensor) -> Tensor:
        with t.scope("lm_head"):
            logits = matmul_weight(t, rows, weight, weight.shape[0], bias)
        with t.scope("loss"):
            upcast = cast(t, logits, "fp32")
        if all(phase.name != "forward" for phase in t.phases):
            t.end_phase("forward")
        return cross_entropy(t, upcast, targets)

    total = t.tensor((), "fp32")
    for part, n in zip(parts, sizes, strict=True):
        loss = _checkpoint(t, loss_of, part, t.view(targets, (n,)), used)
        total = t.apply("add", (total, loss), (), "fp32", passes_gradient=True)
    return t.apply("div", (total,), (), "fp32", stats_bytes=8)


def _used(t: Tape, *weights: Weight | None) -> Used:
    """Autocast casts a trained weight in the first part, and the others find it."""
    used = []
    for weight in weights:
        if weight is not None and weight.edge is not None:
            edge = lower(t, weight).edge
            assert edge is not None
            used.append((weight, edge))
    return used


def _checkpoint(
    t: Tape, body: Body, rows: Tensor, targets: Tensor, used: Used
) -> Tensor:
    """`torch.utils.checkpoint.checkpoint(body, rows, targets)`."""
    outer = t.mode
    t.mode = replace(outer, record=False)
    output = body(rows, targets)
    t.mode = outer
    if output.edge is None:
        return output
    given = [(x.shape, x.dtype, x.edge) for x in (rows, targets)]
    saved = []
    if not t.setting.offloads_activations:
        saved = [t.save(rows.storage), t.save(targets.storage)]

    def run() -> Trace:
        """Again, on what was saved, or on what comes back from the host for it.

        Autocast casts weights anew, and their gradients go where those of the first
        copies go: the graph is that of the first run.
        """
        outer_mode, outer_nodes, first_edge = t.mode, t.nodes, t.last_edge
        t.place, t.nodes = "", []
        with t.scope("lm_head"), t.no_grad():
            for weight, edge in used:
                _cast_again(t, weight, edge)
        t.mode = Mode(first_serial=t.num_storages, is_recomputed=True, in_layer=True)
        storages = saved or [
            t.allocate(prod(shape) * ITEM_BYTES[dtype]) for shape, dtype, _ in given
        ]
        output = body(
            *(
                Tensor(t, storage, *x)
                for storage, x in zip(storages, given, strict=True)
            )
        )
        t.exit_autocast()
        assert output.edge is not None
        trace = Trace(t.nodes, given[0][-1], output.edge, first_edge)
        t.mode, t.nodes = outer_mode, outer_nodes
        return trace

    shared = tuple(edge for _, edge in used)
    t.nodes.append(Again(t.place, output.edge, run, saved, shared))
    return output


def _cast_again(t: Tape, weight: Weight, edge: int) -> None:
    """A copy for autocast's cache, with the gradient of the first one."""
    low = t.setting.autocast
    if low is None or edge == weight.edge or weight.edge is None:
        return
    copy = t.apply("weight cast", (weight,), weight.shape, low, is_savable=False)
    shared = Tensor(t, copy.storage, copy.shape, low, edge)
    t.casts[weight.edge] = Cast(shared, copies=1)
