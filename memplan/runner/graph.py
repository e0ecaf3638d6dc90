"""The autograd graph as it grows: which module made a node, and what the node saved.

A module's nodes are those reachable from what it gives to modules inside it, and from
its own output, that none of these claimed.
What a node saved is read without unpacking it: a checkpoint would recompute, an
offloaded tensor would come back. Every node is given a hook that says which module's
backward pass is running. Nothing here holds on to a node or a tensor.
"""

import sys
from collections.abc import Hashable, Iterable, Iterator
from functools import cache
from typing import Any
from weakref import ref

import torch
from torch.utils.hooks import RemovableHandle

from memplan.runner.labels import Label, Role
from memplan.runner.tags import Tags
from memplan.runner.tensors import address_of, tensors_in

CLAIMED = "memplan"
"""Key in a node's metadata: some module has claimed it, in the eyes of a `Graph`."""
RAW = "_raw_saved_"
VIEWS = (
    "AliasBackward0",
    "ExpandBackward0",
    "PermuteBackward0",
    "ReshapeAliasBackward0",
    "SqueezeBackward0",
    "TBackward0",
    "TransposeBackward0",
    "UnsafeViewBackward0",
    "UnsqueezeBackward0",
    "ViewBackward0",
)
CAST = "ToCopyBackward0"
LEAF = "torch::autograd::AccumulateGrad"

Node = Any
"""Of torch.autograd.graph.Node; built-in ones are of classes without a base."""


class Graph:
    """Notes what nodes save, and lets them say where the backward pass is."""

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self._is_attached = True
        self._mark = object()
        self._leaves: list[RemovableHandle] = []
        """Hooks of leaves: DDP keeps those nodes for as long as it lives."""

    def detach(self) -> None:
        """Be told nothing more by the nodes that there are."""
        self._is_attached = False
        for handle in self._leaves:
            handle.remove()
        self._leaves.clear()

    def forget_freed(self) -> None:
        """Of hooks whose nodes are gone nothing is left to remove."""
        self._leaves = [
            handle for handle in self._leaves if handle.hooks_dict_ref() is not None
        ]

    def claim(self, output: Any, path: str, module: torch.nn.Module | None) -> None:
        """The nodes behind these tensors that no module has claimed are `path`'s."""
        if _is_compiled_autograd():
            return
        todo: list[Node] = [
            t.grad_fn for t in tensors_in(output) if t.grad_fn is not None
        ]
        while todo:
            node = todo.pop()
            if node.metadata.get(CLAIMED) is self._mark:
                continue
            node.metadata[CLAIMED] = self._mark
            self._note_saved(node, path, module)
            self._hook(node, path)
            todo += [inner for inner, _ in node.next_functions if inner is not None]

    def _note_saved(
        self, node: Node, path: str, module: torch.nn.Module | None
    ) -> None:
        kind = _kind(node)
        for name, tensor in _saved(node):
            address = address_of(tensor)
            if not address:
                continue
            if _is_weight_cast(tensor, module):
                label = Label.of(tensor, Role.CAST, path, "weight cast")
            else:
                label = Label.of(tensor, Role.SAVED, path, f"{name} saved by {kind}")
            self._tags.note(address, label)

    def _hook(self, node: Node, path: str) -> None:
        kind = _kind(node)
        if node.name() == LEAF:
            hook = self._at_leaf(node.variable, path)
            self._leaves.append(node.register_prehook(hook))
            return

        def before(gradients: tuple[torch.Tensor | None, ...]) -> None:
            if not self._is_attached:
                return
            self._note_gradients(gradients, Role.PASSING, path, f"gradient of {kind}")
            self._tags.put_node(kind, path)

        node.register_prehook(before)

    def _at_leaf(self, variable: torch.Tensor, path: str) -> Any:
        """A first gradient stays as the leaf's own; later ones are added to it."""
        leaf = ref(variable)

        def before(gradients: tuple[torch.Tensor | None, ...]) -> None:
            variable = leaf()
            if variable is not None and variable.grad is None:
                role = Role.LEAF_GRADIENT
                self._note_gradients(gradients, role, path, "gradient")
            self._tags.put_node("AccumulateGrad", path)

        return before

    def _note_gradients(
        self,
        gradients: Iterable[torch.Tensor | None],
        role: Role,
        path: str,
        name: str,
    ) -> None:
        for gradient in gradients:
            address = 0 if gradient is None else address_of(gradient)
            if gradient is not None and address:
                self._tags.note(address, Label.of(gradient, role, path, name))


def _kind(node: Node) -> str:
    """`MmBackward0`."""
    return str(node.name()).rsplit("::", 1)[-1]


@cache
def _raw_names(kind: Hashable) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith(RAW))


def _saved(node: Node) -> Iterator[tuple[str, torch.Tensor]]:
    """What a node saved, hooks left alone: what those packed is no tensor of ours."""
    kind: Any = type(node)
    for raw in _raw_names(kind):
        try:
            held = getattr(node, raw)
        except (RuntimeError, AttributeError):
            continue  # the node has run, or saved nothing under that name
        name = raw.removeprefix(RAW)
        for one in held if isinstance(held, (tuple, list)) else (held,):
            data = getattr(one, "data", None)
            if isinstance(data, torch.Tensor):
                yield name, data
    # A function written in Python may keep tensors as attributes as well.
    for name, value in getattr(node, "__dict__", {}).items():
        for tensor in tensors_in(value, 2):
            yield name, tensor


def _is_weight_cast(tensor: torch.Tensor, module: torch.nn.Module | None) -> bool:
    """Whether a saved tensor is a weight in another dtype, as autocast makes it."""
    node = tensor.grad_fn
    while node is not None and _kind(node) in VIEWS:
        node = node.next_functions[0][0]
    if node is not None:
        source = node.next_functions[0][0] if _kind(node) == CAST else None
        return source is not None and source.name() == LEAF
    if module is None or tensor.requires_grad:
        return False
    return any(
        weight is not None
        and weight.dtype != tensor.dtype
        and sorted(weight.shape) == sorted(tensor.shape)
        for weight in module._parameters.values()
    )


def _is_compiled_autograd() -> bool:
    """Compiled autograd would trace the hooks into its graph."""
    module = sys.modules.get("torch._dynamo.compiled_autograd")
    return bool(module and getattr(module, "compiled_autograd_enabled", False))
