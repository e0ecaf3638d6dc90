"""What memory is held by, at one moment: components and the largest holders.

A block is, in this order,

    what its holder says      weights, gradients, states, the batch, a cache (owners.py)
    sharding's                buffers that gather weights and reduce gradients
    a cast weight             copied to a lower precision by autocast
    an activation             saved by a node of the graph, or held by it: nothing but
                              the graph lets go of a block during the backward pass; or
                              recomputed there and still needed
    temporary                 made in this step or the one before, and none of these
    cuBLAS's workspace        by its size: no tensor lies in it
    unattributed              older, and nobody says what it is

The components sum up to the allocator's requested bytes.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memplan.runner.history import NEVER, Block, History, Moment
from memplan.runner.labels import COMPONENTS, OWNERS, Label, Role
from memplan.runner.lines import Frame, line_of
from memplan.runner.phases import BACKWARD, FORWARD, LOSS, SETUP
from memplan.runner.tags import NOWHERE, Place, Tags

MOST_HOLDERS = 20

SHARDING = (
    "torch/distributed/fsdp/",
    "torch/distributed/_composable/",
    "torch/distributed/algorithms/",
    "torch/distributed/optim/",
    "torch/nn/parallel/distributed.py",
    "deepspeed/runtime/",
)
"""Files whose blocks gather, scatter and reduce."""
MODULE_CALL = "torch/nn/modules/module.py"
"""What an operator within a sharded module's forward pass allocates is the module's."""
CHECKPOINTING = ("torch/utils/checkpoint.py", "/activation_checkpointing/")
ENGINE = "torch/autograd/graph.py"
"""A checkpoint recomputes; the backward pass of what it made is no recomputation."""
WORKSPACE_BYTES = (8_519_680, 32 << 20)
"""PyTorch's own choices (`CublasHandlePool.cpp`)."""


@dataclass(frozen=True, slots=True)
class Held:
    """A block and what it is."""

    block: Block
    label: Label


class Attribution:
    """Says what blocks are, from notes taken while the program ran."""

    def __init__(self, history: History, tags: Tags) -> None:
        self._tags = tags
        self._labels: dict[Block, list[Label]] = {}
        for note in tags.notes:
            block = history.block_at(note.address, note.serial)
            if block is not None:
                self._labels.setdefault(block, []).append(note.label)

    def held(self, moment: Moment) -> list[Held]:
        """What each block is that was alive at a moment."""
        held = [
            Held(block, self._label(block, moment.serial)) for block in moment.alive
        ]
        return _with_buckets(held, self._tags.bucket_sizes)

    def place_of(self, moment: Moment) -> tuple[Place, str]:
        """Where the program was, and in which line."""
        place = self._place(moment.serial)
        line = line_of(moment.newest.frames) if moment.newest else ""
        if not line and place.phase == BACKWARD:
            line = self._tags.backward_line
        return place, line

    def _place(self, serial: int) -> Place:
        return self._tags.places.get(serial, NOWHERE)

    def _label(self, block: Block, serial: int) -> Label:
        labels = _fullest(self._labels.get(block, ()), block.num_bytes)
        for role in OWNERS:
            if role in labels:
                return labels[role]
        born = self._place(block.born)
        module = born.module
        if Role.BATCH in labels and born.phase not in (FORWARD, LOSS):
            return labels[Role.BATCH]
        if _comes_from(block.frames, SHARDING, but_for=MODULE_CALL):
            return Label(Role.SHARDING, module, "buffer of sharding")
        if Role.CAST in labels:
            return labels[Role.CAST]
        if self._is_held_by_graph(block, serial, Role.SAVED in labels):
            return _as_saved(labels) or Label(Role.SAVED, module, "held by the graph")
        if self._is_recomputed(block):
            return _as_saved(labels) or Label(Role.SAVED, module, "recomputed")
        if Role.LEAF_GRADIENT in labels:
            return labels[Role.LEAF_GRADIENT]
        if block.num_bytes in WORKSPACE_BYTES and block.freed == NEVER:
            return Label(Role.WORKSPACE, "", "cuBLAS workspace")
        if born.phase == SETUP:
            unknown = labels.get(Role.UNKNOWN, Label(Role.UNKNOWN))
            return labels.get(Role.COPY, unknown)
        name = f"temporary of {born.node or born.phase}"
        return labels.get(Role.PASSING, Label(Role.PASSING, module, name))

    def _is_held_by_graph(self, block: Block, serial: int, is_saved: bool) -> bool:
        """Let go of in a backward pass, or saved for one that is yet to come."""
        if self._place(block.born).phase not in (FORWARD, LOSS):
            return False
        if self._place(block.freed).phase == BACKWARD:
            return True
        ends = self._tags.backward_ends
        index = bisect_right(ends, block.born)
        is_over = index < len(ends) and ends[index] <= serial
        return is_saved and not is_over

    def _is_recomputed(self, block: Block) -> bool:
        """Made again by a checkpoint, and kept for the functions that come next."""
        if self._place(block.born).phase != BACKWARD:
            return False
        if not _comes_from(block.frames, CHECKPOINTING, but_for=ENGINE):
            return False
        starts = self._tags.node_starts
        index = bisect_right(starts, block.born)
        return index < len(starts) and starts[index] <= block.freed


