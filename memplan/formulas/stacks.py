"""Repeated layers: traced once, counted as often as they stand.

Every sum is linear in the number of layers, so the highest point of a stack is that of
its first or of its last layer. A checkpointed layer keeps its input and runs again in
backward.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from math import prod

from memplan.formulas.events import Events
from memplan.formulas.gathering import Layer
from memplan.formulas.parameters import Parameter, Shape
from memplan.formulas.tape import Mode, Tape
from memplan.formulas.tensors import ITEM_BYTES, TEMPORARY, Storage, Tensor
from memplan.formulas.trace import Peak, Span, Stack, Totals, Trace

Body = Callable[[Tape, Tensor], Tensor]
"""The forward pass of one layer."""
Layers = Callable[[Tape, Body, Tensor], Tensor]
"""Runs the layers of a model, with what another puts between them."""


def repeat_layers(t: Tape, name: str, count: int, body: Body, x: Tensor) -> Tensor:
    """`count` layers that a model lets be checkpointed, as the plan asks.

    With every n-th checkpointed, counted over all layers of the model, a group of n
    is traced as one layer.
    """
    mode, every = t.setting.checkpointing, t.setting.checkpoint_every
    if mode == "none" or every == 1:
        return stack(t, name, count, body, x, checkpointing=mode)

    def group(t: Tape, x: Tensor) -> Tensor:
        y = stack(t, "[1]", 1, body, x, checkpointing=mode)
        return stack(t, "[2]", every - 1, body, y)

    first = min(count, -t.num_layers % every)
    t.num_layers += count
    num_groups, rest = divmod(count - first, every)
    x = stack(t, f"{name}.*.[0]", first, body, x)
    x = stack(t, name, num_groups, group, x, is_unit=False)
    x = stack(t, f"{name}.*.[3]", min(rest, 1), body, x, checkpointing=mode)
    return stack(t, f"{name}.*.[4]", max(rest - 1, 0), body, x)


def repeat_kinds(t: Tape, name: str, bodies: Sequence[Body], x: Tensor) -> Tensor:
    """Layers of several kinds, a body for each, checkpointed as the plan asks.

    A model repeats its kinds in some order. What repeats, with its checkpoints, is
    traced as one layer, and once; what is left over is traced by itself.
    """
    count = len(bodies)
    if all(body is bodies[0] for body in bodies):
        return repeat_layers(t, name, count, bodies[0], x)
    mode, every = t.setting.checkpointing, t.setting.checkpoint_every
    first, t.num_layers = t.num_layers, t.num_layers + count
    layers = [
        (body, mode if (first + index) % every == 0 else "none")
        for index, body in enumerate(bodies)
    ]
    period = next(
        size for size in range(1, count + 1) if layers[size:] == layers[:-size]
    )
    num_groups = count // period
    runs = _runs(layers[:period])

    def group(t: Tape, x: Tensor) -> Tensor:
        for number, (body, checkpointing, length) in enumerate(runs):
            name = f"[{number}]"
            x = stack(t, name, length, body, x, checkpointing=checkpointing)
        return x

    x = stack(t, name, num_groups, group, x, is_unit=False)
    rest = _runs(layers[num_groups * period :])
    for number, (body, checkpointing, length) in enumerate(rest, start=len(runs)):
        path = f"{name}.*.[{number}]"
        x = stack(t, path, length, body, x, checkpointing=checkpointing)
    return x


def _runs(layers: Sequence[tuple[Body, str]]) -> list[tuple[Body, str, int]]:
    """Neighbours that are alike, as one and their number."""
    return [
        (body, checkpointing, len(list(alike)))
        for (body, checkpointing), alike in groupby(layers)
    ]


def stack(
    t: Tape,
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
        x, done = _trace_layers(
            t, name, index, count - index, body, x, checkpointing, is_unit
        )
        index += done
    return x


def _trace_layers(
    t: Tape,
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
    # No checkpoint keeps a leaf that is on the host too, but its own node does.
    stays = storage is t.leaf and t.setting.offloads_activations
    if storage is t.leaf and not stays:
        t.hand_leaf_to_layers()
    is_checkpointed = checkpointing != "none" and t.mode.record
    is_whole = t.mode.is_whole
    outer_nodes, outer_mode, outer_live = t.nodes, t.mode, t.live
    outer_peak, outer_count, outer_events = t.peak, t.count, t.events
    kept: list[Storage] | None = [] if checkpointing == "selective" else None
    with t.scope(f"{name}.*"):
        place = t.place
        t.nodes, t.live, t.peak = [], Totals(), Peak(Totals(), place)
        t.events = Events()
        t.count *= count
        t.begin_layers()
        t.mode = replace(
            outer_mode,
            copies=outer_mode.copies * count,
            first_serial=t.num_storages,
            entry=storage,
            shared={},
            in_layer=True,
            is_whole=is_whole or is_unit,
        )
        if is_checkpointed:
            t.mode = replace(t.mode, record=False, keep=kept)
        first_edge = t.last_edge
        own = Tensor(t, storage, shape, dtype, entry)
        x.release()
        y = body(t, own)
        wants = y.edge is not None
        # A checkpoint saves what it is given, as any node saves something.
        is_held_here = is_checkpointed and not t.setting.offloads_activations
        held = [t.save(storage)] if is_held_here and wants else []
        del own
    nodes, span, shared = t.nodes, Span(t.peak, t.live), t.mode.shared
    t.nodes, t.live, t.peak = outer_nodes, outer_live, outer_peak
    t.count, t.mode, events, t.events = outer_count, outer_mode, t.events, outer_events

    is_alike = wants == (entry is not None) and y.dtype == dtype
    done = count if is_alike else 1
    t.end_layers(done, count)
    for cast in t.casts.values():
        if not is_alike and cast.tensor.edge and cast.tensor.edge > first_edge:
            cast.copies //= count
    if done > 1 and t.ledger is not None and not stays:
        t.ledger.take_over(storage, y.storage, place)
    rest = span.leaves
    is_held = storage.num_holders > 0 and (storage.kind == TEMPORARY or stays)
    parameters = _parameters_of(t, place, outer_count * count)
    layer = Layer(parameters, is_unit and not is_whole, outer_mode.in_layer)
    events = t.gathering.around_forward(layer, events)
    t.events.repeat(done, events, storage, y.storage, frees_taken=is_held)
    if is_held:
        # Someone else holds the first input; the later layers free theirs.
        rest = rest.plus(t.temporary(y.storage if stays else storage), -1)
    t.gathering.enter_layers(t, layer, done)
    numbers = sorted({0, done - 1}) if t.gathering.is_even else range(done)
    for number in numbers:
        before = span.leaves.plus(rest, number - 1) if number else Totals()
        beside_bytes = t.gathering.beside_forward(
            layer, number, done, span.peak.at.block_bytes
        )
        extra = None
        if t.ledger is not None:
            extra = t.gathering.parts_forward(layer, number, beside_bytes)
        t.raise_peak(span.peak, before, beside_bytes, place, index + number, extra)
    t.live = t.live.plus(span.leaves).plus(rest, done - 1)
    t.gathering.leave_layers(t, layer, done)
    if wants and outer_mode.record and y.edge is not None:
        trace = Trace(nodes, entry, y.edge, first_edge)
        again = None
        if is_checkpointed:
            again = _recompute(t, place, body, storage, shape, dtype, entry, kept)
        t.nodes.append(
            Stack(
                place=place,
                first_index=index,
                count=done,
                input=entry,
                output=y.edge,
                trace=None if is_checkpointed else trace,
                recompute=again,
                saved=held,
                shared=[t.save(older) for older in shared.values()],
                layer=layer,
            )
        )
    return y, done


def _recompute(
    t: Tape,
    place: str,
    body: Body,
    storage: Storage,
    shape: Shape,
    dtype: str,
    entry: int | None,
    kept: list[Storage] | None,
) -> Callable[[], Trace]:
    """The forward pass of a checkpointed layer, run again in backward.

    Its input comes back from the host where activations are there; what else it uses
    is held by name, and stays (`utils/checkpoint.py`, save_inputs).
    """
    input_bytes = prod(shape) * ITEM_BYTES[dtype]

    def run() -> Trace:
        given = storage
        if t.setting.offloads_activations:
            given = t.allocate(input_bytes)
        outer_mode, outer_place, outer_nodes = t.mode, t.place, t.nodes
        t.place, t.nodes = place, []
        t.mode = Mode(
            reuse=None if kept is None else list(kept),
            first_serial=t.num_storages,
            entry=given,
            is_recomputed=True,
            passing=[],
            in_layer=True,
            is_whole=True,
        )
        first_edge = t.last_edge
        y = body(t, Tensor(t, given, shape, dtype, entry))
        t.exit_autocast()
        for pinned in t.mode.passing or ():
            t.drop(pinned)
        assert y.edge is not None
        unsaved = t.mode.unsaved
        trace = Trace(t.nodes, entry, y.edge, first_edge, unsaved)
        t.mode, t.place, t.nodes = outer_mode, outer_place, outer_nodes
        return trace

    return run


def _parameters_of(t: Tape, place: str, num_layers: int) -> tuple[Parameter, ...]:
    """The parameters of one of `num_layers` layers."""
    return tuple(
        replace(p, count=p.count // num_layers)
        for p in t.parameters.values()
        if p.name.startswith(place)
    )
