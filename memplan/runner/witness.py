"""Takes the notes that tell, at the end or out of memory, what the memory was held by.

PyTorch's calls lead here (signals.py). Notes are taken when a holder is sure to hold:
models and optimizers when a step begins, saved tensors when a module has run,
gradients when the backward pass has ended.
"""

import threading
from collections.abc import Iterable
from typing import Any

import torch

from memplan.runner.graph import Graph
from memplan.runner.history import Recording
from memplan.runner.lines import line_here
from memplan.runner.modules import ModuleCalls
from memplan.runner.owners import Owners
from memplan.runner.tags import Tags
from memplan.runner.values import Values

Models = Iterable[torch.nn.Module]
Optimizers = Iterable[torch.optim.Optimizer]


class Witness:
    """Sees what allocates, and who holds it."""

    def __init__(self, steps: int, values: Values | None) -> None:
        self._steps = steps
        self._values = values
        self.tags = Tags()
        self._recording = Recording()
        self._graph = Graph(self.tags)
        self._owners = Owners(self.tags)

    def attach(self) -> None:
        """Have the allocator keep its history as soon as there is one."""
        self._recording.attach()

    def detach(self) -> None:
        """Leave the allocator and the graph to the program, and forget all notes."""
        self._recording.detach()
        self._graph.detach()
        self.tags.forget()

    def module_is_called(self, modules: ModuleCalls, given: Any) -> None:
        """What it is given was made by its caller."""
        callers = modules.stack[:-1]
        if callers and torch.is_grad_enabled():
            self._graph.claim(given, modules.path_of(callers[-1]), callers[-1])

    def module_begins(self, modules: ModuleCalls) -> None:
        self.tags.put(modules.path)

    def module_ends(
        self, modules: ModuleCalls, module: torch.nn.Module, output: Any
    ) -> None:
        path = modules.path_of(module)
        if torch.is_grad_enabled():
            self._graph.claim(output, path, module)
        self._owners.note_output(output, path)
        self.tags.put(modules.path)

    def model_begins(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The outermost call: what it is given is the batch."""
        if self._values is not None:
            self._values.model_begins(kwargs)
        self._owners.note_batch(args, kwargs)
        self._owners.note_caches(kwargs)

    def model_ends(self, output: Any) -> None:
        self._owners.note_caches(output)

    def step_begins(
        self, number: int, trained: Models, used: Models, optimizers: Optimizers
    ) -> None:
        """The last step may end the program: all that is alive is looked at before."""
        self._graph.forget_freed()
        if number >= self._steps:
            self.look_around(trained, used, optimizers)
        else:
            self._owners.note_states(trained, used, optimizers)
        self._owners.note_gradients(trained, optimizers)

    def backward_begins(self, roots: Any) -> None:
        """What no module has claimed by now is the loss."""
        if threading.current_thread() is threading.main_thread():
            self.tags.backward_line = line_here()
        self._graph.claim(roots, "", None)

    def backward_ends(self, trained: Models, optimizers: Optimizers) -> None:
        self._owners.note_gradients(trained, optimizers)
        self.tags.put("")

    def optimizer_ends(self, optimizer: torch.optim.Optimizer) -> None:
        self._owners.note_optimizer(optimizer)

    def look_around(
        self, trained: Models, used: Models, optimizers: Optimizers
    ) -> None:
        """Thoroughly: all that is alive now."""
        self._owners.note_states(trained, used, optimizers)
        self._owners.note_all_alive()
        self._owners.note_buckets(trained)
        self.tags.put("")
