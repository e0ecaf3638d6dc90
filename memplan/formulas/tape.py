"""A symbolic autograd tape: which bytes are alive when, in pure integers.

The building blocks (`layers`, `attention`, `loss`) and the models are written in the
shape of the modules they describe. They allocate symbolic tensors on a `Tape`, which
keeps the sums of what is alive and the highest point of each phase; `backward` replays
the recorded nodes. No data, no torch: only sizes.

What decides a lifetime here is what decides it in PyTorch: a tensor lives while a name
holds it or a backward node has saved it. A `Tensor` frees its storage when Python drops
the last handle on it, so a formula that follows its module line by line, with the same
names rebound at the same places, has the lifetimes of that module. One rule comes from
`nn.Module.__call__`, which holds its arguments until it returns: a formula never
rebinds its parameters.

Repeated layers are traced once: every sum is linear in their number, so the highest
point of a stack is that of its first or of its last layer.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod

from memplan.formulas.allocator import block_bytes
from memplan.formulas.gathering import Gathering, Layer, NoGathering
from memplan.formulas.setting import Setting

ITEM_BYTES = {
    "int64": 8,
    "fp32": 4,
    "int32": 4,
    "bf16": 2,
    "fp16": 2,
    "bool": 1,
    "int8": 1,
    "uint8": 1,
}

TEMPORARY, SAVED, GRADIENT, STATIC = range(4)
"""Kinds of storage. STATIC ones (weights, inputs) are counted outside the tape."""

Shape = tuple[int, ...]

GROUPED = re.compile(r"\.\[\d\]\.\*")
"""What `Tape.layers` adds to the path of layers that it traces in groups."""
IN_GROUP = re.compile(r"\.(\*|\d+)\.\[\d\]\.\d+")
"""The same with the number of a layer in its group, which says little."""


def module_path(name: str) -> str:
    """A parameter's name in the model, however its layer is traced."""
    return GROUPED.sub("", name)


class Storage:
    """Bytes on the device, and how many hold them."""

    __slots__ = (
        "block_bytes",
        "is_savable",
        "kind",
        "num_holders",
        "requested_bytes",
        "serial",
    )

    def __init__(
        self, requested_bytes: int, kind: int, is_savable: bool, serial: int = 0
    ) -> None:
        self.serial = serial
        self.requested_bytes = requested_bytes
        self.block_bytes = 0 if kind == STATIC else block_bytes(requested_bytes)
        self.kind = kind
        self.is_savable = is_savable
        self.num_holders = 0


class Tensor:
    """A handle on a storage; `edge` is its gradient's identity, None wants none."""

    __slots__ = ("dtype", "edge", "origin", "shape", "storage", "tape")

    def __init__(
        self, tape: "Tape", storage: Storage, shape: Shape, dtype: str, edge: int | None
    ) -> None:
        self.tape = tape
        self.storage = storage
        self.shape = shape
        self.dtype = dtype
        self.edge = edge
        self.origin: Tensor | None = None
        """The shard that is saved in its place, where it is gathered from shards."""
        storage.num_holders += 1

    def __del__(self) -> None:
        self.tape.drop(self.storage)

    @property
    def num_bytes(self) -> int:
        """Bytes of a contiguous copy, and so of the gradient."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


class Weight(Tensor):
    """A parameter: its bytes are counted in `Tape.parameters`, its gradient here."""

    __slots__ = ("is_quantized", "name", "num_stored_bytes")

    def __init__(
        self, tape: "Tape", name: str, shape: Shape, stored: "Stored", edge: int | None
    ) -> None:
        super().__init__(tape, Storage(0, STATIC, False), shape, stored.dtype, edge)
        self.name = name
        self.is_quantized = stored.is_quantized
        self.num_stored_bytes = stored.num_bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """How a parameter is kept on the device."""

    dtype: str
    """What it is computed in; the compute dtype of a quantized weight."""
    is_trainable: bool
    num_bytes: int
    """Bytes on the device, quantization constants included."""
    is_quantized: bool = False
    kept_dtype: str | None = None
    """What the weight itself is kept in, where it is not what it is computed in."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named tensor of weights, or `count` equal ones in repeated layers."""

    name: str
    """Dotted module path; `*` stands for the index of a repeated layer."""
    shape: Shape
    count: int
    stored: Stored
    is_embedding: bool = False
    """Whether it is looked up by index, as `nn.Embedding` is."""
    is_used: bool = True
    """Whether the forward pass uses it; else it gets no gradient, and so no states."""

    @property
    def num_elements(self) -> int:
        """Elements of one."""
        return prod(self.shape)


