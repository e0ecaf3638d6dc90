"""What long-lived blocks are: weights, gradients, optimizer states, the batch, caches.

A block belongs to whoever holds a tensor in it, so these go by address; the address is
looked up when the holder is sure to hold it.
"""

import gc
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from memplan.runner.labels import Label, Role
from memplan.runner.modules import plain_path
from memplan.runner.tags import Tags
from memplan.runner.tensors import addresses_of, named_tensors_in, tensors_in

DEEPSPEED_GRADIENTS = ("averaged_gradients", "grad_partitions_flat_buffer")
"""Of its optimizers, beside the gradients of the tensors they update."""
PARTS = ("quant_state", "CB", "SCB", "ds_tensor")
"""What libraries hang on a parameter: constants of quantization, a shard of it."""
COUNTED = ("param_groups", "state")
CACHES = ("past_key_values", "cache_params", "past_key_value")
CACHE_DEPTH = 5
"""A cache of two caches, of encoder and decoder, of layers, of keys and values."""


class Owners:
    """Notes what is where."""

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self._names: MutableMapping[torch.Tensor, str] = WeakTensorKeyDictionary()
        """Paths of the parameters and buffers of models."""

    def note_batch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What a model is called with."""
        for name, tensor in named_tensors_in((*args, kwargs), "batch"):
            if not tensor.requires_grad:
                self._note(tensor, Role.BATCH, "", name)

    def note_output(self, output: Any, module: str) -> None:
        """What a module gives back may be kept by whoever called it."""
        for tensor in tensors_in(output):
            for address in addresses_of(tensor):
                label = Label.of(tensor, Role.PASSING, module, "output")
                self._tags.note(address, label)

    def note_caches(self, thing: Any) -> None:
        """Keys and values that generation keeps, in what a model is given or gives."""
        if not isinstance(thing, dict) or torch.is_grad_enabled():
            return
        for name in CACHES:
            for tensor in _within(thing.get(name), CACHE_DEPTH):
                self._note(tensor, Role.EXTRA, "", "KV cache")

    def note_gradients(
        self, models: Iterable[torch.nn.Module], optimizers: Iterable[Any]
    ) -> None:
        """Gradients as they are between the backward pass and the update."""
        for model in models:
            engine = getattr(model, "optimizer", None)
            for name, parameter in model.named_parameters():
                gradient = parameter.grad
                if gradient is not None and (engine is None or _is_whole(gradient)):
                    self._note(gradient, Role.GRADIENT, name, "gradient")
            for attribute in DEEPSPEED_GRADIENTS:
                held = getattr(engine, attribute, None)
                for _, tensor in named_tensors_in(held):
                    self._note(tensor, Role.GRADIENT, "", attribute)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None and parameter not in self._names:
                        self._note(parameter.grad, Role.GRADIENT, "", "gradient")

    def note_states(
        self,
        trained: Iterable[torch.nn.Module],
        used: Iterable[torch.nn.Module],
        optimizers: Iterable[Any],
    ) -> None:
        """Models and optimizers. A model beside those that are trained is an extra."""
        used = [*used]
        models = [model for model in trained if _trains(model)] or used
        for model in models:
            self._note_model(model, Role.WEIGHT)
        for model in (*trained, *used):
            self._note_model(model, Role.EXTRA)
        for optimizer in optimizers:
            self.note_optimizer(optimizer)

    def note_optimizer(self, optimizer: Any) -> None:
        """Its states; and what it updates, where that is no parameter of a model.

        Libraries with fp32 master weights hand those to the optimizer.
        """
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter not in self._names:
                    self._note(parameter, Role.STATE, "", "master weights")
        for parameter, state in optimizer.state.items():
            owner = self._names.get(parameter, "")
            for name, tensor in named_tensors_in(state):
                self._note(tensor, Role.STATE, owner, name)
        others = {k: v for k, v in vars(optimizer).items() if k not in COUNTED}
        for name, tensor in named_tensors_in(others, depth=2):
            self._note(tensor, Role.STATE, "", name)

    def note_buckets(self, models: Iterable[torch.nn.Module]) -> None:
        """What DDP keeps out of Python's sight, as it logs it: sizes, no addresses."""
        sizes: list[int] = []
        for model in models:
            if isinstance(model, torch.nn.parallel.DistributedDataParallel):
                logged = model._get_ddp_logging_data()  # type: ignore[no-untyped-call]
                said = logged.get("rebuilt_bucket_sizes") or logged.get("bucket_sizes")
                sizes += map(int, str(said or "").replace(",", " ").split())
        self._tags.bucket_sizes = sizes

    def note_all_alive(self) -> None:
        """Models that were never called, and whatever other tensors Python knows."""
        models, tensors = _alive()
        self._note_unused_models(models)
        self._note_others(tensors)

    def _note_unused_models(self, models: Iterable[torch.nn.Module]) -> None:
        """Copies of a model need never be called to take memory.

        Before any is called, all are the model: it is being built.
        """
        role = Role.EXTRA if self._names else Role.WEIGHT
        for model in models:
            self._note_model(model, role)

    def _note_others(self, tensors: Iterable[torch.Tensor]) -> None:
        """Of tensors alone, the shape at least.

        Averaged weights are often kept as bare tensors, which only their shape gives
        away.
        """
        shapes = {tensor.shape for tensor in self._names}
        for tensor in tensors:
            if tensor not in self._names:
                is_copy = tensor.numel() > 1 and tensor.shape in shapes
                name = "in the shape of a weight" if is_copy else ""
                role = Role.COPY if is_copy else Role.UNKNOWN
                self._note(tensor, role, "", name)

    def _note_model(self, model: torch.nn.Module, role: Role) -> None:
        """A tensor that belongs to two models is the first one's."""
        for name, parameter in model.named_parameters():
            known = self._names.setdefault(parameter, name)
            self._note(parameter, role, known, "")
            for attribute in PARTS:
                for tensor in _within(getattr(parameter, attribute, None)):
                    self._note(tensor, role, known, attribute)
        for name, buffer in model.named_buffers():
            self._note(buffer, role, self._names.setdefault(buffer, name), "")

    def _note(self, tensor: torch.Tensor, role: Role, owner: str, name: str) -> None:
        """`owner` is a parameter's path, of which the module's is the front."""
        module, _, leaf = plain_path(owner).rpartition(".")
        said = " ".join(filter(None, (leaf, name)))
        for address in addresses_of(tensor):
            self._tags.note(address, Label.of(tensor, role, module, said))


