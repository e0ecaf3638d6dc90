"""A step of DeepSpeed's ZeRO engine on the tape: buckets, partitions, live weights.

Sources: DeepSpeed 0.19, `runtime/zero/stage_1_and_2.py`, `stage3.py`,
`partitioned_param_coordinator.py` and `config.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from memplan.formulas.allocator import block_bytes
from memplan.formulas.gathering import GATHERED, Layer, NoGathering
from memplan.formulas.ledger import gradients, partition
from memplan.formulas.parameters import Parameter
from memplan.formulas.sharding import item_bytes, total_elements, trained
from memplan.formulas.tape import Tape
from memplan.formulas.trace import Totals

if TYPE_CHECKING:
    from memplan.formulas.deepspeed import DeepSpeed

REDUCE_BUCKET_ELEMENTS = 500_000_000
"""reduce_bucket_size: gradients are copied into a buffer of so many elements."""
PERSISTENT_ELEMENTS = 100_000
"""stage3_param_persistence_threshold: smaller parameters are never partitioned away."""
MAX_LIVE_ELEMENTS = 1_000_000_000
"""stage3_max_live_parameters: no more weights are gathered ahead."""

BUCKET = "bucket that gradients are copied into"
COPY = "the reduction of a full bucket"
"""What the bytes are, to a reader."""


@dataclass(slots=True)
class Bucket:
    """Gradients on their way to be reduced; a full bucket is copied once more."""

    item_bytes: int = 2
    filled: int = 0
    """Elements in it."""
    arrivals: list[tuple[int, int]] = field(default_factory=list)
    """Gradients of one layer in their order: bytes, and the level of the tape."""
    groups: list[tuple[int, int]] = field(default_factory=list)
    """Layers within it that are being traced: arrivals before them, and their level."""

    def enter_group(self, level: int) -> None:
        """Equal layers within the layer follow, the last one of which is traced."""
        self.groups.append((len(self.arrivals), level))

    def leave_group(self, level: int, count: int) -> None:
        """Let the gradients of all `count` of them arrive, at the levels they would."""
        start, first_level = self.groups.pop()
        left_bytes = (level - first_level) // count
        traced = self.arrivals[start:]
        self.arrivals[start:] = [
            (size_bytes, first_level + number * left_bytes + own_level)
            for number in range(count)
            for size_bytes, own_level in traced
        ]

    def fill(self, size_bytes: int) -> int:
        """Bytes of the copy, where a gradient finds no room left."""
        elements, copied = size_bytes // self.item_bytes, 0
        if self.filled + elements > REDUCE_BUCKET_ELEMENTS:
            copied, self.filled = self.filled, 0
        self.filled += elements
        return block_bytes(copied * self.item_bytes)

    def fill_layer(self) -> tuple[int, int]:
        """The highest level, copies included, and the bytes of the last copy."""
        highest = last = 0
        for size_bytes, level in self.arrivals:
            copied_bytes = self.fill(size_bytes)
            if copied_bytes:
                highest, last = max(highest, level + copied_bytes), copied_bytes
        return highest, last


@dataclass(kw_only=True, slots=True)
class Stage1And2(NoGathering):
    """The bucket of a backward pass, and gradients that leave through it.

    Stage 2 copies each gradient into the bucket as it comes. What this rank owns of a
    full bucket goes on into its partition, which the rank that owns the last layers is
    the first to need. Stage 1 keeps all gradients until the backward pass is done, and
    then does the same.
    """

    sharder: "DeepSpeed"
    gradients_exist: bool
    keeps_gradients: bool
    is_even = False  # a full bucket stands beside one layer, not beside the next
    parameters: dict[str, Parameter] = field(default_factory=dict)
    bucket: Bucket = field(default_factory=Bucket)
    bucket_bytes: int = 0
    has_partition: bool = False
    in_layers: bool = False
    beside: list[int] | None = None
    """Bytes beside each of the layers that are being counted."""

    def use_weight(self, tape: Tape, parameter: Parameter) -> None:
        """Stage 1 keeps its bucket from one micro-batch to the next."""
        self.parameters[parameter.name] = parameter
        if self.gradients_exist and self.sharder.stage == 1:
            self._make_bucket(tape)

    def leave_layers(self, tape: Tape, layer: Layer, count: int) -> None:
        """A group of layers has them all, and says so last."""
        for p in layer.parameters:
            self.parameters[p.name] = replace(p, count=p.count * count)

    def enter_layers_backward(self, tape: Tape, layer: Layer, count: int) -> None:
        if layer.is_nested:
            self.bucket.enter_group(tape.live.block_bytes)
            return
        if trained(layer.parameters):
            self._make_bucket(tape)
        self.in_layers, self.bucket.arrivals, self.beside = True, [], None

    def receive_gradient(self, tape: Tape, parameter: Parameter) -> None:
        """The first one makes the bucket."""
        size_bytes = gradient_bytes(parameter)
        if self.in_layers:
            self.bucket.arrivals.append((size_bytes, tape.live.block_bytes))
            return
        self._make_bucket(tape)
        if self.sharder.stage == 2:
            copied_bytes = self.bucket.fill(size_bytes)
            if copied_bytes:
                tape.note(copied_bytes, COPY)
                self._hold_partition(tape)

    def beside_backward(
        self, layer: Layer, index: int, count: int, peak_bytes: int
    ) -> int:
        """The partition once there is one; a full bucket's copy where it falls."""
        if self.sharder.stage == 1 or layer.is_nested:
            return 0
        if self.beside is None:
            self.beside = self._count_layers(count, peak_bytes)
        return self.beside[index]

    def _count_layers(self, count: int, peak_bytes: int) -> list[int]:
        """The last layer first."""
        partition = 0 if self.has_partition else self._partition_bytes()
        beside = [0] * count
        held = 0
        for index in reversed(range(count)):
            highest, copied_bytes = self.bucket.fill_layer()
            beside[index] = held + max(0, highest - peak_bytes)
            if copied_bytes:
                held = partition
                beside[index] = max(beside[index], held)
        return beside

    def leave_layers_backward(self, tape: Tape, layer: Layer, count: int) -> None:
        if layer.is_nested:
            self.bucket.leave_group(tape.live.block_bytes, count)
            return
        self.in_layers = False
        if self.beside is not None and max(self.beside):
            self._hold_partition(tape)

    def end_backward(self, tape: Tape) -> None:
        """Stage 1 reduces all its gradients now; the bucket is freed."""
        if self.sharder.stage == 1:
            whole = [
                (p.name, gradient_bytes(p), p.count)
                for p in trained(list(self.parameters.values()))
                if p.name in tape.received
            ]
            blocks = sum(block_bytes(size) * count for _, size, count in whole)
            beyond = self._partition_bytes() - min(blocks, self.bucket_bytes)
            tape.note(max(0, beyond), COPY)
            held = Totals(blocks, 0, 0, sum(size * count for _, size, count in whole))
            if tape.ledger is not None:
                held.items = gradients(whole)
            tape.live = tape.live.plus(held, -1)
        else:
            tape.note(self.bucket.filled * self.bucket.item_bytes, COPY)
        self._hold_partition(tape)
        tape.grow(-self.bucket_bytes, BUCKET)

    def _make_bucket(self, tape: Tape) -> None:
        some = trained(list(self.parameters.values()))
        if self.bucket_bytes or not some:
            return
        self.bucket.item_bytes = item_bytes(some[0])
        self.bucket_bytes = block_bytes(REDUCE_BUCKET_ELEMENTS * item_bytes(some[0]))
        tape.grow(self.bucket_bytes, BUCKET)

    def _hold_partition(self, tape: Tape) -> None:
        if self.has_partition:
            return
        own, whole = self._own_bytes(), self._partition_bytes()
        held = Totals(block_bytes(whole), 0, whole - own, own)
        if tape.ledger is not None:
            held.items = partition(own, whole)
        tape.live = tape.live.plus(held)
        tape.note()
        self.has_partition = True

    def _own_bytes(self) -> int:
        parameters = list(self.parameters.values())
        return sum(size for size, _ in self.sharder.gradients(parameters))

    def _partition_bytes(self) -> int:
        """Gradients that the partition's borders cut are kept whole."""
        own = self._own_bytes()
        if not own:
            return 0
        return own + self.sharder.cut_bytes(list(self.parameters.values()))