WeightPolicy = Callable[[str, Shape, bool], Stored]
"""Decides how a parameter is kept, from its name, its shape and whether it is the
weight or bias of a linear layer."""


@dataclass(slots=True)
class Totals:
    """What is alive: `block_bytes` counts blocks, the kinds count requested bytes."""

    block_bytes: int = 0
    saved_bytes: int = 0
    temporary_bytes: int = 0
    gradient_bytes: int = 0

    def plus(self, other: "Totals", times: int = 1) -> "Totals":
        """Self and `times` times `other`."""
        return Totals(
            self.block_bytes + times * other.block_bytes,
            self.saved_bytes + times * other.saved_bytes,
            self.temporary_bytes + times * other.temporary_bytes,
            self.gradient_bytes + times * other.gradient_bytes,
        )


@dataclass(slots=True)
class Peak:
    """The highest point of a stretch, and where in the model it stands."""

    at: Totals
    place: str


@dataclass(slots=True)
class Span:
    """A stretch relative to its start: its highest point, and what it leaves."""

    peak: Peak
    leaves: Totals


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of the step: its highest point and what was alive at its end."""

    name: str
    peak: Peak
    end: Totals


@dataclass(slots=True)
class Node:
    """One backward function."""

    place: str
    outputs: tuple[int, ...]
    inputs: list[tuple[int, int]]
    """Edges that want a gradient, with its bytes; 0 passes the incoming one on."""
    saved: list[Storage]
    scratch_bytes: int
    sum_scratch_bytes: int = 0
    """Needed after the function itself, while a gradient is summed to its shape."""
    is_recomputed: bool = False
    """What a checkpoint has computed again is let go before that sum."""


@dataclass(slots=True)
class Trace:
    """One recorded run of a layer."""

    nodes: list["Node | Stack"]
    input: int | None
    output: int
    first_edge: int
    kept: list[Storage] = field(default_factory=list)
    """What selective checkpointing keeps until the layer has gone backward."""


@dataclass(slots=True)
class Stack:
    """`count` equal layers. A checkpointed one traces itself again in backward."""

    place: str
    first_index: int
    count: int
    input: int | None
    output: int
    trace: Trace | None
    recompute: Callable[[], Trace] | None
    saved: list[Storage]
    """Held once for each layer."""
    shared: list[Storage]
    """Older storages that the layers hold together."""
    layer: Layer


Body = Callable[["Tape", Tensor], Tensor]
"""The forward pass of one layer."""


@dataclass(slots=True)
class _Cast:
    """A low-precision copy of a weight that autocast keeps until it exits."""

    tensor: Tensor
    copies: int


@dataclass(slots=True)
class _Mode:
    """What the forward pass is doing with what it computes."""

    grad: bool = True
    record: bool = True
    keep: list[Storage] | None = None
    """Where a selectively checkpointed forward leaves its expensive outputs."""
    reuse: list[Storage] | None = None
    """What was left there, while the forward runs again."""
    unsaved: list[Storage] = field(default_factory=list)
    """Reused since the last save: the forward stops there when it runs again
    (`utils/checkpoint.py`, early_stop), and what was kept beyond stays kept."""
    copies: int = 1
    """Layers that the one being traced stands for."""
    first_serial: int = 0
    """Storages up to here are older than the layer being traced."""
    entry: Storage | None = None
    """The layer's input, which it takes over."""
    shared: dict[int, Storage] = field(default_factory=dict)
    """Older storages that the layer saves."""
    is_recomputed: bool = False
    """A checkpointed layer runs again."""
    passing: list[Storage] | None = None
    """Pinned storages of the layer that runs again, which its graph alone holds."""
    in_layer: bool = False
    """A repeated layer is being traced."""


