"""A ledger beside the tape: which bytes its sums are made of, one by one.

The tape keeps four sums, and that is why it is fast. With a ledger it also keeps what
they are the sums of, so that each can be shown with its place, its shape and where
it is known from. Everything the tape does with sums is linear, and so it is here: an
item counts as often as it is alive, a layer that stands for 32 counts its items 32
times, and what is freed is taken off.
"""

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from math import prod
from types import FrameType
from typing import Any

from memplan.formulas.allocator import block_bytes
from memplan.formulas.parameters import Shape
from memplan.formulas.tensors import GRADIENT, ITEM_BYTES, TEMPORARY, Storage
from memplan.formulas.trace import Items, Totals

BLOCKS = "memplan.formulas."
"""Where the building blocks are, which say what is held and why."""
MACHINERY = tuple(
    BLOCKS + name for name in ("ledger", "tape", "stacks", "tensors", "trace")
)
"""What runs building blocks, and says nothing of their bytes."""
MOST_SOURCES = 3
BESIDE = "what it keeps beside its output"
FETCHED = "what it has back from the host"
FILE = re.compile(r"`([\w/.]+\.(?:cu|cuh|cpp|h|py|yaml))`|(arXiv [\d.]+)")


@dataclass(frozen=True, slots=True)
class Origin:
    """The function that puts bytes on the tape, and the source that it names."""

    function: str = ""
    """`memplan/formulas/layers.py, rms_norm`."""
    source: str = ""
    """Files of the library, or a paper, as its docstring has them."""
    within: str = ""
    """The building block that called it, if any."""


@dataclass(eq=False, slots=True)
class Made:
    """A storage, as far as it is known; as such it is equal to itself alone."""

    place: str
    requested_bytes: int
    block_bytes: int
    origin: Origin
    name: str = ""
    """What of that place it is, where it is not the output."""
    shape: Shape | None = None
    dtype: str = ""
    held_by: str = ""
    """The backward function that saved it."""
    first: "Made | None" = None
    """What it takes over from, from one layer to the next."""
    handed_on_by: str = ""
    """The layers that do."""

    @property
    def root(self) -> "Made":
        return self if self.first is None else self.first.root


@dataclass(frozen=True, slots=True)
class Named:
    """Bytes by their name alone: equal names are the same."""

    place: str
    requested_bytes: int
    block_bytes: int
    origin: Origin = field(default=Origin(), compare=False)
    parameter: str = ""
    """Of a gradient, the weight's name."""


class Ledger:
    """What the storages of a tape are, and what its edges are the gradients of."""

    def __init__(self) -> None:
        self.items: dict[int, Made | Named] = {}
        """By serial."""
        self.edges: dict[int, tuple[str, Shape, str]] = {}
        """What has a gradient: its name, shape and dtype."""
        self.origins: dict[str, Origin] = {}
        """Of operators, by place and name."""

    # What the tape does

    def enter(self, live: Totals, storage: Storage, place: str) -> None:
        """A storage is allocated."""
        item = Made(place, storage.requested_bytes, storage.block_bytes, _origin())
        self.items[storage.serial] = item
        add(live, item, storage.kind, 1)

    def leave(self, live: Totals, storage: Storage, copies: int) -> None:
        """Copies of it are freed."""
        add(live, self.items[storage.serial], storage.kind, -copies)

    def turn(self, live: Totals, storage: Storage, kind: int) -> None:
        """It is about to be of another kind."""
        item = self.items[storage.serial]
        add(live, item, storage.kind, -1)
        add(live, item, kind, 1)

    def grow(self, live: Totals, what: str, size_bytes: int) -> None:
        """Bytes that data parallelism holds, by name."""
        add(live, Named(what, 1, 1, _origin()), TEMPORARY, size_bytes)

    def beside(self, live: Totals, what: str, size_bytes: int) -> Items:
        """What is alive, and scratch for the moment."""
        items = dict(live.items or {})
        if size_bytes:
            origin = self.origins.get(what) or _origin()
            blocks = block_bytes(size_bytes)
            scratch = Named(f"scratch of {what}", size_bytes, blocks, origin)
            items[scratch, TEMPORARY] = 1
        return items

    # What is what

    def describe(
        self,
        storage: Storage,
        place: str,
        name: str,
        shape: Shape,
        dtype: str,
        edge: int | None = None,
    ) -> None:
        """The output of an operator; `edge` is its gradient's."""
        origin = _origin()
        # The model's own forward is in no module.
        operator = f"{place or origin.within} {name}".strip()
        self.origins.setdefault(operator, origin)
        if edge is not None:
            self.edges[edge] = operator, shape, dtype
        item = self.items.get(storage.serial)
        if isinstance(item, Made) and item.shape is None:
            item.place, item.shape, item.dtype = operator, shape, dtype

    def hold(self, saved: Iterable[Storage], operator: str, shape: Shape) -> None:
        """An operator has saved them for its backward pass.

        What has no shape yet it keeps beside its output of this one.
        """
        for storage in saved:
            item = self.items.get(storage.serial)
            if not isinstance(item, Made):
                continue
            if item.shape is None:
                item.place, item.name = operator, BESIDE
                item.shape, item.dtype = _shape_beside(shape, item.requested_bytes)
            item.held_by = item.held_by or operator

    def fetch(self, storages: Iterable[Storage]) -> None:
        """What an operator has saved on the host is back."""
        for storage in storages:
            item = self.items[storage.serial]
            if isinstance(item, Made):
                item.name = FETCHED

    def describe_gradient(self, storage: Storage, edge: int) -> None:
        """The gradient of what `edge` stands for."""
        item = self.items.get(storage.serial)
        if isinstance(item, Made) and edge in self.edges:
            of, item.shape, item.dtype = self.edges[edge]
            item.place = f"gradient of {of}"

    def keep_gradient(self, live: Totals, storage: Storage, parameter: str) -> None:
        """It becomes the gradient of a weight, or of a leaf without a name."""
        item = self.items[storage.serial]
        add(live, item, TEMPORARY, -1)
        if parameter:
            item = gradient(parameter, storage.requested_bytes)
            self.items[storage.serial] = item
        add(live, item, GRADIENT, 1)

    def take_over(self, first: Storage, last: Storage, place: str) -> None:
        """Each of several layers frees the first and leaves the last, its like."""
        before, after = self.items.get(first.serial), self.items.get(last.serial)
        if not isinstance(before, Made) or not isinstance(after, Made):
            return
        alike = before.requested_bytes == after.requested_bytes
        if alike and before.root is not after.root:
            before.root.handed_on_by = before.root.handed_on_by or place
            after.root.first = before.root


