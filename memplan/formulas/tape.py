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

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod

from memplan.formulas.allocator import block_bytes
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

    __slots__ = ("dtype", "edge", "shape", "storage", "tape")

    def __init__(
        self, tape: "Tape", storage: Storage, shape: Shape, dtype: str, edge: int | None
    ) -> None:
        self.tape = tape
        self.storage = storage
        self.shape = shape
        self.dtype = dtype
        self.edge = edge
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
    parameter_bytes: int
    """Bytes of the parameters of one layer, in the dtype they are computed in."""


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


@dataclass(slots=True)
class Tape:
    """The state of one traced training step."""

    policy: WeightPolicy
    setting: Setting = field(default_factory=Setting)
    unit_bytes: Callable[[int], tuple[int, int]] = lambda parameter_bytes: (0, 0)
    """Bytes that sharding adds while a layer runs forward, and backward."""
    gradient_shards: int = 1
    """Ranks that share a layer's gradients once its backward is done."""
    live: Totals = field(default_factory=Totals)
    peak: Peak = field(default_factory=lambda: Peak(Totals(), ""))
    phases: list[Phase] = field(default_factory=list)
    nodes: list[Node | Stack] = field(default_factory=list)
    leaves: set[int] = field(default_factory=set)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    place: str = ""
    _mode: _Mode = field(default_factory=_Mode)
    _casts: dict[int, _Cast] = field(default_factory=dict)
    _count: int = 1
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
    ) -> Tensor:
        """Run one operator.

        `saved` and `saves_output` say what its backward needs, `stats_bytes` is a small
        extra result saved with them; `alias` returns a view of that tensor;
        `passes_gradient` hands the incoming gradient on to inputs like the output,
        `passes_views` hands parts of it on, both without a copy where the dtype is its.
        Both scratches of backward are needed while its results are there: that of the
        function, and after it that of summing a gradient over what was broadcast.
        `is_expensive` marks what selective checkpointing keeps.
        """
        mode = self._mode
        wants = mode.grad and any(x.edge is not None for x in inputs)
        edge = self.new_edge() if wants else None
        if alias is not None:
            storage = alias.storage
        elif is_expensive and mode.reuse is not None:
            storage = mode.reuse.pop(0)
            storage.num_holders -= 1
        else:
            storage = self.allocate(prod(shape) * ITEM_BYTES[dtype], is_savable)
        if scratch_bytes:
            self.note(scratch_bytes)
        output = Tensor(self, storage, shape, dtype, edge)
        if is_expensive and mode.keep is not None and wants:
            mode.keep.append(self.save(storage))
        if not wants or not mode.record:
            return output
        held = [self.save(x.storage) for x in saved if x.storage.kind != STATIC]
        if saves_output:
            held.append(self.save(storage))
        if stats_bytes:
            held.append(self.save(self.allocate(stats_bytes)))
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
                backward_scratch_bytes,
                sum_scratch_bytes,
                mode.is_recomputed,
            )
        )
        return output

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
        stored = self.policy(full_name, shape, is_linear)
        if full_name not in self.parameters:
            self.parameters[full_name] = Parameter(
                full_name, shape, self._count, stored
            )
        edge = None
        if stored.is_trainable:
            edge = self.new_edge()
            self.leaves.add(edge)
        return Weight(self, full_name, shape, stored, edge)

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
        self.peak = Peak(self.live.plus(Totals()), self.place)

    # Repeated layers

    def layers(self, name: str, count: int, body: Body, x: Tensor) -> Tensor:
        """`count` layers that a model lets be checkpointed, as the plan asks.

        With every n-th checkpointed, a group of n is traced as one layer.
        """
        mode, every = self.setting.checkpointing, self.setting.checkpoint_every
        if mode == "none" or every == 1:
            return self.stack(name, count, body, x, checkpointing=mode)

        def group(t: Tape, x: Tensor) -> Tensor:
            y = t.stack("0", 1, body, x, checkpointing=mode)
            return t.stack("1", every - 1, body, y)

        x = self.stack(name, count // every, group, x)
        for index in range(count % every):
            checkpointing = mode if index == 0 else "none"
            x = self.stack(f"{name}.last", 1, body, x, checkpointing=checkpointing)
        return x

    def stack(
        self,
        name: str,
        count: int,
        body: Body,
        x: Tensor,
        *,
        checkpointing: str = "none",
    ) -> Tensor:
        """`count` layers, each taking over the output of the one before.

        `x` is handed over: the caller's name must be rebound to the result, as a loop
        over layers does. `checkpointing` is none, full or selective.
        """
        index = 0
        while index < count:
            x, done = self._trace_layers(
                name, index, count - index, body, x, checkpointing
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
    ) -> tuple[Tensor, int]:
        """Trace one layer; it stands for all if what it hands on is like what it took.

        It is not where the first layer's input wants no gradient and its output does.
        """
        entry, dtype, storage, shape = x.edge, x.dtype, x.storage, x.shape
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
        parameter_bytes = self._parameter_bytes(place, outer_count * count)
        extra_bytes, _ = self.unit_bytes(parameter_bytes)
        self.raise_peak(span.peak, Totals(), extra_bytes, place, index)
        if done > 1:
            before_last = span.leaves.plus(rest, done - 2)
            last = index + done - 1
            self.raise_peak(span.peak, before_last, extra_bytes, place, last)
        self.live = self.live.plus(span.leaves).plus(rest, done - 1)
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
                    parameter_bytes=parameter_bytes,
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
            )
            first_edge = self._last_edge
            y = body(self, Tensor(self, storage, shape, dtype, entry))
            self.exit_autocast()
            assert y.edge is not None
            trace = Trace(self.nodes, entry, y.edge, first_edge)
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
            self.peak = Peak(at, peak.place.replace(place, layer, 1))

    def _parameter_bytes(self, place: str, num_layers: int) -> int:
        """Bytes of one layer's parameters, in the dtype they are computed in."""
        return sum(
            p.num_elements * ITEM_BYTES[p.stored.dtype] * p.count
            for p in self.parameters.values()
            if p.name.startswith(place)
        ) // max(num_layers, 1)
