"""DistributedDataParallel, alone or with a ZeroRedundancyOptimizer: no weight sharded.

Sources: `torch/nn/parallel/distributed.py`, `torch/csrc/distributed/c10d/reducer.cpp`
and `torch/distributed/optim/zero_redundancy_optimizer.py` (2.14). The Trainer leaves
`gradient_as_bucket_view` at False and looks for unused parameters unless layers are
checkpointed (`trainer.py`, 5.23).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heapreplace

from memplan.formulas.gathering import Gathering, NoGathering
from memplan.formulas.parameters import Parameter
from memplan.formulas.sharding import (
    Tensors,
    in_model_order,
    item_bytes,
    total_elements,
    trained,
)
from memplan.units import MiB

FIRST_BUCKET_BYTES = 1 * MiB
BUCKET_BYTES = 25 * MiB


@dataclass(frozen=True, kw_only=True, slots=True)
class Ddp:
    """Every rank holds everything; one rank alone holds no buckets either."""

    num_ranks: int
    runs_autocast: bool = True
    keeps_fp32: bool = True

    @property
    def clones_outputs(self) -> bool:
        """As the Trainer sets DDP up for layers that are not checkpointed."""
        return self.num_ranks > 1

    def gathering(self, gradients_exist: bool) -> Gathering:
        return NoGathering()

    def weights(self, parameters: Sequence[Parameter]) -> Tensors:
        return [(p.stored.num_bytes, p.count) for p in parameters]

    def gradients(self, parameters: Sequence[Parameter]) -> Tensors:
        return self.weights(trained(parameters))

    def left_gradients(
        self, parameters: Sequence[Parameter], gradients_exist: bool
    ) -> Tensors:
        return self.gradients(parameters) if gradients_exist else []

    def updated(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        return trained(parameters)

    def masters(self, parameters: Sequence[Parameter]) -> Tensors:
        return []

    def buffers(self, parameters: Sequence[Parameter]) -> Tensors:
        """Buckets that gradients are copied into, as many bytes again.

        The reducer allocates them when the model is wrapped, and again, in the order
        in which gradients came, after a first step that did not look for unused ones.
        Weights that the loss does not depend on have a place in them too.
        """
        if self.num_ranks == 1:
            return []
        some = [p for p in parameters if p.stored.is_trainable]
        return [(size_bytes, 1) for size_bytes in bucket_bytes(some)]

    def stepped(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        return self.updated(parameters)

    def step_temporaries(
        self, parameters: Sequence[Parameter], own: Tensors
    ) -> Tensors:
        return own

    def assumptions(self) -> tuple[str, ...]:
        return ()

    def unsupported(self, parameters: Sequence[Parameter]) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroRedundancy:
    """DDP whose ranks each update a share of the tensors: ZeRO stage 1 in torch.

    Tensors stay whole. They go, the largest first, to the rank that has least so far
    (`_partition_parameters`); the most loaded rank is the one reported.
    """

    num_ranks: int
    update_bytes: Callable[[list[Parameter]], int] = total_elements
    """What it takes to update some tensors. Of ranks with equally many elements, one
    can need more: for an embedding with fp32 states among 8-bit ones, or a large tensor
    that is updated by itself."""
    runs_autocast: bool = True
    keeps_fp32: bool = True

    @property
    def _replicated(self) -> Ddp:
        return Ddp(num_ranks=self.num_ranks)

    @property
    def clones_outputs(self) -> bool:
        """As the Trainer sets DDP up for layers that are not checkpointed."""
        return self.num_ranks > 1

    def gathering(self, gradients_exist: bool) -> Gathering:
        return NoGathering()

    def weights(self, parameters: Sequence[Parameter]) -> Tensors:
        return self._replicated.weights(parameters)

    def gradients(self, parameters: Sequence[Parameter]) -> Tensors:
        return self._replicated.gradients(parameters)

    def left_gradients(
        self, parameters: Sequence[Parameter], gradients_exist: bool
    ) -> Tensors:
        return self._replicated.left_gradients(parameters, gradients_exist)

    def updated(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        return largest_share(trained(parameters), self.num_ranks, self.update_bytes)

    def masters(self, parameters: Sequence[Parameter]) -> Tensors:
        return []

    def buffers(self, parameters: Sequence[Parameter]) -> Tensors:
        return self._replicated.buffers(parameters)

    def stepped(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        """One after the other as they were dealt out: the largest first."""
        return [
            one
            for p in self.updated(parameters)
            for one in [replace(p, count=1)] * p.count
        ]

    def step_temporaries(
        self, parameters: Sequence[Parameter], own: Tensors
    ) -> Tensors:
        return own

    def assumptions(self) -> tuple[str, ...]:
        return (
            "stage 1 is DDP with torch's ZeroRedundancyOptimizer, which deals out "
            "whole tensors",
        )

    def unsupported(self, parameters: Sequence[Parameter]) -> tuple[str, ...]:
        return ()


def bucket_bytes(parameters: Sequence[Parameter]) -> Iterator[int]:
    """Sizes of DDP's buckets, filled in the order of the model.

    A bucket closes once it has reached its limit (`compute_bucket_assignment_by_size`),
    so it may be larger by one gradient; each dtype fills its own.
    """
    filled: dict[str, int] = {}
    limits: dict[str, int] = {}
    for parameter in in_model_order(parameters):
        dtype = parameter.stored.dtype
        size = filled.get(dtype, 0) + parameter.num_elements * item_bytes(parameter)
        if size >= limits.get(dtype, FIRST_BUCKET_BYTES):
            yield size
            size, limits[dtype] = 0, BUCKET_BYTES
        filled[dtype] = size
    yield from (size for size in filled.values() if size)


def largest_share(
    parameters: Sequence[Parameter],
    num_ranks: int,
    update_bytes: Callable[[list[Parameter]], int] = total_elements,
) -> list[Parameter]:
    """The tensors of the rank that needs most to update its own, the largest first."""
    num_ranks = max(min(num_ranks, sum(p.count for p in parameters)), 1)
    loads = [(0, rank) for rank in range(num_ranks)]
    heapify(loads)
    owned: list[dict[int, int]] = [{} for _ in range(num_ranks)]
    order = sorted(
        range(len(parameters)), key=lambda i: parameters[i].num_elements, reverse=True
    )
    for index in order:
        num_elements = parameters[index].num_elements
        for _ in range(parameters[index].count):
            load, rank = loads[0]
            heapreplace(loads, (load + num_elements, rank))
            owned[rank][index] = owned[rank].get(index, 0) + 1
    shares = [
        [replace(parameters[i], count=count) for i, count in own.items()]
        for own in owned
    ]
    return max(
        reversed(shares),
        key=lambda share: (update_bytes(share), total_elements(share)),
    )
