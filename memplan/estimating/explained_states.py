"""The terms of what stands still: weights, gradients, optimizer states.

Tensors are listed by the name of their parameter and shown by what they are part of:
`model.layers.*` is one term, however many weights a layer has.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from memplan.estimating.arithmetic import elements, size, term
from memplan.formulas.backward import run_backward
from memplan.formulas.ddp import Ddp, ZeroRedundancy
from memplan.formulas.ledger import Named, Origin, origin_of
from memplan.formulas.optimizers import Optimizer, state_tensors, table_tensors
from memplan.formulas.parameters import Parameter, module_path
from memplan.formulas.sharding import Sharder, Tensors, trained
from memplan.formulas.tensors import GRADIENT, ITEM_BYTES
from memplan.formulas.trace import Items
from memplan.formulas.weights import Storing
from memplan.report import Term
from memplan.units import ceil_div

ADAPTER = ".lora_"


@dataclass(frozen=True, slots=True)
class Part:
    """What a rank holds for one parameter, `count` times."""

    parameter: Parameter
    size_bytes: int
    count: int
    item_bytes: int
    """Of an element; 0 where several share a byte."""

    @property
    def total_bytes(self) -> int:
        return self.size_bytes * self.count

    @property
    def place(self) -> str:
        """The repeated layers that it is in, else its module."""
        name = module_path(self.parameter.name)
        layers, star, _ = name.rpartition("*")
        place = layers + star if star else name.rpartition(".")[0] or name
        return f"{place} LoRA adapters" if ADAPTER in name else place

    @property
    def is_shard(self) -> bool:
        whole = self.item_bytes * self.parameter.num_elements
        return 0 < self.size_bytes < whole


def weight_terms(sharder: Sharder, parameters: Sequence[Parameter]) -> Iterator[Term]:
    """Every weight, as this rank holds it."""
    parts = [
        Part(parameter, size_bytes, count, _weight_item_bytes(parameter))
        for parameter in parameters
        for size_bytes, count in sharder.weights([parameter])
    ]
    origin = origin_of(Storing if _is_whole(sharder) else sharder.weights)
    return by_place("weights", parts, origin)


def gradient_terms(sharder: Sharder, parameters: Sequence[Parameter]) -> Iterator[Term]:
    """Every gradient, when the optimizer steps."""
    tensors = sharder.gradients(parameters)
    origin = origin_of(run_backward if _is_whole(sharder) else sharder.gradients)
    some = trained(parameters)
    if len(tensors) != len(some):
        yield from _flat(tensors, origin)
        return
    parts = [
        Part(parameter, size_bytes, count, _weight_item_bytes(parameter))
        for parameter, (size_bytes, count) in zip(some, tensors, strict=True)
    ]
    yield from by_place("gradients", parts, origin)


def alive_gradient_terms(
    sharder: Sharder, parameters: Sequence[Parameter], left: Tensors, items: Items
) -> Iterator[Term]:
    """Those that the last micro-batch began with, and those that it has made.

    What has been reduced since is taken off.
    """
    origin = origin_of(run_backward if _is_whole(sharder) else sharder.left_gradients)
    some = {parameter.name: parameter for parameter in trained(parameters)}
    counts: Counter[tuple[str, int]] = Counter()
    if len(left) == len(some):
        for name, (size_bytes, count) in zip(some, left, strict=True):
            counts[name, size_bytes] += count
    else:
        yield from _flat(left, origin)
    for (item, kind), count in items.items():
        if kind == GRADIENT and isinstance(item, Named) and item.parameter:
            counts[item.parameter, item.requested_bytes] += count
    parts = [
        Part(some[name], size_bytes, count, size_bytes // some[name].num_elements)
        for (name, size_bytes), count in counts.items()
        if count
    ]
    yield from by_place("gradients", parts, origin)


def state_terms(optimizer: Optimizer, updated: list[Parameter]) -> Iterator[Term]:
    """Every state of the tensors that this rank updates, by bytes an element."""
    origin = origin_of(state_tensors)
    whole: dict[int, list[Part]] = defaultdict(list)
    others: Counter[int] = Counter()
    for parameter in updated:
        states = Counter(state_tensors(optimizer, parameter))
        for size_bytes, times in states.items():
            item_bytes, rest = divmod(size_bytes, parameter.num_elements)
            if rest or not item_bytes:
                others[size_bytes] += times * parameter.count
            else:
                part = Part(parameter, size_bytes, parameter.count, item_bytes)
                whole[times].append(part)
    for times, parts in whole.items():
        what = f"{optimizer.name}, states of "
        yield from by_place("optimizer_states", parts, origin, what, times)
    small = sum(size_bytes * count for size_bytes, count in others.items())
    name = f"{optimizer.name}, {others.total()} states smaller than their weights"
    yield term("optimizer_states", name, size(small), small, origin)
    for size_bytes in table_tensors(optimizer, updated):
        yield term(
            "optimizer_states",
            "table of 8-bit codes",
            size(size_bytes),
            size_bytes,
            origin_of(table_tensors),
        )


def by_place(
    component: str,
    parts: Iterable[Part],
    origin: Origin,
    what: str = "",
    times: int = 1,
) -> Iterator[Term]:
    """One term for all of a place that take the same bytes an element, `times` over."""
    groups: dict[tuple[str, int], list[Part]] = defaultdict(list)
    for part in parts:
        groups[part.place, part.item_bytes].append(part)
    for (place, item_bytes), some in groups.items():
        name = what + place
        if any(part.is_shard for part in some):
            whole = sum(part.parameter.num_elements * part.count for part in some)
            name += f", this rank's shards of {whole:,}"
        formula = _elements(some, item_bytes) if item_bytes else _quantized(some)
        if times > 1:
            formula = f"{times} x {formula}"
        total = times * sum(part.total_bytes for part in some)
        yield term(component, name, formula, total, origin)


def parts_of(
    parameters: Iterable[Parameter], size_of: Callable[[Parameter], int]
) -> list[Part]:
    """So many bytes for each."""
    return [
        Part(p, size_of(p), p.count, size_of(p) // p.num_elements) for p in parameters
    ]


def _is_whole(sharder: Sharder) -> bool:
    """Weights and gradients are what they are on one card."""
    return isinstance(sharder, Ddp | ZeroRedundancy)


def _weight_item_bytes(parameter: Parameter) -> int:
    stored = parameter.stored
    if stored.is_quantized:
        return 0
    return ITEM_BYTES[stored.kept_dtype or stored.dtype]


def _flat(tensors: Tensors, origin: Origin) -> Iterator[Term]:
    for size_bytes, count in tensors:
        formula, total = size(size_bytes, count), size_bytes * count
        yield term("gradients", "partition of this rank", formula, total, origin)


def _elements(parts: Sequence[Part], item_bytes: int) -> str:
    """`32 x 218,112,000 x 4 B`, or as many as there are of all of them."""
    counts = {part.count for part in parts}
    count = counts.pop() if len(counts) == 1 else 1
    total = sum(part.total_bytes for part in parts)
    return elements(total // item_bytes // count, item_bytes, count)


def _quantized(parts: Sequence[Part]) -> str:
    """As `quantized_bytes` has it: int8, or nf4."""
    total = sum(part.total_bytes for part in parts)
    if any(part.size_bytes != part.parameter.stored.num_bytes for part in parts):
        return size(total)
    sums: Counter[str] = Counter()
    for part in parts:
        num_elements, count = part.parameter.num_elements, part.count
        sums["elements"] += count * num_elements
        sums["rows"] += count * part.parameter.shape[0]
        sums["halves"] += count * ceil_div(num_elements, 2)
        sums["blocks"] += count * ceil_div(num_elements, 64)
        sums["tensors"] += count
    if total == sums["elements"] + 4 * sums["rows"]:
        return f"{sums['elements']:,} + {sums['rows']:,} x 4 B"
    return f"{sums['halves']:,} + {sums['blocks']:,} x 4 + {sums['tensors']} x 64 B"
