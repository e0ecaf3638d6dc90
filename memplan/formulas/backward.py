"""The backward pass over a recorded tape.

Nodes run in reverse order (`torch/csrc/autograd/engine.cpp`). A node needs its incoming
gradient and what it saved; it allocates the gradients of its inputs, then lets go of
both. A second gradient for one tensor is added in place where nobody else holds the
first (`input_buffer.cpp`). A leaf keeps its first gradient and adds later ones in place
(`accumulate_grad.h`).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from memplan.formulas.events import Events
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import GRADIENT, STATIC, Storage, Tensor
from memplan.formulas.trace import Again, Node, Peak, Stack, Totals


def run_backward(tape: Tape, loss: Tensor, *, gradients_exist: bool = False) -> None:
    """Replay everything recorded on `tape`, from the gradient of `loss` on.

    Args:
        gradients_exist: an earlier micro-batch has left gradients, so this one's are
            added to them and freed.
    """
    replay = _Replay(tape, gradients_exist or not tape.gathering.keeps_gradients)
    replay.uses = _shared_leaves(tape)
    tape.gathering.begin_backward(tape)
    if loss.edge is not None:
        seed = tape.allocate(loss.num_bytes)
        if tape.ledger is not None:
            tape.ledger.describe_gradient(seed, loss.edge)
        replay.accumulate(loss.edge, replay.hold(seed))
    _run_down_to(replay, tape.loss_start)
    tape.gathering.leave_loss(tape)
    _run_down_to(replay, 0)
    tape.keep_leaves()
    tape.gathering.end_backward(tape)


def _run_down_to(replay: "_Replay", start: int) -> None:
    """Run the last nodes, and let go of each with what its layers took to run again."""
    nodes = replay.tape.nodes
    while len(nodes) > start:
        replay.run([nodes.pop()])


def _shared_leaves(tape: Tape) -> dict[int, int]:
    """Weights outside the layers that several nodes use: tied embeddings, the head of a
    loss in parts."""
    uses = Counter[int]()
    for node in tape.nodes:
        if isinstance(node, Node):
            uses.update(edge for edge, _ in node.inputs if edge in tape.leaves)
        elif isinstance(node, Again):
            uses.update(node.shared)
    return {edge: count for edge, count in uses.items() if count > 1}


@dataclass(slots=True)
class _Replay:
    """Gradients on their way, within one trace."""

    tape: Tape
    gradients_exist: bool
    pending: dict[int, Storage] = field(default_factory=dict)
    grown: set[int] = field(default_factory=set)
    """Leaves that have their gradient."""
    floor: int = 0
    """Edges up to here belong to what encloses this trace."""
    entry: int | None = None
    """The edge of the layer's input, which is handed on to the layer before."""
    outside: dict[int, int] = field(default_factory=dict)
    """Edges of enclosing traces that got a gradient here, with its bytes."""
    uses: dict[int, int] = field(default_factory=dict)
    """Leaves that several nodes use, with how many of them are to come."""
    views: set[int] = field(default_factory=set)
    """Of those, the ones whose gradient so far is a view."""

    def run(self, nodes: list[Node | Stack | Again]) -> None:
        for node in reversed(nodes):
            match node:
                case Stack():
                    self.run_stack(node)
                case Again():
                    self.run_again(node)
                case Node():
                    self.run_node(node)

    def hold(self, storage: Storage) -> Storage:
        storage.num_holders += 1
        return storage

    def run_node(self, node: Node) -> None:
        """Allocate the gradients of a node's inputs, then free what it needed."""
        tape, pending = self.tape, self.pending
        incoming = [pending.pop(edge) for edge in node.outputs if edge in pending]
        made: list[tuple[int, Storage]] = []
        if incoming:
            tape.place = node.place
            fetched = [self.hold(tape.allocate(size)) for size in node.fetched]
            if tape.ledger is not None:
                tape.ledger.fetch(fetched)
            for edge, size_bytes in node.inputs:
                storage = tape.allocate(size_bytes) if size_bytes else incoming[0]
                if size_bytes and tape.ledger is not None:
                    tape.ledger.describe_gradient(storage, edge)
                made.append((edge, self.hold(storage)))
            if node.scratch_bytes:
                tape.note(node.scratch_bytes)
            for storage in fetched:
                tape.drop(storage)
            if node.sum_scratch_bytes and not node.is_recomputed:
                tape.note(node.sum_scratch_bytes)
        for storage in node.saved:
            tape.drop(storage)
        if incoming and node.sum_scratch_bytes and node.is_recomputed:
            # Unpacked by the checkpoint's hook, they live as long as the call alone.
            tape.note(node.sum_scratch_bytes)
        for storage in incoming:
            tape.drop(storage)
        is_linear = node.place.endswith(" linear")
        for edge, storage in made:
            if edge in self.uses:
                self._collect(edge, storage, is_transposed=is_linear)
            else:
                self.accumulate(edge, storage)

    def run_again(self, node: Again) -> None:
        """Its nodes are part of this trace, once they are known."""
        incoming = self.pending.pop(node.output, None)
        if incoming is not None:
            trace = node.recompute()
            self.pending[trace.output] = incoming
            self.run(trace.nodes)
        for storage in node.saved:
            self.tape.drop(storage)

    def accumulate(self, edge: int, storage: Storage) -> None:
        """Add a gradient, held once for this call, to the one of its tensor."""
        tape = self.tape
        if edge <= self.floor and edge != self.entry:
            self.outside[edge] = storage.requested_bytes
            tape.drop(storage)
        elif edge in tape.leaves:
            if edge in tape.trained:
                parameter = tape.parameters[tape.trained[edge]]
                tape.received.add(parameter.name)
                tape.gathering.receive_gradient(tape, parameter)
            if self.gradients_exist or edge in self.grown:
                tape.drop(storage)
            else:
                self.grown.add(edge)
                self._keep_as_gradient(storage, edge)
        elif edge not in self.pending:
            self.pending[edge] = storage
        elif self.pending[edge].num_holders == 1:
            tape.drop(storage)
        else:
            total = self.hold(tape.allocate(storage.requested_bytes))
            if tape.ledger is not None:
                tape.ledger.describe_gradient(total, edge)
            tape.drop(storage)
            tape.drop(self.pending[edge])
            self.pending[edge] = total

    def _collect(self, edge: int, storage: Storage, *, is_transposed: bool) -> None:
        """A weight that several modules use waits for all its gradients.

        They are added in place, but not to that of a linear's weight, which is a view
        (`input_buffer.cpp`, `can_accumulate_inplace`).
        """
        before = self.pending.pop(edge, None)
        if before is None and is_transposed:
            self.views.add(edge)
        elif before is not None and edge in self.views:
            self.views.discard(edge)
            total = self.hold(self.tape.allocate(storage.requested_bytes))
            self.tape.drop(before)
            self.tape.drop(storage)
            storage = total
        elif before is not None:
            self.tape.drop(storage)
            storage = before
        self.uses[edge] -= 1
        if self.uses[edge]:
            self.pending[edge] = storage
        else:
            del self.uses[edge]
            self.accumulate(edge, storage)

    def _keep_as_gradient(self, storage: Storage, edge: int) -> None:
        """A leaf takes over a gradient that nobody else holds, and copies another."""
        tape = self.tape
        if storage.num_holders > 1 or storage.kind == STATIC:
            copy = self.hold(tape.allocate(storage.requested_bytes))
            tape.drop(storage)
            storage = copy
        if tape.ledger is not None:
            tape.ledger.keep_gradient(tape.live, storage, tape.trained.get(edge, ""))
        if edge in tape.trained:
            name = tape.parameters[tape.trained[edge]].name
            tape.gathering.keep_gradient(name, storage)
        storage.kind = GRADIENT
        tape.live.temporary_bytes -= storage.requested_bytes
        tape.live.gradient_bytes += storage.requested_bytes

    def run_stack(self, stack: Stack) -> None:
        """Run one layer backward, and count it as often as it stands."""
        tape = self.tape
        incoming = self.pending.pop(stack.output, None)
        if incoming is None:
            return
        gathering, layer, count = tape.gathering, stack.layer, stack.count
        gathering.enter_layers_backward(tape, layer, count)
        outer_live, outer_peak, outer_place = tape.live, tape.peak, tape.place
        outer_events, tape.events = tape.events, Events()
        tape.live, tape.peak = Totals(), Peak(Totals(), stack.place)
        trace = stack.trace or (stack.recompute and stack.recompute())
        assert trace is not None
        inner = _Replay(
            tape,
            self.gradients_exist,
            pending={trace.output: incoming},
            floor=trace.first_edge,
            entry=trace.input,
        )
        inner.run(trace.nodes)
        for storage in (*stack.saved, *trace.kept):
            tape.drop(storage)
        peak, leaves = tape.peak, tape.live
        tape.live, tape.peak, tape.place = outer_live, outer_peak, outer_place
        handed_on = inner.pending.get(trace.input) if trace.input else None
        events, tape.events = tape.events, outer_events
        events = gathering.around_backward(layer, events)
        tape.events.repeat(count, events, incoming, handed_on)

        for edge, size_bytes in inner.outside.items():
            if edge not in self.pending and edge not in self.grown:
                self.accumulate(edge, self.hold(tape.allocate(size_bytes)))
        leaves = gathering.reduced(leaves, layer)
        numbers: Iterable[int] = range(count)
        if gathering.is_even:
            ends = {0, 1, count - 2, count - 1}
            numbers = sorted(number for number in ends if 0 <= number < count)
        for number in numbers:
            before = Totals().plus(leaves, count - 1 - number)
            beside_bytes = gathering.beside_backward(
                layer, number, count, peak.at.block_bytes
            )
            index = stack.first_index + number
            extra = None
            if tape.ledger is not None:
                extra = gathering.parts_backward(layer, number, count, beside_bytes)
            tape.raise_peak(peak, before, beside_bytes, stack.place, index, extra)
        tape.live = tape.live.plus(leaves, count)
        gathering.leave_layers_backward(tape, layer, count)
        for storage in stack.shared:
            tape.drop(storage)
        if handed_on is not None and stack.input is not None:
            if count > 1 and tape.ledger is not None:
                tape.ledger.take_over(incoming, handed_on, stack.place)
            self.accumulate(stack.input, handed_on)