def gradient(parameter: str, size_bytes: int) -> Named:
    """The gradient of a weight, the same whoever makes or frees it."""
    blocks = block_bytes(size_bytes)
    return Named(f"gradient of {parameter}", size_bytes, blocks, parameter=parameter)


def gradients(whole: Iterable[tuple[str, int, int]]) -> Items:
    """Those of weights: by name, bytes, and how many."""
    return {(gradient(name, size), GRADIENT): count for name, size, count in whole}


def without_gradients(
    items: Items | None, whole: Iterable[tuple[str, int, int]], shards: int
) -> Items | None:
    """Whole gradients are gone, and their shards are there."""
    if items is None:
        return None
    left = Totals(items=dict(items))
    for (item, kind), count in gradients(whole).items():
        add(left, item, kind, -count)
    if shards:
        part = Named("gradients in shards", shards, block_bytes(shards), _origin())
        add(left, part, GRADIENT, 1)
    return left.items


def partition(own: int, whole: int) -> Items:
    """A flat buffer of gradients: this rank's own, and what its borders cut."""
    blocks = block_bytes(whole)
    cut = whole - own
    part = Named("partition of the gradients", own, blocks - cut, _origin())
    rest = Named("gradients that a partition's borders cut", cut, cut, _origin())
    return {(part, GRADIENT): 1, (rest, TEMPORARY): 1}


def _shape_beside(output: Shape, size_bytes: int) -> tuple[Shape | None, str]:
    """A mask as large as the output; else one or two sums in fp32 for each row."""
    rows = output[:-1]
    for shape, dtype in ((output, "bool"), (rows, "fp32"), ((2, *rows), "fp32")):
        if prod(shape) * ITEM_BYTES[dtype] == size_bytes:
            return shape, dtype
    return None, ""


def add(live: Totals, item: Any, kind: int, times: int) -> None:
    """So many more of an item."""
    if live.items is None:
        live.items = {}
    count = live.items.get((item, kind), 0) + times
    if count:
        live.items[item, kind] = count
    else:
        live.items.pop((item, kind), None)


def _origin() -> Origin:
    """The building block that called the tape.

    Its source is its own, or of a building block around it, or that of its module.
    """
    frame: FrameType | None = sys._getframe(2)
    blocks = []
    while frame is not None:
        module = frame.f_globals["__name__"]
        if module.startswith(BLOCKS) and module not in MACHINERY:
            blocks.append(_described(module, frame.f_code.co_qualname))
        elif blocks or module.startswith("memplan.models."):
            break
        frame = frame.f_back
    if not blocks and frame is not None:
        blocks = [_described(frame.f_globals["__name__"], frame.f_code.co_qualname)]
    if not blocks:
        return Origin()
    function, _, of_module = blocks[0]
    within = blocks[1][0].rpartition(" ")[2] if len(blocks) > 1 else ""
    source = next((own for _, own, _ in blocks if own), of_module)
    return Origin(function, source, within)


def origin_of(function: Callable[..., Any]) -> Origin:
    """The origin of what a function returns."""
    name, own, of_module = _described(function.__module__, function.__qualname__)
    return Origin(name, own or of_module)


@cache
def _described(module: str, qualified_name: str) -> tuple[str, str, str]:
    """Where a function is, the sources in its docstring, and those of its module."""
    function: Any = sys.modules[module]
    for part in qualified_name.split("."):
        function = getattr(function, part, None)
    is_package = hasattr(sys.modules[module], "__path__")
    name = module.replace(".", "/") + ("/__init__.py" if is_package else ".py")
    if function is not None:
        name += f", {qualified_name}"
    of_module = _sources(sys.modules[module].__doc__)
    return name, _sources(getattr(function, "__doc__", None)), of_module


def _sources(docstring: str | None) -> str:
    """The first files of libraries, and papers, that a docstring names."""
    text = " ".join((docstring or "").split()).replace("/ ", "/")
    found = (file or paper for file, paper in FILE.findall(text))
    return ", ".join(islice(dict.fromkeys(found), MOST_SOURCES))
