"""Tensor, sequence and pipeline parallelism on the tape (Korthikanti et al. 2022, 4.2).

Norms, dropouts and residuals work on a shard of the sequence. Before a column-parallel
layer the shards are gathered, after a row-parallel one the partial sums are reduced and
scattered. Megatron saves the shard and gathers it once more in backward.

Tensor parallelism itself needs no operator here: a rank runs the same formula with its
share of heads, of the MLP and of the vocabulary, and reduces in place.
"""

from memplan.formulas.parameters import Shape
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.units import ceil_div

WHOLE, FIRST, LAST = "all", "first", "last"
"""Pipeline stages: the model whole, its part with the embedding, that with the head."""


def gather_sequence(t: Tape, x: Tensor) -> Tensor:
    """[B, L / t, D] of every rank as [B, L, D]; layers save the shard of it."""
    ranks = t.setting.sequence_shards
    if ranks == 1:
        return x
    shape = (x.shape[0], x.shape[1] * ranks, *x.shape[2:])
    whole = t.apply("all_gather", (x,), shape, x.dtype)
    whole.origin = x
    return whole


def scatter_sequence(t: Tape, x: Tensor) -> Tensor:
    """Partial sums [B, L, D] as this rank's [B, L / t, D] of the total."""
    ranks = t.setting.sequence_shards
    if ranks == 1:
        return x
    shape = (x.shape[0], ceil_div(x.shape[1], ranks), *x.shape[2:])
    return t.apply("reduce_scatter", (x,), shape, x.dtype)


def receive(t: Tape, shape: Shape) -> Tensor:
    """Hidden states of the stage before, whose gradient is sent back to it."""
    arrived = t.tensor(shape, t.setting.hidden_dtype)
    return scatter_sequence(
        t, Tensor(t, arrived.storage, shape, arrived.dtype, t.new_edge())
    )
