"""FSDP2 (`fully_shard`) as accelerate wraps a model for the Trainer: ZeRO stages 2, 3.

Sources: `torch/distributed/fsdp/_fully_shard/` (2.14: `_fsdp_param_group.py` for what
is alive when, `_fsdp_collectives.py` for the buffers) and `accelerate/utils/
fsdp_utils.py`, `fsdp2_prepare_model` (1.15).

Units are every layer, the input embedding, the final norm with the head, and one for
the rest; an embedding that the head shares is in its unit, and stays gathered. A unit
is gathered by an all-gather into one flat buffer, from which it is copied out, and its
gradients are copied into one flat buffer that is reduced and scattered. In mixed
precision the shards are fp32; gathered copies, gradients and both buffers are in low
precision, and autocast does not run (`set_mixed_precision`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from memplan.formulas.allocator import SMALL_REQUEST_BYTES, block_bytes
from memplan.formulas.events import Event, Events
from memplan.formulas.gathering import FLAT, GATHERED, REDUCED, Gathering, Layer
from memplan.formulas.ledger import without_gradients
from memplan.formulas.parameters import Parameter
from memplan.formulas.sharding import (
    Tensors,
    chunk_elements,
    item_bytes,
    rows_of,
    trained,
)
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import ITEM_BYTES, Storage
from memplan.formulas.trace import Totals


@dataclass(frozen=True, kw_only=True, slots=True)
class Fsdp2:
    """Parameters, gradients and optimizer states in shards of the first dimension."""

    num_ranks: int
    reshards_after_forward: bool
    """Stage 3; else (stage 2) a gathered layer stays until its backward is done."""
    offloads: bool = False
    """CPUOffloadPolicy: shards, their gradients and states live in host memory."""
    runs_autocast: bool = False
    clones_outputs: bool = False
    keeps_fp32: bool = True

    def gathering(self, gradients_exist: bool) -> Gathering:
        return Fsdp2Gathering(self, gradients_exist)

    def is_sharded(self, parameter: Parameter) -> bool:
        """4-bit weights are left out of sharding (`ignored_params`)."""
        return not parameter.stored.is_quantized

    def weights(self, parameters: Sequence[Parameter]) -> Tensors:
        """Shards, padded to rank 0's size; what is not sharded is whole."""
        whole = [
            (p.stored.num_bytes, p.count) for p in parameters if not self.is_sharded(p)
        ]
        if self.offloads:
            return whole
        return whole + self._shards([p for p in parameters if self.is_sharded(p)])

    def gradients(self, parameters: Sequence[Parameter]) -> Tensors:
        """Shards in the dtype of the weights' own."""
        return [] if self.offloads else self._shards(trained(parameters))

    def left_gradients(
        self, parameters: Sequence[Parameter], gradients_exist: bool
    ) -> Tensors:
        """Whole gradients: the Trainer accumulates without reducing (`no_sync`)."""
        if not gradients_exist:
            return []
        return [(p.num_elements * item_bytes(p), p.count) for p in trained(parameters)]

    def _shards(self, parameters: Sequence[Parameter]) -> Tensors:
        return [
            (chunk_elements(p, self.num_ranks) * kept_item_bytes(p), p.count)
            for p in parameters
        ]

    def updated(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        if self.offloads:
            return []
        return [
            replace(
                p,
                shape=rows_of(p, self.num_ranks),
                stored=replace(p.stored, dtype=p.stored.kept_dtype or p.stored.dtype),
            )
            for p in trained(parameters)
        ]

    def masters(self, parameters: Sequence[Parameter]) -> Tensors:
        return []

    def buffers(self, parameters: Sequence[Parameter]) -> Tensors:
        return []

    def stepped(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        return self.updated(parameters)

    def step_temporaries(
        self, parameters: Sequence[Parameter], own: Tensors
    ) -> Tensors:
        return own

    def assumptions(self) -> tuple[str, ...]:
        policy = "" if self.reshards_after_forward else "not "
        return (
            "FSDP2 as accelerate sets it up: units are the layers, the embedding, and "
            f"the head; {policy}resharded after forward; gathered and reduced in the "
            "precision of the plan",
        )

    def unsupported(self, parameters: Sequence[Parameter]) -> tuple[str, ...]:
        lines = []
        if any(not p.shape for p in parameters):
            lines.append("FSDP2 refuses scalar parameters; they are counted whole")
        if any(p.stored.is_quantized for p in parameters):
            lines.append("FSDP2 with quantized weights, which are counted whole")
        return tuple(lines)


def kept_item_bytes(parameter: Parameter) -> int:
    """Bytes of an element of the weight itself, and of its gradient's shard."""
    return ITEM_BYTES[parameter.stored.kept_dtype or parameter.stored.dtype]


@dataclass(slots=True)
class Fsdp2Gathering:
    """One step of FSDP2 on the tape."""

    sharder: Fsdp2
    gradients_exist: bool
    keeps_gradients: bool = True
    is_even: bool = True
    order: list[Sequence[Parameter]] = field(default_factory=list)
    """Units as they ran forward: backward gathers each from the one after it."""
    units: list[Sequence[Parameter]] = field(default_factory=list)
    """Of these, the ones outside the layers: the input embedding unless the head shares
    it, and parts that the model names."""
    back: list[Sequence[Parameter]] = field(default_factory=list)
    """Of these, the ones that are gathered for backward."""
    with_gradient: set[str] = field(default_factory=set)
    rest: list[Parameter] = field(default_factory=list)
    """Weights outside the layers that stay gathered until the end."""
    tail: list[Parameter] = field(default_factory=list)
    """Those that came since the last layer: the final norm and the head."""
    shared: bool = False
    kept_bytes: int = 0
    """Layers that stay gathered after forward, at stage 2."""
    flat_bytes: int = 0
    """The all-gather's output, which lives until the next unit is copied out."""
    has_nested_units: bool = False
    """Units have been traced in the group of layers that is being traced."""
    before_bytes: int = 0
    """Of that, what the unit before these layers, or before the tail, has left."""
    reduced_bytes: int = 0
    """The last reduce-scatter's input, which lives until the next unit is reduced."""
    last_layer: Sequence[Parameter] = ()
    gradients: dict[str, int] = field(default_factory=dict)
    """Serial numbers of whole gradients, by name of the weight."""

    # What it asks for in the model's stream. All-gathers and what comes of
    # reduce-scatters have streams of their own, and so blocks of their own.

    def around_forward(self, layer: Layer, events: Events) -> Events:
        """Copies are made before the layer, and at stage 3 go after it."""
        if not layer.is_unit:
            return events
        around = Events(self._copies(layer.parameters))
        around += events
        if self.sharder.reshards_after_forward:
            around += self._copies(layer.parameters, are_freed=True)
        return around

    def around_backward(self, layer: Layer, events: Events) -> Events:
        """At stage 3 copies are made anew; its gradients are reduced in the end."""
        if not layer.is_unit:
            return events
        around = Events()
        if self.sharder.reshards_after_forward:
            around += self._copies(layer.parameters)
        around += events
        around += self._reduction(layer.parameters)
        return around

    def keep_gradient(self, name: str, storage: Storage) -> None:
        self.gradients[name] = storage.serial

    def _copies(
        self, unit: Sequence[Parameter], *, are_freed: bool = False
    ) -> Iterator[Event]:
        """Gathered weights, one tensor each."""
        for p in unit:
            size_bytes = self._padded(p) * item_bytes(p)
            if self.sharder.is_sharded(p) and size_bytes > SMALL_REQUEST_BYTES:
                if are_freed:
                    yield p.name, -p.count
                else:
                    yield from [(p.name, size_bytes)] * p.count

    def _reduction(self, unit: Sequence[Parameter]) -> Iterator[Event]:
        """Copies go, and whole gradients once they have been copied into a buffer."""
        yield from self._copies(unit, are_freed=True)
        yield REDUCED, -1
        size_bytes = self._requested(self._reducible(unit))
        if size_bytes > SMALL_REQUEST_BYTES:
            yield REDUCED, size_bytes
        for p in self._reducible(unit):
            if p.name in self.gradients:
                yield self.gradients[p.name], -p.count

    # Forward

    def use_weight(self, tape: Tape, parameter: Parameter) -> None:
        """Gathered into a flat buffer, and copied out of it.

        The tail is gathered as one, beside the flat buffer of the last layer: that is
        let go with the first matrix, the head.
        """
        if not self.sharder.is_sharded(parameter):
            return
        if any(p.name == parameter.name for p in self.tail + self.rest):
            self.shared = True
            return
        for unit in [u for u in self.units if parameter.name in _names(u)]:
            self._forget(unit)
            self.shared = True
        self._gather_weight(tape, parameter)

    def _gather_weight(self, tape: Tape, parameter: Parameter) -> None:
        """One that stays gathered, or that turns out to be in a unit of its own."""
        self.tail.append(parameter)
        flat = self._flat([parameter])
        tape.events += self._copies([parameter])
        tape.grow(self._gathered([parameter]), GATHERED)
        tape.grow(flat, FLAT)
        self.flat_bytes += flat
        if len(parameter.shape) > 1:
            tape.grow(-self.before_bytes, FLAT)
            self.flat_bytes -= self.before_bytes
            self.before_bytes = 0

    def leave_unit(self, tape: Tape, unit: Sequence[Parameter]) -> None:
        """Resharded once it has run, unless it is the head's as well."""
        is_kept = self.shared or any(p.is_tied for p in unit)
        if is_kept or not self.sharder.reshards_after_forward:
            return
        self.units.append(unit)
        self.order.append(unit)
        self.tail = [p for p in self.tail if p.name not in _names(unit)]
        tape.events += self._copies(unit, are_freed=True)
        tape.grow(-self._gathered(unit), GATHERED)

    def enter_layers(self, tape: Tape, layer: Layer, count: int) -> None:
        """Layers that are no units are gathered with the rest, before they run."""
        if layer.is_nested:
            return
        if not layer.is_unit and not self.has_nested_units:
            for parameter in layer.parameters:
                together = replace(parameter, count=parameter.count * count)
                self._gather_weight(tape, together)
            return
        tape.grow(-self.flat_bytes, FLAT)
        self.before_bytes, self.flat_bytes = self.flat_bytes, 0
        self.rest += self.tail
        self.tail = []

    def beside_forward(
        self, layer: Layer, index: int, count: int, peak_bytes: int
    ) -> int:
        """The layer's copies and the flat buffer; at stage 2 the layers before too.

        While they are copied out the flat buffer of the unit before is there as well.
        """
        if not layer.is_unit:
            return 0
        unit = layer.parameters
        num_gathered = 1 if self.sharder.reshards_after_forward else index + 1
        flat = self._flat(unit)
        before = flat if index or layer.is_nested else self.before_bytes
        copying = max(before - peak_bytes, 0)
        return num_gathered * self._gathered(unit) + flat + copying

    def parts_forward(
        self, layer: Layer, index: int, beside_bytes: int
    ) -> Mapping[str, int]:
        if not layer.is_unit:
            return {}
        num_gathered = 1 if self.sharder.reshards_after_forward else index + 1
        gathered = num_gathered * self._gathered(layer.parameters)
        return {GATHERED: gathered, FLAT: beside_bytes - gathered}

    def leave_layers(self, tape: Tape, layer: Layer, count: int) -> None:
        if not layer.is_unit and not self.has_nested_units:
            return
        self.has_nested_units = layer.is_nested
        if layer.is_unit:
            if not self.sharder.reshards_after_forward:
                self._keep(tape, layer, count)
            self.last_layer = layer.parameters
            self.order.append(layer.parameters)
        if not layer.is_nested:
            self.before_bytes = self.flat_bytes = self._flat(self.last_layer)
            tape.grow(self.flat_bytes, FLAT)

    def end_forward(self, tape: Tape) -> None:
        """The root frees the last flat buffer."""
        tape.grow(-self.flat_bytes, FLAT)
        self.flat_bytes = 0

    # Backward

    def begin_backward(self, tape: Tape) -> None:
        return

    def leave_loss(self, tape: Tape) -> None:
        """The head gathers the layer before it in advance."""
        self._prefetch(tape, self.last_layer)

    def enter_layers_backward(self, tape: Tape, layer: Layer, count: int) -> None:
        if not layer.is_nested:
            tape.grow(-self.flat_bytes, FLAT)
            self.flat_bytes = 0
            if self.tail and not self.shared:
                self._reduce_unit(tape, self.tail)
                self.tail = []
        if layer.is_unit and not self.sharder.reshards_after_forward:
            self._keep(tape, layer, -count)

    def receive_gradient(self, tape: Tape, parameter: Parameter) -> None:
        """A unit outside the layers is reduced with its last gradient.

        The input embedding waits until the end: no gradient goes on from it.
        """
        self.with_gradient.add(parameter.name)
        for unit in self.units:
            if len(unit) > 1 and parameter.name in _names(unit):
                self._gather(tape, unit)
                if len(self._reducible(unit)) == len(trained(unit)):
                    self._reduce_unit(tape, unit)
                    self._forget(unit)
                return

    def beside_backward(
        self, layer: Layer, index: int, count: int, peak_bytes: int
    ) -> int:
        """The layer's copies, the one before it in flight, the one after it reducing.

        At stage 2 all layers up to this one are still gathered.
        """
        if not layer.is_unit:
            return 0
        unit = layer.parameters
        is_first = not index and not layer.is_nested
        own, before = self._gathered(unit), self._before(unit) if is_first else unit
        if self.sharder.reshards_after_forward:
            beside = own + self._flat(before)
        else:
            beside = own * (index + 1)
        if index == count - 1 and not layer.is_nested:
            return beside  # What reduces is on the tape.
        return beside + self._reduced(unit) - self.reduced_bytes

    def parts_backward(
        self, layer: Layer, index: int, count: int, beside_bytes: int
    ) -> Mapping[str, int]:
        if not layer.is_unit:
            return {}
        is_resharded = self.sharder.reshards_after_forward
        gathered = self._gathered(layer.parameters) * (1 if is_resharded else index + 1)
        reduced = 0
        if index < count - 1 or layer.is_nested:
            reduced = self._reduced(layer.parameters) - self.reduced_bytes
        flat = beside_bytes - gathered - reduced
        return {GATHERED: gathered, FLAT: flat, REDUCED: reduced}

    def reduced(self, leaves: Totals, layer: Layer) -> Totals:
        """Whole gradients go, shards in the weights' own dtype stay."""
        return self._reduce(leaves, layer.parameters) if layer.is_unit else leaves

    def leave_layers_backward(self, tape: Tape, layer: Layer, count: int) -> None:
        """The embedding is gathered as soon as it may come next."""
        if layer.is_nested:
            return
        first: Sequence[Parameter] = layer.parameters
        if not layer.is_unit:
            groups = [u for u in self.order if _names(u) <= _names(first)]
            first = groups[0] if groups else ()
        self._hold_reduced(tape, self._reduced(first))
        before = self._before(first)
        self._prefetch(tape, before)
        if before in self.units and len(before) == 1:
            self._gather(tape, before)

    def end_backward(self, tape: Tape) -> None:
        """The embedding and the rest are reduced last, from a final callback.

        Autograd's engine still holds the gradient that came last, the embedding's.
        """
        for unit in self.units:
            self._gather(tape, unit)
        self._prefetch(tape, ())
        self.rest += self.tail
        for unit in (*self.units, self.rest):
            if unit:
                tables = [p for p in unit if p.is_embedding]
                held_bytes, _ = self._whole_gradients(tables[:1])
                self._reduce_unit(tape, unit, held_bytes)
        self._hold_reduced(tape, 0)
        tape.events.append((REDUCED, -1))
        tape.grow(-self.kept_bytes, GATHERED)

    def _keep(self, tape: Tape, layer: Layer, count: int) -> None:
        """So many more layers stay gathered; those without backward until its end."""
        size_bytes = count * self._gathered(layer.parameters)
        tape.grow(size_bytes, GATHERED)
        if not layer.is_nested:
            self.kept_bytes += size_bytes

    def _before(self, unit: Sequence[Parameter]) -> Sequence[Parameter]:
        """The unit that ran before this one; none before the first.

        Of a group of layers, traced once, the first time counts.
        """
        index = self.order.index(unit) if unit in self.order else 0
        return self.order[index - 1] if index else ()

    def _prefetch(self, tape: Tape, unit: Sequence[Parameter]) -> None:
        """The flat buffer of the unit that is next in backward."""
        tape.grow(-self.flat_bytes, FLAT)
        is_sharded = self.sharder.reshards_after_forward
        self.flat_bytes = self._flat(unit) if is_sharded else 0
        tape.grow(self.flat_bytes, FLAT)

    def _gather(self, tape: Tape, unit: Sequence[Parameter]) -> None:
        """Gathered once more, for its backward pass; the one before it is next."""
        if unit not in self.back:
            self.back.append(unit)
            tape.events += self._copies(unit)
            tape.grow(self._gathered(unit), GATHERED)
            self._prefetch(tape, self._before(unit))

    def _forget(self, unit: Sequence[Parameter]) -> None:
        """It is no unit outside the layers any more."""
        self.units.remove(unit)
        self.order.remove(unit)

    def _reduce_unit(
        self, tape: Tape, unit: Sequence[Parameter], held_bytes: int = 0
    ) -> None:
        """Free the gathered copies, then reduce and scatter the gradients."""
        tape.events += self._reduction(unit)
        tape.grow(-self._gathered(unit), GATHERED)
        self._hold_reduced(tape, self._reduced(unit))
        tape.live = self._reduce(tape.live, unit)
        output_bytes = self._reduced(unit) // self.sharder.num_ranks
        tape.note(held_bytes + output_bytes, "the reduce-scatter")

    def _reduce(self, level: Totals, unit: Sequence[Parameter]) -> Totals:
        shards = self._shard_bytes(unit)
        whole, whole_blocks = self._whole_gradients(unit)
        return Totals(
            level.block_bytes - whole_blocks + block_bytes(shards),
            level.saved_bytes,
            level.temporary_bytes,
            level.gradient_bytes - whole + shards,
            without_gradients(level.items, self._whole(unit), shards),
        )

    def _hold_reduced(self, tape: Tape, size_bytes: int) -> None:
        """The input of one reduce-scatter is freed when the next is made."""
        tape.grow(-self.reduced_bytes, REDUCED)
        tape.grow(size_bytes, REDUCED)
        self.reduced_bytes = size_bytes

    # Sizes of a unit, in blocks

    def _gathered(self, unit: Sequence[Parameter]) -> int:
        """Copies of the weights, one tensor each."""
        return sum(
            block_bytes(self._padded(p) * item_bytes(p)) * p.count
            for p in unit
            if self.sharder.is_sharded(p)
        )

    def _flat(self, unit: Sequence[Parameter]) -> int:
        """The all-gather's output: one tensor."""
        return block_bytes(self._requested(unit))

    def _requested(self, unit: Sequence[Parameter]) -> int:
        """Its weights, or gradients, side by side."""
        return sum(
            self._padded(p) * item_bytes(p) * p.count
            for p in unit
            if self.sharder.is_sharded(p)
        )

    def _reduced(self, unit: Sequence[Parameter]) -> int:
        """The reduce-scatter's input: one tensor."""
        return self._flat(self._reducible(unit))

    def _reducible(self, unit: Sequence[Parameter]) -> list[Parameter]:
        """Those that got a gradient."""
        return [p for p in trained(unit) if p.name in self.with_gradient]

    def _whole_gradients(self, unit: Sequence[Parameter]) -> tuple[int, int]:
        """Gradients as autograd made them: bytes and blocks."""
        sizes = self._whole(unit)
        return (
            sum(size * count for _, size, count in sizes),
            sum(block_bytes(size) * count for _, size, count in sizes),
        )

    def _whole(self, unit: Sequence[Parameter]) -> list[tuple[str, int, int]]:
        """They by name, bytes, and how many."""
        return [
            (p.name, p.num_elements * item_bytes(p), p.count)
            for p in self._reducible(unit)
        ]

    def _shard_bytes(self, unit: Sequence[Parameter]) -> int:
        if self.sharder.offloads:
            return 0
        return sum(
            chunk_elements(p, self.sharder.num_ranks) * kept_item_bytes(p) * p.count
            for p in self._reducible(unit)
        )

    def _padded(self, parameter: Parameter) -> int:
        """Elements with the padding that makes all shards equal."""
        if not parameter.shape:
            return 1
        return self.sharder.num_ranks * chunk_elements(
            parameter, self.sharder.num_ranks
        )


def _names(unit: Sequence[Parameter]) -> set[str]:
    """What tells a unit from others."""
    return {parameter.name for parameter in unit}
