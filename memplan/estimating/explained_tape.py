"""The terms of what the tape holds at the peak: activations and what passes by."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from memplan.estimating.arithmetic import Letters, size, term
from memplan.formulas.ledger import Made, Named, Origin
from memplan.formulas.parameters import Shape, module_path
from memplan.formulas.tensors import GRADIENT, ITEM_BYTES, SAVED, TEMPORARY
from memplan.formulas.trace import Items
from memplan.report import Term

COMPONENTS = {
    SAVED: "activations",
    TEMPORARY: "temporary_buffers",
    GRADIENT: "gradients",
}


@dataclass(frozen=True, slots=True)
class _Alike:
    """Storages that a reader would not tell apart."""

    component: str
    name: str
    requested_bytes: int
    shape: Shape | None
    dtype: str
    origin: Origin = field(compare=False)


def tape_terms(items: Items, letters: Letters) -> Iterator[Term]:
    """One for all that is alike; gradients of weights are with the weights."""
    counts: Counter[_Alike] = Counter()
    for (item, kind), count in items.items():
        if isinstance(item, Made):
            counts[_made(item, kind)] += count
        elif not item.parameter:
            counts[_named(item, kind)] += count
    for alike, count in counts.items():
        total = count * alike.requested_bytes
        formula = _formula(alike, count, letters)
        yield term(alike.component, alike.name, formula, total, alike.origin)


def _formula(alike: _Alike, count: int, letters: Letters) -> str:
    if alike.shape is not None and alike.dtype:
        item_bytes = ITEM_BYTES[alike.dtype]
        if prod(alike.shape) * item_bytes == alike.requested_bytes:
            return letters.product(alike.shape, item_bytes, count)
    if alike.requested_bytes == 1:
        return size(count)
    return size(alike.requested_bytes, count)


def _made(item: Made, kind: int) -> _Alike:
    root = item.root
    return _Alike(
        COMPONENTS[kind],
        _name(item, root, kind),
        item.requested_bytes,
        root.shape,
        root.dtype,
        root.origin,
    )


def _named(item: Named, kind: int) -> _Alike:
    name = module_path(item.place)
    return _Alike(COMPONENTS[kind], name, item.requested_bytes, None, "", item.origin)


def _name(item: Made, root: Made, kind: int) -> str:
    """`model.layers.*.mlp.gate_proj linear, saved for silu`."""
    place = module_path(root.place)
    if root.handed_on_by:
        layers = module_path(root.handed_on_by)
        if place.startswith("gradient of"):
            return f"gradient of {layers}"
        return f"{layers} input"
    if item.name:
        return f"{place}, {item.name}"
    saver = module_path(item.held_by)
    if kind == SAVED and saver and saver != place:
        return f"{place}, saved for {_beside(saver, place)}"
    return place


def _beside(operator: str, place: str) -> str:
    """An operator, by the last part of its path where that is another's."""
    module, _, name = operator.partition(" ")
    if module == place.partition(" ")[0]:
        return name
    return f"{module.rpartition('.')[2]} {name}"