def _is_whole(gradient: torch.Tensor) -> bool:
    """Not a part of the bucket in which DeepSpeed reduces many."""
    return gradient.untyped_storage().nbytes() == gradient.nbytes


def _trains(model: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in model.parameters())


def _alive() -> tuple[list[torch.nn.Module], list[torch.Tensor]]:
    """Every module and every tensor. Asking for types alone wakes no lazy proxy."""
    modules, tensors = [], []
    for thing in gc.get_objects():
        kind = type(thing)
        if issubclass(kind, torch.Tensor):
            tensors.append(thing)
        elif issubclass(kind, torch.nn.Module):
            modules.append(thing)
    return modules, tensors


def _within(thing: Any, depth: int = 3) -> Iterator[torch.Tensor]:
    """Tensors in an object of some library, and in the objects it holds."""
    if isinstance(thing, torch.Tensor):
        yield thing
    elif depth and isinstance(thing, (list, tuple)):
        for item in thing:
            yield from _within(item, depth - 1)
    elif depth and not isinstance(thing, (type, torch.nn.Module)):
        for item in _fields(thing):
            yield from _within(item, depth - 1)


def _fields(thing: Any) -> list[Any]:
    """What an object holds, also one with slots."""
    if isinstance(thing, dict):
        return list(thing.values())
    slots = getattr(type(thing), "__slots__", ())
    held = [getattr(thing, name, None) for name in slots]
    return [*held, *getattr(thing, "__dict__", {}).values()]