def _with_buckets(held: Sequence[Held], sizes: Sequence[int]) -> list[Held]:
    """DDP's own buckets by their sizes, where no history has the lines that made them.

    No Python object holds them, so no note was taken of them.
    """
    left = Counter(sizes)
    known = []
    for one in held:
        size, label = one.block.num_bytes, one.label
        if label.role is Role.UNKNOWN and not one.block.frames and left[size]:
            left[size] -= 1
            label = Label(Role.SHARDING, "", "buffer of sharding")
        known.append(Held(one.block, label))
    return known


def _fullest(said: Iterable[Label], num_bytes: int) -> dict[Role, Label]:
    """Of each role, the label whose tensor fills most of the block.

    Of several alike it is the first: a module's output is often its caller's too.
    """
    labels: dict[Role, Label] = {}
    for label in said:
        known = labels.setdefault(label.role, label)
        if known.num_bytes < min(label.num_bytes, num_bytes):
            labels[label.role] = label
    return labels


def _as_saved(labels: Mapping[Role, Label]) -> Label | None:
    """What a node saved, unless that is a part of what a module had given back."""
    saved, passing = labels.get(Role.SAVED), labels.get(Role.PASSING)
    if passing and (saved is None or saved.num_bytes < passing.num_bytes):
        return replace(passing, role=Role.SAVED)
    return saved


def components_of(held: Iterable[Held]) -> dict[str, int]:
    """Bytes by component."""
    sums = dict.fromkeys(COMPONENTS, 0)
    for one in held:
        sums[one.label.role.component] += one.block.num_bytes
    return sums


def all_blocks(held: Iterable[Held]) -> list[dict[str, Any]]:
    """Every block, the largest first; those of one module, name and line as one."""
    groups: dict[tuple[str, str, str, str], list[int]] = {}
    for one in held:
        label = one.label
        key = (label.role.component, label.module, label.name, _line(one))
        groups.setdefault(key, []).append(one.block.num_bytes)
    blocks = [
        dict(zip(BLOCK, (*key, sum(sizes), len(sizes)), strict=True))
        for key, sizes in groups.items()
    ]
    return sorted(blocks, key=lambda block: -int(block["bytes"]))


BLOCK = ("component", "module", "name", "line", "bytes", "count")


def largest_holders(held: Iterable[Held]) -> list[dict[str, Any]]:
    """The largest, with alike blocks of the layers of a stack as one."""
    groups: dict[tuple[Any, ...], list[Held]] = {}
    for one in held:
        label = one.label
        stack = NUMBER.sub("*", label.module)
        key = (label.role, stack, label.name, label.shape, label.dtype, _line(one))
        groups.setdefault(key, []).append(one)
    holders = [_holder(key[1], key[-1], group) for key, group in groups.items()]
    holders.sort(key=lambda holder: -int(holder["bytes"]))
    return holders[:MOST_HOLDERS]


def _line(one: Held) -> str:
    """cuBLAS keeps its workspace for all to come, whichever line was the first."""
    if one.label.role is Role.WORKSPACE:
        return ""
    return line_of(one.block.frames)


def _holder(stack: str, line: str, group: Sequence[Held]) -> dict[str, Any]:
    """Blocks that are alike; `layers.*` where they are of several layers."""
    label = group[0].label
    is_one = len({one.label.module for one in group}) == 1
    return {
        "bytes": sum(one.block.num_bytes for one in group),
        "component": label.role.component,
        "module": label.module if is_one else stack,
        "name": label.name,
        "shape": label.shape and list(label.shape),
        "dtype": label.dtype,
        "line": line,
        "count": len(group),
    }


NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)")


def _comes_from(frames: Sequence[Frame], files: Sequence[str], but_for: str) -> bool:
    """Whether one of these files made it, with no call through `but_for` between."""
    for frame in frames:
        if but_for in frame["filename"]:
            return False
        if any(mark in frame["filename"] for mark in files):
            return True
    return False
