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

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod

from memplan.formulas.allocator import block_bytes
from memplan.formulas.events import Events
from memplan.formulas.gathering import Gathering, NoGathering
from memplan.formulas.ledger import Ledger
from memplan.formulas.parameters import (
    IN_GROUP,
    Parameter,
    Shape,
    WeightPolicy,
    module_path,
)
from memplan.formulas.setting import Setting
from memplan.formulas.tensors import (
    ITEM_BYTES,
    SAVED,
    STATIC,
    TEMPORARY,
    Storage,
    Tensor,
    Weight,
)
from memplan.formulas.trace import Again, Node, Peak, Phase, Stack, Totals


@dataclass(slots=True)
class Cast:
    """A low-precision copy of a weight that autocast keeps until it exits."""

    tensor: Tensor
    copies: int


@dataclass(slots=True)
class Mode:
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
    is_whole: bool = False
    """Sharding takes no layer of this part by itself: it is in a unit, or in none."""


class Scope:
    """A place of the model while it is entered; a class, as there are many of them."""

    __slots__ = ("outer", "place", "tape")

    def __init__(self, tape: "Tape", place: str) -> None:
        self.tape = tape
        self.place = place
        self.outer = tape.place

    def __enter__(self) -> None:
        self.tape.place = self.place

    def __exit__(self, *error: object) -> None:
        self.tape.place = self.outer


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
    events: Events = field(default_factory=Events)
    """Of the current phase."""
    nodes: list[Node | Stack | Again] = field(default_factory=list)
    leaves: set[int] = field(default_factory=set)
    trained: dict[int, str] = field(default_factory=dict)
    """Of the leaves, the weights, by name."""
    received: set[str] = field(default_factory=set)
    """Names of the weights that the backward pass has made a gradient for."""
    parameters: dict[str, Parameter] = field(default_factory=dict)
    place: str = ""
    loss_start: int = 0
    """The first node of the loss, after the model's own."""
    mode: Mode = field(default_factory=Mode)
    casts: dict[int, Cast] = field(default_factory=dict)
    leaf: Storage | None = None
    """What `require_gradient` saw last, until layers take it over."""
    handed_leaves: list[int] = field(default_factory=list)
    """Bytes of those that they have taken over."""
    count: int = 1
    num_layers: int = 0
    """Layers that may be checkpointed, so far."""
    last_edge: int = 0
    num_storages: int = 0
    ledger: Ledger | None = None
    """Keeps what the sums are made of, where that is asked for."""

    # Storages

    def allocate(self, requested_bytes: int, savable: bool = True) -> Storage:
        """A new temporary storage without a holder."""
        self.num_storages += 1
        storage = Storage(requested_bytes, TEMPORARY, savable, self.num_storages)
        self.events.ask(requested_bytes, storage.serial)
        live = self.live
        live.block_bytes += storage.block_bytes
        live.temporary_bytes += requested_bytes
        if self.ledger is not None:
            self.ledger.enter(live, storage, self.place)
        if live.block_bytes > self.peak.at.block_bytes:
            self.note()
        return storage

    def note(self, scratch_bytes: int = 0, what: str = "") -> None:
        """Remember this moment if it is the highest, with scratch alive beside it."""
        scratch_block = block_bytes(scratch_bytes) if scratch_bytes else 0
        self.events.ask(scratch_bytes)
        live, at = self.live, self.peak.at
        if live.block_bytes + scratch_block > at.block_bytes:
            at.block_bytes = live.block_bytes + scratch_block
            at.saved_bytes = live.saved_bytes
            at.temporary_bytes = live.temporary_bytes + scratch_bytes
            at.gradient_bytes = live.gradient_bytes
            self.peak.place = self.place
            if self.ledger is not None:
                at.items = self.ledger.beside(live, what or self.place, scratch_bytes)

    def grow(self, size_bytes: int, what: str) -> None:
        """Blocks that data parallelism allocates; fewer than none frees them."""
        self.live.block_bytes += size_bytes
        self.live.temporary_bytes += size_bytes
        if self.ledger is not None:
            self.ledger.grow(self.live, what, size_bytes)
        self.note()

    def drop(self, storage: Storage) -> None:
        """One holder less; the last one frees."""
        storage.num_holders -= 1
        if storage.num_holders == 0 and storage.kind != STATIC:
            self._free(storage)

    def _free(self, storage: Storage, copies: int = 1) -> None:
        self.events.free(storage, copies)
        live = self.live
        if self.ledger is not None:
            self.ledger.leave(live, storage, copies)
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
        mode = self.mode
        if storage.serial <= mode.first_serial and storage is not mode.entry:
            # It belongs to what encloses the layer: counted there, and once.
            mode.shared[storage.serial] = storage
        elif storage.kind == TEMPORARY and storage.is_savable:
            if self.ledger is not None:
                self.ledger.turn(self.live, storage, SAVED)
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
        if self.mode.passing is not None:
            self.mode.passing.append(storage)

    def temporary(self, storage: Storage) -> Totals:
        """One storage that nothing has saved."""
        alone = Totals(storage.block_bytes, 0, storage.requested_bytes)
        if self.ledger is not None:
            self.ledger.leave(alone, storage, -1)
        return alone

    def new_edge(self) -> int:
        self.last_edge += 1
        return self.last_edge

    # Tensors and operators

    def input(self, shape: Shape, dtype: str) -> Tensor:
        """Part of the batch: there for the whole step, and counted by the plan."""
        return Tensor(self, Storage(0, STATIC, False), shape, dtype, None)

    def tensor(self, shape: Shape, dtype: str) -> Tensor:
        """A new tensor without history: a mask, positions, a table."""
        storage = self.allocate(prod(shape) * ITEM_BYTES[dtype])
        if self.ledger is not None:
            self.ledger.describe(storage, self.place, "table or mask", shape, dtype)
        return Tensor(self, storage, shape, dtype, None)

    def require_gradient(self, x: Tensor) -> Tensor:
        """`x.requires_grad_(True)`: a tensor without history keeps its gradient.

        No backward function takes that gradient: it stays until the loss goes, and so
        does the tensor, which the node that accumulates it holds.
        """
        if x.edge is not None or not self.mode.grad:
            return x
        self.pin(x.storage)
        self.leaf = x.storage
        edge = self.new_edge()
        if self.ledger is not None:
            self.ledger.edges[edge] = f"{self.place} input", x.shape, x.dtype
        return Tensor(self, x.storage, x.shape, x.dtype, edge)

    def hand_leaf_to_layers(self) -> None:
        """The first layer's input stands for that of all: it lives no longer here."""
        leaf, self.leaf = self.leaf, None
        assert leaf is not None
        leaf.num_holders -= 1
        if self.ledger is not None:
            self.ledger.turn(self.live, leaf, TEMPORARY)
        leaf.kind = TEMPORARY
        self.live.saved_bytes -= leaf.requested_bytes
        self.live.temporary_bytes += leaf.requested_bytes
        self.handed_leaves.append(leaf.requested_bytes)

    def keep_leaves(self) -> None:
        """Where the layers are done, what they took over is still held by its node."""
        for size_bytes in self.handed_leaves:
            self.save(self.allocate(size_bytes))

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
        strided: Sequence[Tensor] = (),
        is_strided: bool = False,
    ) -> Tensor:
        """Run one operator.

        `saved` and `saves_output` say what its backward needs, `stats_bytes` is a small
        extra result saved with them; `alias` returns a view of that tensor;
        `passes_gradient` hands the incoming gradient on to inputs like the output,
        `passes_views` hands parts of it on, both without a copy where the dtype is its.
        Both scratches of backward are needed while its results are there: that of the
        function, and after it that of summing a gradient over what was broadcast.
        `is_expensive` marks what selective checkpointing keeps. `pinned` is what the
        backward function keeps as an attribute (`pin`). `strided` are those of `saved`
        that are transposed, `is_strided` says so of the output: on its way to the host
        each is first copied in order, on the device (`native/cuda/Copy.cu`).
        """
        mode = self.mode
        wanted = [x for x in inputs if x.edge is not None] if mode.grad else []
        wants = bool(wanted)
        is_reused = is_expensive and wants and mode.reuse is not None
        edge = self.new_edge() if wants else None
        packs = self.setting.offloads_activations and mode.record and wants
        packs = packs and not mode.is_recomputed
        if packs and strided:
            self.note(max(x.num_bytes for x in strided), f"{self.place} {name}")
        if alias is not None:
            storage = alias.storage
        elif is_reused:
            storage = self._reuse()
        else:
            storage = self.allocate(prod(shape) * ITEM_BYTES[dtype], is_savable)
        if self.ledger is not None:
            self.ledger.describe(storage, self.place, name, shape, dtype, edge)
        if scratch_bytes:
            self.note(scratch_bytes, f"{self.place} {name}")
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
        held, fetched = [], []
        if packs:
            packed = [*saved, output] if saves_output else saved
            fetched = [x.num_bytes for x in packed]
            if is_strided:
                self.note(output.num_bytes, f"{self.place} {name}")
            if stats_bytes:
                self.note(stats_bytes)
                fetched.append(stats_bytes)
            saved, saves_output, stats_bytes = (), False, 0
        for x in saved:
            if x.origin is not None:
                # What was gathered from shards is gathered once more in backward.
                backward_scratch_bytes += x.num_bytes
                x = x.origin
            if x.storage.kind != STATIC:
                held.append(self.save(x.storage))
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
        if self.ledger is not None:
            self.ledger.hold(held, f"{self.place} {name}", shape)
        passed: set[int | None] = set()
        if passes_views or passes_gradient:
            passed = {
                x.edge
                for x in inputs
                if x.dtype == dtype and (passes_views or x.shape == shape)
            }
        self.nodes.append(
            Node(
                f"{self.place} {name}",
                (edge,),  # type: ignore[arg-type]
                [
                    (x.edge, 0 if x.edge in passed else x.num_bytes)
                    for x in wanted
                    if x.edge
                ],
                held,
                backward_scratch_bytes,
                sum_scratch_bytes,
                mode.is_recomputed,
                fetched,
            )
        )
        return output

    def _reuse(self) -> Storage:
        """The next expensive output that selective checkpointing has kept."""
        assert self.mode.reuse is not None
        storage = self.mode.reuse.pop(0)
        storage.num_holders -= 1
        return storage

    def _let_go_of_unsaved(self) -> None:
        """A recomputed layer saves something, so it has run on to here."""
        for storage in self.mode.unsaved:
            self.drop(storage)
        self.mode.unsaved.clear()

    def split(self, x: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Views of parts of `x`; backward joins their gradients into a new tensor."""
        wants = self.mode.grad and x.edge is not None
        edges = [self.new_edge() if wants else None for _ in shapes]
        if self.ledger is not None:
            for edge, shape in zip(edges, shapes, strict=True):
                self.ledger.edges[edge or 0] = f"{self.place} split", shape, x.dtype
        if wants and self.mode.record and x.edge is not None:
            outputs = tuple(edge for edge in edges if edge is not None)
            self.nodes.append(
                Node(f"{self.place} split", outputs, [(x.edge, x.num_bytes)], [], 0)
            )
        return [
            Tensor(self, x.storage, shape, x.dtype, edge)
            for shape, edge in zip(shapes, edges, strict=True)
        ]

    # Weights

    def weight(
        self,
        name: str,
        shape: Shape,
        *,
        is_linear: bool = False,
        is_tied: bool = False,
    ) -> Weight:
        """The parameter `name` of the module in scope, the head's too if tied."""
        full_name = f"{self.place}.{name}" if self.place else name
        stored = self.policy(module_path(full_name), shape, is_linear)
        if full_name not in self.parameters:
            self.parameters[full_name] = Parameter(
                full_name, shape, self.count, stored, is_tied=is_tied
            )
        edge = None
        if stored.is_trainable:
            edge = self.new_edge()
            self.leaves.add(edge)
            self.trained[edge] = full_name
            if self.ledger is not None:
                self.ledger.edges[edge] = full_name, shape, stored.dtype
        if not self.mode.in_layer:
            self.gathering.use_weight(self, self.parameters[full_name])
        return Weight(self, full_name, shape, stored, edge)

    def unused_weight(
        self, name: str, shape: Shape, *, is_linear: bool = False
    ) -> None:
        """A parameter of a branch that is there and not taken."""
        weight = self.weight(name, shape, is_linear=is_linear)
        known = self.parameters[weight.name]
        self.parameters[weight.name] = replace(known, is_used=False)

    def share(self, weight: Weight) -> None:
        """A second module is about to use `weight`."""
        if not self.mode.in_layer:
            self.gathering.use_weight(self, self.parameters[weight.name])

    def leave_table(self, weight: Weight) -> None:
        """The input embedding, whose table is `weight`, has run."""
        if not self.mode.in_layer:
            self.gathering.leave_unit(self, [self.parameters[weight.name]])

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
        cached = self.casts.get(weight.edge) if weight.edge else None
        if cached is not None:
            return cached.tensor
        copy = self.apply(
            "weight cast", (weight,), weight.shape, dtype, is_savable=False
        )
        if self.setting.autocast and weight.dtype == "fp32" and weight.edge is not None:
            self.casts[weight.edge] = Cast(copy, self.mode.copies)
        return copy

    def exit_autocast(self) -> None:
        """Let go of the cached casts; those that a node saved stay until it runs."""
        for cast in self.casts.values():
            storage = cast.tensor.storage
            if storage.num_holders == 1:
                self._free(storage, cast.copies - 1)
        self.casts.clear()

    # Scopes

    def begin_layers(self) -> None:
        """One layer is traced from here on, for all that are like it."""

    def end_layers(self, stand_for: int, count: int) -> None:
        """It stands for so many of the `count` that there are."""

    def scope(self, name: str) -> "Scope":
        """A submodule."""
        return Scope(self, f"{self.place}.{name}" if self.place else name)

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        outer = self.mode
        self.mode = replace(outer, grad=False)
        try:
            yield
        finally:
            self.mode = outer

    @contextmanager
    def unit(self) -> Iterator[None]:
        """A part outside the layers that sharding takes as one, without parts."""
        num_before = len(self.parameters)
        yield
        self.gathering.leave_unit(self, [*self.parameters.values()][num_before:])

    @contextmanager
    def whole(self) -> Iterator[None]:
        """A part whose layers sharding does not take by themselves."""
        outer = self.mode
        self.mode = replace(outer, is_whole=True)
        try:
            yield
        finally:
            self.mode = outer

    def begin_loss(self) -> None:
        """The model itself has run: what follows belongs to its loss."""
        self.loss_start = len(self.nodes)

    def end_phase(self, name: str) -> None:
        """Close the phase that ends here and begin the next."""
        end = self.live.plus(Totals())
        self.phases.append(Phase(name, self.peak, end, self.events))
        self.events = Events()
        if name == "forward" and not self.loss_start:
            self.begin_loss()
        self.peak = Peak(self.live.plus(Totals()), self.place)

    def raise_peak(
        self,
        peak: Peak,
        offset: Totals,
        extra_bytes: int,
        place: str,
        index: int,
        extra: Mapping[str, int] | None = None,
    ) -> None:
        """Account for the peak of layer `index`, `offset` above what is alive.

        `extra` is what the extra bytes are, where a ledger is kept.
        """
        highest = self.live.block_bytes + offset.block_bytes + peak.at.block_bytes
        if highest + extra_bytes > self.peak.at.block_bytes:
            at = self.live.plus(offset).plus(peak.at)
            at.block_bytes += extra_bytes
            at.temporary_bytes += extra_bytes
            if self.ledger is not None:
                for what, size_bytes in (extra or {}).items():
                    self.ledger.grow(at, what, size_bytes)
            layer = f"{place.removesuffix('*')}{index}"
            place = peak.place.replace(place, layer, 1)
            self.peak = Peak(at, IN_GROUP.sub(".*", place) if "[" in place else place)