@dataclass(slots=True)
class Tape:
    """The state of one traced training step."""

    policy: WeightPolicy
    setting: Setting = field(default_factory=Setting)
    gathering: Gathering = field(default_factory=NoGathering)
    """What data parallelism holds beside the model while it runs."""
    live: Totals = field(default_factory=Totals)
    peak: Peak = field(default_factory=lambda: Peak(Totals(), ""))
    phases: list[Phase] = field(default_factory=list)
    nodes: list[Node | Stack] = field(default_factory=list)
    leaves: set[int] = field(default_factory=set)
    trained: dict[int, str] = field(default_factory=dict)
    """Of the leaves, the weights, by name."""
    parameters: dict[str, Parameter] = field(default_factory=dict)
    place: str = ""
    loss_start: int = 0
    """The first node of the loss, after the model's own."""
    _mode: _Mode = field(default_factory=_Mode)
    _casts: dict[int, _Cast] = field(default_factory=dict)
    _leaf: Storage | None = None
    """What `require_gradient` saw last, until layers take it over."""
    _count: int = 1
    _num_layers: int = 0
    """Layers that may be checkpointed, so far."""
    _last_edge: int = 0
    _num_storages: int = 0

    # Storages

    def allocate(self, requested_bytes: int, savable: bool = True) -> Storage:
        """A new temporary storage without a holder."""
        self._num_storages += 1
        storage = Storage(requested_bytes, TEMPORARY, savable, self._num_storages)
        live = self.live
        live.block_bytes += storage.block_bytes
        live.temporary_bytes += requested_bytes
        if live.block_bytes > self.peak.at.block_bytes:
            self.note()
        return storage

    def note(self, scratch_bytes: int = 0) -> None:
        """Remember this moment if it is the highest, with scratch alive beside it."""
        scratch_block = block_bytes(scratch_bytes)
        live = self.live
        if live.block_bytes + scratch_block > self.peak.at.block_bytes:
            self.peak = Peak(
                Totals(
                    live.block_bytes + scratch_block,
                    live.saved_bytes,
                    live.temporary_bytes + scratch_bytes,
                    live.gradient_bytes,
                ),
                self.place,
            )

    def grow(self, size_bytes: int) -> None:
        """Blocks that data parallelism allocates; fewer than none frees them."""
        self.live.block_bytes += size_bytes
        self.live.temporary_bytes += size_bytes
        self.note()

    def drop(self, storage: Storage) -> None:
        """One holder less; the last one frees."""
        storage.num_holders -= 1
        if storage.num_holders == 0 and storage.kind != STATIC:
            self._free(storage)

    def _free(self, storage: Storage, copies: int = 1) -> None:
        live = self.live
        live.block_bytes -= copies * storage.block_bytes
        requested = copies * storage.requested_bytes
        if storage.kind == TEMPORARY:
            live.temporary_bytes -= requested
        elif storage.kind == SAVED:
            live.saved_bytes -= requested
        else:
            live.gradient_bytes -= requested

    def save(self, storage: Storage) -> Storage:
        """Hold a storage for the backward pass: from here on it is an activation."""
        storage.num_holders += 1
        mode = self._mode
        if storage.serial <= mode.first_serial and storage is not mode.entry:
            # It belongs to what encloses the layer: counted there, and once.
            mode.shared[storage.serial] = storage
        elif storage.kind == TEMPORARY and storage.is_savable:
            storage.kind = SAVED
            self.live.temporary_bytes -= storage.requested_bytes
            self.live.saved_bytes += storage.requested_bytes
        return storage

    def pin(self, storage: Storage) -> None:
        """Hold a storage as long as the loss is held.

        Checkpointing cannot let go of an attribute of a backward function
        (`ctx.tensors`), nor does the function when it has run. A recomputed graph goes
        when its layer has been computed.
        """
        if storage.kind == STATIC:
            return
        self.save(storage)
        if self._mode.passing is not None:
            self._mode.passing.append(storage)

    def new_edge(self) -> int:
        self._last_edge += 1
        return self._last_edge

    # Tensors and operators

    def input(self, shape: Shape, dtype: str) -> Tensor:
        """Part of the batch: there for the whole step, and counted by the plan."""
        return Tensor(self, Storage(0, STATIC, False), shape, dtype, None)

    def tensor(self, shape: Shape, dtype: str) -> Tensor:
        """A new tensor without history: a mask, positions, a table."""
        storage = self.allocate(prod(shape) * ITEM_BYTES[dtype])
        return Tensor(self, storage, shape, dtype, None)

    def require_gradient(self, x: Tensor) -> Tensor:
        """`x.requires_grad_(True)`: a tensor without history keeps its gradient.

        No backward function takes that gradient: it stays until the loss goes, and so
        does the tensor, which the node that accumulates it holds.
        """
        if x.edge is not None or not self._mode.grad:
            return x
        self.pin(x.storage)
        self._leaf = x.storage
        return Tensor(self, x.storage, x.shape, x.dtype, self.new_edge())

    def _hand_leaf_to_layers(self) -> None:
        """The first layer's input stands for that of all: it lives no longer here."""
        leaf, self._leaf = self._leaf, None
        assert leaf is not None
        leaf.num_holders -= 1
        leaf.kind = TEMPORARY
        self.live.saved_bytes -= leaf.requested_bytes
        self.live.temporary_bytes += leaf.requested_bytes

    def view(self, x: Tensor, shape: Shape) -> Tensor:
        """The same storage and gradient under another shape."""
        return Tensor(self, x.storage, shape, x.dtype, x.edge)

    def apply(
        self,
        name: str,
        inputs: Sequence[Tensor],
        shape: Shape,
        dtype: str,
        *,
        saved: Sequence[Tensor] = (),
        saves_output: bool = False,
        passes_gradient: bool = False,
        passes_views: bool = False,
        alias: Tensor | None = None,
        scratch_bytes: int = 0,
        backward_scratch_bytes: int = 0,
        sum_scratch_bytes: int = 0,
        stats_bytes: int = 0,
        is_expensive: bool = False,
        is_savable: bool = True,
        pinned: Sequence[Tensor] = (),
    ) -> Tensor:
        """Run one operator.

        `saved` and `saves_output` say what its backward needs, `stats_bytes` is a small
        extra result saved with them; `alias` returns a view of that tensor;
        `passes_gradient` hands the incoming gradient on to inputs like the output,
        `passes_views` hands parts of it on, both without a copy where the dtype is its.
        Both scratches of backward are needed while its results are there: that of the
        function, and after it that of summing a gradient over what was broadcast.
        `is_expensive` marks what selective checkpointing keeps. `pinned` is what the
        backward function keeps as an attribute (`pin`).
        """
        mode = self._mode
        wants = mode.grad and any(x.edge is not None for x in inputs)
        is_reused = is_expensive and wants and mode.reuse is not None
        edge = self.new_edge() if wants else None
        if alias is not None:
            storage = alias.storage
        elif is_reused:
            storage = self._reuse()
        else:
            storage = self.allocate(prod(shape) * ITEM_BYTES[dtype], is_savable)
        if scratch_bytes:
            self.note(scratch_bytes)
        output = Tensor(self, storage, shape, dtype, edge)
        if is_expensive and mode.keep is not None and wants:
            mode.keep.append(self.save(storage))
            if stats_bytes:
                mode.keep.append(self.save(self.allocate(stats_bytes)))
        if wants:
            for x in pinned:
                self.pin(x.storage)
        if not wants or not mode.record:
            return output
        kept = [x.origin or x for x in saved]
        held = [self.save(x.storage) for x in kept if x.storage.kind != STATIC]
        # What was gathered from shards is gathered once more in backward.
        gathered_bytes = max((x.num_bytes for x in saved if x.origin), default=0)
        if held:
            self._let_go_of_unsaved()
        if saves_output:
            held.append(self.save(storage))
        elif is_reused:
            storage.num_holders += 1
            mode.unsaved.append(storage)
        if stats_bytes:
            stats = self._reuse() if is_reused else self.allocate(stats_bytes)
            held.append(self.save(stats))
        passed = {
            x.edge
            for x in inputs
            if x.dtype == dtype
            and (passes_views or (passes_gradient and x.shape == shape))
        }
        self.nodes.append(
            Node(
                f"{self.place} {name}",
                (edge,),  # type: ignore[arg-type]
                [
                    (x.edge, 0 if x.edge in passed else x.num_bytes)
                    for x in inputs
                    if x.edge is not None
                ],
                held,
                backward_scratch_bytes + gathered_bytes,
                sum_scratch_bytes,
                mode.is_recomputed,
            )
        )
        return output

    def _reuse(self) -> Storage:
        """The next expensive output that selective checkpointing has kept."""
        assert self._mode.reuse is not None
        storage = self._mode.reuse.pop(0)
        storage.num_holders -= 1
        return storage

    def _let_go_of_unsaved(self) -> None:
        """A recomputed layer saves something, so it has run on to here."""
        for storage in self._mode.unsaved:
            self.drop(storage)
        self._mode.unsaved.clear()

    def split(self, x: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Views of parts of `x`; backward joins their gradients into a new tensor."""
        wants = self._mode.grad and x.edge is not None
        edges = [self.new_edge() if wants else None for _ in shapes]
        if wants and self._mode.record and x.edge is not None:
            outputs = tuple(edge for edge in edges if edge is not None)
            self.nodes.append(
                Node(f"{self.place} split", outputs, [(x.edge, x.num_bytes)], [], 0)
            )
        return [
            Tensor(self, x.storage, shape, x.dtype, edge)
            for shape, edge in zip(shapes, edges, strict=True)
        ]

    # Weights

    def weight(self, name: str, shape: Shape, *, is_linear: bool = False) -> Weight:
        """The parameter `name` of the module in scope."""
        full_name = f"{self.place}.{name}" if self.place else name
        stored = self.policy(module_path(full_name), shape, is_linear)
        if full_name not in self.parameters:
            self.parameters[full_name] = Parameter(
                full_name, shape, self._count, stored
            )
        edge = None
        if stored.is_trainable:
            edge = self.new_edge()
            self.leaves.add(edge)
            self.trained[edge] = full_name
        if not self._mode.in_layer:
            self.gathering.use_weight(self, self.parameters[full_name])
        return Weight(self, full_name, shape, stored, edge)

    def unused_weight(self, name: str, shape: Shape) -> None:
        """A parameter of a branch that is there and not taken."""
        weight = self.weight(name, shape)
        known = self.parameters[weight.name]
        self.parameters[weight.name] = replace(known, is_used=False)

    def share(self, weight: Weight) -> None:
        """A second module is about to use `weight`."""
        if not self._mode.in_layer:
            self.gathering.use_weight(self, self.parameters[weight.name])

    def leave_table(self, weight: Weight) -> None:
        """The embedding whose table is `weight` has run."""
        if not self._mode.in_layer:
            self.gathering.leave_table(self, self.parameters[weight.name])

    def mark_embedding(self, weight: Weight) -> None:
        """Remember that `weight` is looked up by index."""
        known = self.parameters[weight.name]
        if not known.is_embedding:
            self.parameters[weight.name] = replace(known, is_embedding=True)

    def cast_weight(self, weight: Weight, dtype: str) -> Tensor:
        """`weight` in `dtype`, as autocast hands it to an operator.

        Copies of trainable fp32 weights are cached until autocast exits
        (`aten/src/ATen/autocast_mode.cpp`); others are made anew at each use.
        """
        if weight.dtype == dtype:
            return weight
        cached = self._casts.get(weight.edge) if weight.edge else None
        if cached is not None:
            return cached.tensor
        copy = self.apply(
            "weight cast", (weight,), weight.shape, dtype, is_savable=False
        )
        if self.setting.autocast and weight.dtype == "fp32" and weight.edge is not None:
            self._casts[weight.edge] = _Cast(copy, self._mode.copies)
        return copy

    def exit_autocast(self) -> None:
        """Let go of the cached casts; those that a node saved stay until it runs."""
        for cast in self._casts.values():
            storage = cast.tensor.storage
            if storage.num_holders == 1:
                self._free(storage, cast.copies - 1)
        self._casts.clear()

    # Scopes

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """A submodule."""
        outer = self.place
        self.place = f"{outer}.{name}" if outer else name
        try:
            yield
        finally:
            self.place = outer

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        outer = self._mode
        self._mode = replace(outer, grad=False)
        try:
            yield
        finally:
            self._mode = outer

    def end_phase(self, name: str) -> None:
        """Close the phase that ends here and begin the next."""
        self.phases.append(Phase(name, self.peak, self.live.plus(Totals())))
        if name == "forward":
            self.loss_start = len(self.nodes)
        self.peak = Peak(self.live.plus(Totals()), self.place)

    # Repeated layers

    def layers(self, name: str, count: int, body: Body, x: Tensor) -> Tensor:
        """`count` layers that a model lets be checkpointed, as the plan asks.

        With every n-th checkpointed, counted over all layers of the model, a group of n
        is traced as one layer.
        """
        mode, every = self.setting.checkpointing, self.setting.checkpoint_every
        if mode == "none" or every == 1:
            return self.stack(name, count, body, x, checkpointing=mode)

        def group(t: Tape, x: Tensor) -> Tensor:
            y = t.stack("[1]", 1, body, x, checkpointing=mode)
            return t.stack("[2]", every - 1, body, y)

        first = min(count, -self._num_layers % every)
        self._num_layers += count
        num_groups, rest = divmod(count - first, every)
        x = self.stack(f"{name}.*.[0]", first, body, x)
        x = self.stack(name, num_groups, group, x, is_unit=False)
        x = self.stack(f"{name}.*.[3]", min(rest, 1), body, x, checkpointing=mode)
        return self.stack(f"{name}.*.[4]", max(rest - 1, 0), body, x)

    def stack(
        self,
        name: str,
        count: int,
        body: Body,
        x: Tensor,
        *,
        checkpointing: str = "none",
        is_unit: bool = True,
    ) -> Tensor:
        """`count` layers, each taking over the output of the one before.

        `x` is handed over: the caller's name must be rebound to the result, as a loop
        over layers does. `checkpointing` is none, full or selective. `is_unit` says
        that sharding gathers and reduces each layer as one.
        """
        index = 0
        while index < count:
            x, done = self._trace_layers(
                name, index, count - index, body, x, checkpointing, is_unit
            )
            index += done
        return x

    def _trace_layers(
        self,
        name: str,
        index: int,
        count: int,
        body: Body,
        x: Tensor,
        checkpointing: str,
        is_unit: bool,
    ) -> tuple[Tensor, int]:
        """Trace one layer; it stands for all if what it hands on is like what it took.

        It is not where the first layer's input wants no gradient and its output does.
        """
        entry, dtype, storage, shape = x.edge, x.dtype, x.storage, x.shape
        if storage is self._leaf:
            self._hand_leaf_to_layers()
        is_checkpointed = checkpointing != "none" and self._mode.record
        outer_nodes, outer_mode, outer_live = self.nodes, self._mode, self.live
        outer_peak, outer_count = self.peak, self._count
        kept: list[Storage] | None = [] if checkpointing == "selective" else None
        with self.scope(f"{name}.*"):
            place = self.place
            self.nodes, self.live, self.peak = [], Totals(), Peak(Totals(), place)
            self._count *= count
            self._mode = replace(
                outer_mode,
                copies=outer_mode.copies * count,
                first_serial=self._num_storages,
                entry=storage,
                shared={},
                in_layer=True,
            )
            if is_checkpointed:
                self._mode = replace(self._mode, record=False, keep=kept)
            first_edge = self._last_edge
            own = Tensor(self, storage, shape, dtype, entry)
            self._hand_over(x)
            y = body(self, own)
            wants = y.edge is not None
            held = [self.save(storage)] if is_checkpointed and wants else []
            del own
        nodes, span, shared = self.nodes, Span(self.peak, self.live), self._mode.shared
        self.nodes, self.live, self.peak = outer_nodes, outer_live, outer_peak
        self._count, self._mode = outer_count, outer_mode

        is_alike = wants == (entry is not None) and y.dtype == dtype
        done = count if is_alike else 1
        for cast in self._casts.values():
            if not is_alike and cast.tensor.edge and cast.tensor.edge > first_edge:
                cast.copies //= count
        rest = span.leaves
        if storage.num_holders and storage.kind == TEMPORARY:
            # Someone else holds the first input; the later layers free theirs.
            rest = rest.plus(
                Totals(storage.block_bytes, 0, storage.requested_bytes), -1
            )
        parameters = self._parameters_of(place, outer_count * count)
        layer = Layer(parameters, is_unit, outer_mode.in_layer)
        self.gathering.enter_layers(self, layer, done)
        for number in sorted({0, done - 1}):
            before = span.leaves.plus(rest, number - 1) if number else Totals()
            beside_bytes = self.gathering.beside_forward(layer, number, done)
            self.raise_peak(span.peak, before, beside_bytes, place, index + number)
        self.live = self.live.plus(span.leaves).plus(rest, done - 1)
        self.gathering.leave_layers(self, layer, done)
        if wants and outer_mode.record and y.edge is not None:
            trace = Trace(nodes, entry, y.edge, first_edge)
            again = None
            if is_checkpointed:
                again = self._recompute(place, body, storage, shape, dtype, entry, kept)
            self.nodes.append(
                Stack(
                    place=place,
                    first_index=index,
                    count=done,
                    input=entry,
                    output=y.edge,
                    trace=None if is_checkpointed else trace,
                    recompute=again,
                    saved=held,
                    shared=[self.save(older) for older in shared.values()],
                    layer=layer,
                )
            )
        return y, done

    def _recompute(
        self,
        place: str,
        body: Body,
        storage: Storage,
        shape: Shape,
        dtype: str,
        entry: int | None,
        kept: list[Storage] | None,
    ) -> Callable[[], Trace]:
        """The forward pass of a checkpointed layer, run again in backward."""

        def run() -> Trace:
            outer_mode, outer_place, outer_nodes = self._mode, self.place, self.nodes
            self.place, self.nodes = place, []
            self._mode = _Mode(
                reuse=None if kept is None else list(kept),
                first_serial=self._num_storages,
                entry=storage,
                is_recomputed=True,
                passing=[],
                in_layer=True,
            )
            first_edge = self._last_edge
            y = body(self, Tensor(self, storage, shape, dtype, entry))
            self.exit_autocast()
            for pinned in self._mode.passing or ():
                self.drop(pinned)
            assert y.edge is not None
            unsaved = self._mode.unsaved
            trace = Trace(self.nodes, entry, y.edge, first_edge, unsaved)
            self._mode, self.place, self.nodes = outer_mode, outer_place, outer_nodes
            return trace

        return run

    def _hand_over(self, x: Tensor) -> None:
        """Take the storage out of a handle whose name is about to be rebound."""
        storage, x.storage = x.storage, Storage(0, STATIC, False)
        x.storage.num_holders = 1
        self.drop(storage)

    def raise_peak(
        self, peak: Peak, offset: Totals, extra_bytes: int, place: str, index: int
    ) -> None:
        """Account for the peak of layer `index`, `offset` above what is alive."""
        at = self.live.plus(offset).plus(peak.at)
        at.block_bytes += extra_bytes
        at.temporary_bytes += extra_bytes
        if at.block_bytes > self.peak.at.block_bytes:
            layer = f"{place.removesuffix('*')}{index}"
            place = peak.place.replace(place, layer, 1)
            self.peak = Peak(at, IN_GROUP.sub(".*", place) if "[" in place else place)

    def _parameters_of(self, place: str, num_layers: int) -> tuple[Parameter, ...]:
        """The parameters of one of `num_layers` layers."""
        return tuple(
            replace(p, count=p.count // num_layers)
            for p in self.parameters.values()
            if p.name.startswith(place)
        )
