"""A step of DeepSpeed's ZeRO engine on the tape: buckets, partitions, live weights.

Sources: DeepSpeed 0.19, `runtime/zero/stage_1_and_2.py`, `stage3.py`,
`partitioned_param_coordinator.py` and `config.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from memplan.formulas.allocator import block_bytes
from memplan.formulas.deepspeed_prefetch import Recorder, Run, Schedule, schedule_of
from memplan.formulas.gathering import GATHERED, Layer, NoGathering
from memplan.formulas.ledger import gradients, partition
from memplan.formulas.parameters import Parameter
from memplan.formulas.sharding import item_bytes, trained
from memplan.formulas.tape import Tape
from memplan.formulas.trace import Totals

if TYPE_CHECKING:
    from memplan.formulas.deepspeed import DeepSpeed

REDUCE_BUCKET_ELEMENTS = 500_000_000
"""reduce_bucket_size: gradients are copied into a buffer of so many elements."""

BUCKET = "bucket that gradients are copied into"
COPY = "the reduction of a full bucket"
"""What the bytes are, to a reader."""


@dataclass(slots=True)
class Bucket:
    """Gradients on their way to be reduced; a full bucket is copied once more."""

    item_bytes: int = 2
    filled: int = 0
    """Elements in it."""
    arrivals: list[tuple[int, int, int]] = field(default_factory=list)
    """Gradients of one layer in their order: bytes, the level of the tape, and the
    highest in that layer so far."""
    groups: list[tuple[int, int, int]] = field(default_factory=list)
    """Layers within it that are being traced: arrivals before them, the level there,
    and the highest until there."""

    def enter_group(self, level: int, highest: int) -> None:
        """Equal layers within the layer follow, the last one of which is traced."""
        self.groups.append((len(self.arrivals), level, highest))

    def leave_group(self, level: int, highest: int, count: int) -> None:
        """Let the gradients of all `count` of them arrive, at the levels they would."""
        start, first_level, first_highest = self.groups.pop()
        left_bytes = (level - first_level) // count
        traced = self.arrivals[start:]
        self.arrivals[start:] = [
            (size_bytes, first_level + own_level, max(first_highest, first_level + own))
            for size_bytes, own_level, own in traced
        ] + [
            (size_bytes, first_level + number * left_bytes + own_level, highest)
            for number in range(1, count)
            for size_bytes, own_level, _ in traced
        ]

    def arrive(self, tape: Tape, parameter: Parameter) -> None:
        """The layer that is being traced makes a gradient."""
        level, highest = tape.live.block_bytes, tape.peak.at.block_bytes
        self.arrivals.append((gradient_bytes(parameter), level, highest))

    def fill(self, size_bytes: int) -> int:
        """Bytes of the copy, where a gradient finds no room left."""
        elements, copied = size_bytes // self.item_bytes, 0
        if self.filled + elements > REDUCE_BUCKET_ELEMENTS:
            copied, self.filled = self.filled, 0
        self.filled += elements
        return block_bytes(copied * self.item_bytes)

    def fill_layer(self) -> tuple[int, int]:
        """The highest level, copies included, and which gradient is the first copied.

        Without a copy, 0 and -1.
        """
        highest, first = 0, -1
        for number, (size_bytes, level, _) in enumerate(self.arrivals):
            copied_bytes = self.fill(size_bytes)
            if copied_bytes:
                highest = max(highest, level + copied_bytes)
                first = number if first < 0 else first
        return highest, first

    def above(self, peak_bytes: int, number: int, size_bytes: int) -> int:
        """What `size_bytes` that are there from a gradient on add to a layer's peak."""
        *_, highest_before = self.arrivals[number]
        if highest_before < peak_bytes:
            return size_bytes
        later = max(level for _, level, _ in self.arrivals[number:])
        return max(0, later + size_bytes - peak_bytes)


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
    fills: bool = False
    """A bucket has been full while they went backward."""

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
            self.bucket.enter_group(tape.live.block_bytes, tape.peak.at.block_bytes)
            return
        self.in_layers, self.bucket.arrivals, self.beside = True, [], None

    def receive_gradient(self, tape: Tape, parameter: Parameter) -> None:
        """The first one makes the bucket."""
        if self.in_layers:
            self.bucket.arrive(tape, parameter)
            return
        self._make_bucket(tape)
        if self.sharder.stage == 2:
            copied_bytes = self.bucket.fill(gradient_bytes(parameter))
            if copied_bytes:
                tape.note(copied_bytes, COPY)
                self._hold_partition(tape)

    def beside_backward(
        self, layer: Layer, index: int, count: int, peak_bytes: int
    ) -> int:
        """The bucket and the partition, once there are; a full bucket's copy."""
        if layer.is_nested:
            return 0
        if self.beside is None:
            self.beside = self._count_layers(count, peak_bytes)
        return self.beside[index]

    def parts_backward(
        self, layer: Layer, index: int, count: int, beside_bytes: int
    ) -> Mapping[str, int]:
        made_bytes = min(beside_bytes, self._bytes_to_make())
        return {BUCKET: made_bytes, COPY: beside_bytes - made_bytes}

    def _count_layers(self, count: int, peak_bytes: int) -> list[int]:
        """The last layer first. Its first gradient makes the bucket, the first of a
        full bucket makes the partition: what came before stands beside neither."""
        bucket, beside = self.bucket, [0] * count
        held = made_bytes = self._bytes_to_make()
        partition = 0 if self.has_partition else self._partition_bytes()
        for index in reversed(range(count)):
            beside[index] = held
            if made_bytes and index == count - 1:
                beside[index] = bucket.above(peak_bytes, 0, made_bytes)
            if self.sharder.stage == 1:
                continue
            highest, number = bucket.fill_layer()
            if number >= 0:
                beside[index] = max(
                    beside[index],
                    held + highest - peak_bytes,
                    held + bucket.above(peak_bytes, number, partition),
                )
                held, partition = held + partition, 0
        self.fills = held > made_bytes
        return beside

    def leave_layers_backward(self, tape: Tape, layer: Layer, count: int) -> None:
        if layer.is_nested:
            level, highest = tape.live.block_bytes, tape.peak.at.block_bytes
            self.bucket.leave_group(level, highest, count)
            return
        if self.bucket.arrivals:
            self._make_bucket(tape)
        self.in_layers = False
        if self.fills:
            self._hold_partition(tape)

    def end_backward(self, tape: Tape) -> None:
        """Stage 1 reduces all its gradients now, and frees the bucket.

        Stage 2 reduces what is left in its own before the optimizer steps.
        """
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
            self._hold_partition(tape)
            tape.grow(-self.bucket_bytes, BUCKET)

    def _make_bucket(self, tape: Tape) -> None:
        size_bytes = self._bytes_to_make()
        tape.grow(size_bytes, BUCKET)
        self.bucket_bytes += size_bytes

    def _bytes_to_make(self) -> int:
        """Of the bucket, while it is not there and there is something to go in."""
        some = trained(list(self.parameters.values()))
        if (
            self.bucket_bytes
            or not some
            or (self.in_layers and not self.bucket.arrivals)
        ):
            return 0
        self.bucket.item_bytes = item_bytes(some[0])
        return block_bytes(REDUCE_BUCKET_ELEMENTS * self.bucket.item_bytes)

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
    """Weights gathered ahead of their use, as `deepspeed_prefetch` plays it.

    Gradients go through a bucket into a partition; both stand still.
    """

    keeps_gradients: bool = False
    is_even = False
    recorder: Recorder = field(default_factory=Recorder)
    """Of an earlier step."""
    schedule: Schedule | None = None
    position: int = 0
    """Runs of the schedule that have gone forward, and not yet backward."""
    bucket: Bucket = field(default_factory=Bucket)
    held_bytes: int = 0
    in_layers: bool = False
    copies: list[int] = field(default_factory=list)
    """The highest level of each layer with a copy of the bucket, the last one first."""

    def use_weight(self, tape: Tape, parameter: Parameter) -> None:
        run = self._runs(tape)[self.position]
        self.position += 1
        if run.forward:
            self.bucket.item_bytes = item_bytes(parameter)
            self._hold(tape, run.forward[0])

    def enter_layers(self, tape: Tape, layer: Layer, count: int) -> None:
        if not layer.is_nested and layer.parameters:
            self._runs(tape)
            self.bucket.item_bytes = item_bytes(layer.parameters[0])

    def beside_forward(
        self, layer: Layer, index: int, count: int, peak_bytes: int
    ) -> int:
        if layer.is_nested:
            return 0
        return self._beside(self._run().forward[index])

    def leave_layers(self, tape: Tape, layer: Layer, count: int) -> None:
        if not layer.is_nested:
            self._hold(tape, self._run().forward[-1][-1:])
            self.position += 1

    def begin_backward(self, tape: Tape) -> None:
        self._hold_next(tape)

    def enter_layers_backward(self, tape: Tape, layer: Layer, count: int) -> None:
        """What came after these layers has been let go."""
        if layer.is_nested:
            self.bucket.enter_group(tape.live.block_bytes, tape.peak.at.block_bytes)
            return
        self.position -= 1
        while self._run().what != layer:
            self.position -= 1
        self._hold(tape, self._run().backward_calls[-1][:1])
        self.in_layers, self.bucket.arrivals = True, []

    def receive_gradient(self, tape: Tape, parameter: Parameter) -> None:
        if self.in_layers:
            self.bucket.arrive(tape, parameter)
        else:
            tape.note(self.bucket.fill(gradient_bytes(parameter)), COPY)

    def beside_backward(
        self, layer: Layer, index: int, count: int, peak_bytes: int
    ) -> int:
        """Weights there, and a full bucket's copy where it falls.

        Called for the first layers first: the bucket fills the other way round.
        """
        if layer.is_nested:
            return 0
        if index == 0:
            self.copies = [self.bucket.fill_layer()[0] for _ in range(count)]
        copied_bytes = max(0, self.copies[count - 1 - index] - peak_bytes)
        return copied_bytes + self._beside(self._run().backward_calls[index])

    def parts_backward(
        self, layer: Layer, index: int, count: int, beside_bytes: int
    ) -> Mapping[str, int]:
        return {GATHERED: beside_bytes}

    def leave_layers_backward(self, tape: Tape, layer: Layer, count: int) -> None:
        if layer.is_nested:
            level, highest = tape.live.block_bytes, tape.peak.at.block_bytes
            self.bucket.leave_group(level, highest, count)
            return
        self.in_layers = False
        self._hold_next(tape)

    def end_backward(self, tape: Tape) -> None:
        tape.grow(-self.held_bytes, GATHERED)
        self.held_bytes = 0

    def _runs(self, tape: Tape) -> list[Run]:
        if self.schedule is None:
            setting = tape.setting
            recomputes = setting.checkpointing != "none" and (
                setting.checkpoint_every == 1
            )
            self.schedule = schedule_of(tuple(self.recorder.order), recomputes)
        return self.schedule.runs

    def _run(self) -> Run:
        assert self.schedule is not None
        return self.schedule.runs[self.position]

    def _hold_next(self, tape: Tape) -> None:
        """What is there when the run before goes backward."""
        assert self.schedule is not None
        for run in reversed(self.schedule.runs[: self.position]):
            if run.backward:
                return self._hold(tape, run.backward[-1][:1])

    def _hold(self, tape: Tape, calls: Sequence[int]) -> None:
        beside_bytes = self._beside(calls)
        tape.grow(beside_bytes, GATHERED)
        self.held_bytes += beside_bytes

    def _beside(self, calls: Sequence[int]) -> int:
        """Bytes beyond those that are held; modules without weights change nothing."""
        assert self.schedule is not None
        if not calls:
            return 0
        return self.bucket.item_bytes * self.schedule.at(calls) - self.held_bytes


def gradient_bytes(parameter: Parameter) -> int:
    """Bytes of one gradient, as autograd makes it."""
    return parameter.num_elements * item_bytes(parameter)
