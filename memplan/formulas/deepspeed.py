"""DeepSpeed's ZeRO engine, stages 1 to 3, with its own defaults.

Sources: DeepSpeed 0.19, `runtime/zero/stage_1_and_2.py`, `stage3.py`,
`partitioned_param_coordinator.py` and `config.py`. The engine holds weights and
gradients in low precision, without autocast, and an fp32 copy of the partition that
this rank updates. Partitions are flat: parameters are cut anywhere. What moves during
a step is in `deepspeed_step`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memplan.formulas.deepspeed_prefetch import is_persistent
from memplan.formulas.deepspeed_step import (
    REDUCE_BUCKET_ELEMENTS,
    Bucket,
    Stage1And2,
    Stage3,
    gradient_bytes,
)
from memplan.formulas.gathering import Gathering
from memplan.formulas.parameters import Parameter
from memplan.formulas.sharding import (
    Tensors,
    in_model_order,
    item_bytes,
    total_elements,
    trained,
)
from memplan.units import ceil_div

SUB_GROUP_ELEMENTS = 1_000_000_000
"""sub_group_size: stage 3 steps so many elements of its partition at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepSpeed:
    """Stage 1 partitions optimizer states, 2 gradients too, 3 weights too."""

    num_ranks: int
    stage: int
    offloads_optimizer: bool = False
    offloads_parameters: bool = False
    accumulates: bool = False
    """Several micro-batches a step: the last one finds gradients there."""
    runs_autocast: bool = False
    clones_outputs: bool = False
    keeps_fp32: bool = False

    def gathering(self, gradients_exist: bool) -> Gathering:
        if self.stage == 3:
            return Stage3()
        return Stage1And2(
            sharder=self,
            gradients_exist=gradients_exist,
            keeps_gradients=self.stage == 1,
        )

    def weights(self, parameters: Sequence[Parameter]) -> Tensors:
        """One flat buffer of trained weights; frozen ones by themselves."""
        frozen = [p for p in parameters if not p.stored.is_trainable]
        if self.stage < 3:
            flat = [(sum(size * n for size, n in sizes(trained(parameters))), 1)]
            return flat + sizes(frozen)
        kept = [p for p in parameters if is_persistent(p)]
        if self.offloads_parameters:
            return sizes(kept)
        parts = [(self.part(p) * item_bytes(p), p.count) for p in frozen]
        return [*self._flat(parameters), *parts, *sizes(kept)]

    def gradients(self, parameters: Sequence[Parameter]) -> Tensors:
        """The partition in low precision; offloaded, it leaves as it is made."""
        if self.offloads_optimizer:
            return []
        return self._flat(parameters)

    def left_gradients(
        self, parameters: Sequence[Parameter], gradients_exist: bool
    ) -> Tensors:
        """Stage 3 holds the partition's buffer all the time, stage 1 whole ones."""
        if self.stage == 1:
            return sizes(trained(parameters)) if gradients_exist else []
        if self.stage == 3 or gradients_exist:
            return self.gradients(parameters)
        return []

    def updated(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        """The fp32 partition, one flat tensor for each sub-group."""
        if self.offloads_optimizer:
            return []
        elements = self.partition(parameters)
        size = elements if self.stage < 3 else SUB_GROUP_ELEMENTS
        whole, rest = divmod(elements, size) if size else (0, 0)
        flats = [_flat_tensor(size, whole), _flat_tensor(rest, 1)]
        return [flat for flat in flats if flat.num_elements and flat.count]

    def stepped(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        """One sub-group at a time."""
        return [replace(flat, count=1) for flat in self.updated(parameters)[:1]]

    def masters(self, parameters: Sequence[Parameter]) -> Tensors:
        return [(4 * p.num_elements, p.count) for p in self.updated(parameters)]

    def buffers(self, parameters: Sequence[Parameter]) -> Tensors:
        """Stage 3's bucket; with offload, one gradient on its way to the host."""
        some = trained(parameters)
        if not some:
            return []
        if self.stage == 3:
            return [(REDUCE_BUCKET_ELEMENTS * item_bytes(some[0]), 1)]
        if self.offloads_optimizer:
            return [(max(p.num_elements * item_bytes(p) for p in some), 1)]
        return []

    def step_temporaries(
        self, parameters: Sequence[Parameter], own: Tensors
    ) -> Tensors:
        """Gradients of a partition are joined and copied to fp32, then updated.

        Below stage 3 those in low precision are freed between the two. Before that
        their norm is computed in fp64, tensor by tensor; and before all, once the
        backward pass is done, what is left in the bucket is copied once more
        (`independent_gradient_partition_epilogue`).
        """
        if self.offloads_optimizer or not trained(parameters):
            return []
        fp32 = [(4 * p.num_elements, 1) for p in self.stepped(parameters)]
        norm = [(8 * self._largest_part(parameters), 1)]
        if self.stage == 3:
            joined = [(size // 2, n) for size, n in fp32]
            last = [(self._left_in_bucket(parameters), 1)]
            return _highest(last, norm, [*joined, *fp32], [*fp32, *own])
        low = self._flat(parameters)
        cut = [(self.cut_bytes(parameters), 1)]
        freed = [(size, -n) for size, n in low]
        candidates = [[*cut, *norm], [*cut, *low, *fp32], [*fp32, *own, *freed]]
        if self.stage == 2:
            candidates.append(self._last_reduction(parameters))
        return _highest(*candidates)

    def assumptions(self) -> tuple[str, ...]:
        return (
            "DeepSpeed's own defaults: buckets of 5e8 elements (where its "
            "configuration says auto, the Trainer takes hidden_size squared), at stage "
            "3 up to 1e9 live weights",
        )

    def unsupported(self, parameters: Sequence[Parameter]) -> tuple[str, ...]:
        if any(p.stored.is_quantized for p in parameters):
            return ("quantized weights under DeepSpeed, which are counted as stored",)
        return ()

    def partition(self, parameters: Sequence[Parameter]) -> int:
        """Elements that this rank updates."""
        if self.stage == 3:
            return sum(self.part(p) * p.count for p in trained(parameters))
        return ceil_div(total_elements(trained(parameters)), self.num_ranks)

    def part(self, parameter: Parameter) -> int:
        """Elements of this rank's part of one parameter at stage 3."""
        return ceil_div(parameter.num_elements, self.num_ranks)

    def cut_bytes(self, parameters: Sequence[Parameter]) -> int:
        """What the gradients at a partition's borders have outside of it."""
        some = trained(parameters)
        size = self.partition(parameters)
        start, held = 0, [0] * self.num_ranks
        for p in in_model_order(some):
            end = start + p.num_elements
            for rank in range(start // size, (end - 1) // size + 1):
                held[rank] += p.num_elements
            start = end
        return (max(held) - size) * item_bytes(some[0])

    def _last_reduction(self, parameters: Sequence[Parameter]) -> Tensors:
        """The bucket with a copy beside the partition, which the first copy makes."""
        some = trained(parameters)
        copied, cut = self._left_in_bucket(parameters), self.cut_bytes(parameters)
        is_first = total_elements(some) <= REDUCE_BUCKET_ELEMENTS
        if is_first and not self.accumulates:
            own = self.partition(parameters) * item_bytes(some[0])
            beside = [(max(cut, copied - own), 1)]
        else:
            beside = [(cut, 1), (copied, 1)]
        return [(REDUCE_BUCKET_ELEMENTS * item_bytes(some[0]), 1), *beside]

    def _left_in_bucket(self, parameters: Sequence[Parameter]) -> int:
        """Bytes of the gradients that came since the bucket was full last."""
        some = trained(parameters)
        bucket = Bucket(item_bytes(some[0]))
        for parameter in reversed(list(in_model_order(some))):
            bucket.fill(gradient_bytes(parameter))
        return bucket.filled * bucket.item_bytes

    def _largest_part(self, parameters: Sequence[Parameter]) -> int:
        """Elements of the largest gradient in the partition."""
        largest = max(p.num_elements for p in trained(parameters))
        if self.stage == 3:
            return ceil_div(largest, self.num_ranks)
        return min(largest, self.partition(parameters))

    def _flat(self, parameters: Sequence[Parameter]) -> Tensors:
        some = trained(parameters)
        if not some:
            return []
        return [(self.partition(parameters) * item_bytes(some[0]), 1)]


def sizes(parameters: Sequence[Parameter]) -> Tensors:
    """Bytes of whole parameters, as the engine stores them."""
    return [(p.stored.num_bytes, p.count) for p in parameters]


def _flat_tensor(num_elements: int, count: int) -> Parameter:
    from memplan.formulas.parameters import Stored

    stored = Stored("fp32", True, 4 * num_elements)
    return Parameter("partition", (num_elements,), count, stored)


def _highest(*candidates: Tensors) -> Tensors:
    return max(candidates, key=lambda tensors: sum(s * n for s, n in tensors))