@dataclass(slots=True)
class Stage3(NoGathering):
    """Weights gathered ahead of their use, as many as may be live at once.

    Before each module runs, a few of the weights that come next are gathered, until
    there are as many as may be live; in the backward pass each is let go after its
    module. So the most that are to come are there, forward and backward. Gradients go
    through a bucket into a partition; both stand still.
    """

    keeps_gradients: bool = False
    is_even = False
    bucket: Bucket = field(default_factory=Bucket)
    outside: set[str] = field(default_factory=set)
    """Weights outside the layers that have been used."""
    first: int = 0
    """Elements of the weight that is used first."""
    largest: int = 0
    """Elements of the largest weight of a layer."""
    used: int = 0
    """Elements of the weights used so far; in the backward pass, of those to come."""
    ends: dict[Layer, int] = field(default_factory=dict)
    """Elements used when layers have run forward."""
    held_bytes: int = 0
    in_layers: bool = False
    copies: list[int] = field(default_factory=list)
    """The highest level of each layer with a copy of the bucket, the last one first."""

    def use_weight(self, tape: Tape, parameter: Parameter) -> None:
        if not is_persistent(parameter) and parameter.name not in self.outside:
            self.outside.add(parameter.name)
            self.bucket.item_bytes = item_bytes(parameter)
            self.first = self.first or parameter.num_elements
            self._hold(tape, self.used + parameter.num_elements)

    def beside_forward(
        self, layer: Layer, index: int, count: int, peak_bytes: int
    ) -> int:
        if layer.is_nested:
            return 0
        self.largest = max((p.num_elements for p in layer.parameters), default=0)
        to_come = self.used + count * _elements(layer)
        return self._live_bytes(to_come) - self.held_bytes

    def leave_layers(self, tape: Tape, layer: Layer, count: int) -> None:
        if not layer.is_nested:
            self._hold(tape, self.used + count * _elements(layer))
            self.ends[layer] = self.used

    def enter_layers_backward(self, tape: Tape, layer: Layer, count: int) -> None:
        """What came after these layers has been let go."""
        if layer.is_nested:
            self.bucket.enter_group(tape.live.block_bytes)
            return
        self._hold(tape, self.ends[layer])
        self.in_layers, self.bucket.arrivals = True, []

    def receive_gradient(self, tape: Tape, parameter: Parameter) -> None:
        size_bytes = gradient_bytes(parameter)
        if self.in_layers:
            self.bucket.arrivals.append((size_bytes, tape.live.block_bytes))
        else:
            tape.note(self.bucket.fill(size_bytes), COPY)

    def beside_backward(
        self, layer: Layer, index: int, count: int, peak_bytes: int
    ) -> int:
        """Fewer weights to come, and a full bucket's copy where it falls.

        Called for the first layers first: the bucket fills the other way round.
        """
        if layer.is_nested:
            return 0
        if index == 0:
            self.copies = [self.bucket.fill_layer()[0] for _ in range(count)]
        to_come = self.ends[layer] - (count - 1 - index) * _elements(layer)
        fewer = self.held_bytes - self._live_bytes(to_come)
        return max(0, self.copies[count - 1 - index] - peak_bytes) - fewer

    def parts_backward(
        self, layer: Layer, index: int, count: int, beside_bytes: int
    ) -> Mapping[str, int]:
        return {GATHERED: beside_bytes}

    def leave_layers_backward(self, tape: Tape, layer: Layer, count: int) -> None:
        if layer.is_nested:
            self.bucket.leave_group(tape.live.block_bytes, count)
            return
        self.in_layers = False
        self._hold(tape, self.ends[layer] - count * _elements(layer))

    def end_backward(self, tape: Tape) -> None:
        tape.note(self.bucket.filled * self.bucket.item_bytes, COPY)
        self._hold(tape, 0)

    def _hold(self, tape: Tape, used: int) -> None:
        self.used = used
        size = self._live_bytes(used)
        tape.grow(size - self.held_bytes, GATHERED)
        self.held_bytes = size

    def _live_bytes(self, to_come: int) -> int:
        """Up to the limit, and past it by up to one weight: by half of the largest."""
        if to_come - self.first > MAX_LIVE_ELEMENTS:
            to_come = min(to_come, MAX_LIVE_ELEMENTS + self.largest // 2)
        return self.bucket.item_bytes * to_come


def _elements(layer: Layer) -> int:
    """Elements that come and go."""
    some = [p for p in layer.parameters if not is_persistent(p)]
    return total_elements(some)


def gradient_bytes(parameter: Parameter) -> int:
    """Bytes of one gradient, as autograd makes it."""
    return parameter.num_elements * item_bytes(parameter)


def is_persistent(parameter: Parameter) -> bool:
    """Whether stage 3 keeps it whole on every rank."""
    return parameter.num_elements <= PERSISTENT_ELEMENTS
