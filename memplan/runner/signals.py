"""What PyTorch tells of a training step, passed on to the timeline.

Module calls, loss functions, the autograd engine, and optimizer steps: whichever loop,
trainer or library runs the step, it goes through these four.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch.optim import optimizer as optimizers
from torch.utils.hooks import RemovableHandle

from memplan.runner.model import ModelSize, model_size
from memplan.runner.modules import ModuleCalls, forget_in_dynamo, is_tracing
from memplan.runner.patches import Patches
from memplan.runner.phases import Timeline
from memplan.runner.witness import Witness

LOSSES = (
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "linear_cross_entropy",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
)
"""Of torch.nn.functional."""


class Signals:
    """Turns calls into events of the timeline."""

    def __init__(
        self,
        timeline: Timeline,
        witness: Witness,
        *,
        when_due: Callable[[], None],
        when_replayed: Callable[[], None],
    ) -> None:
        self._timeline = timeline
        self._witness = witness
        self._when_due = when_due
        self._when_replayed = when_replayed
        self._patches = Patches()
        self._hooks: list[RemovableHandle] = []
        self.is_attached = False
        self._lock = threading.Lock()
        self._depth = 0
        self._num_replays = 0
        self.modules = ModuleCalls(self)
        self.trained: WeakSet[torch.nn.Module] = WeakSet()
        """Outermost modules called with gradients on."""
        self.evaluated: WeakSet[torch.nn.Module] = WeakSet()
        """Outermost modules called without."""
        self.sizes: list[tuple[bool, ModelSize]] = []
        """Whether it is trained, and the size, of each of them."""
        self.optimizers: WeakSet[torch.optim.Optimizer] = WeakSet()
        """Those that have stepped, or are about to."""

    @property
    def in_backward(self) -> bool:
        """Whether the engine is running, in whichever thread."""
        return self._depth > 0

    def attach(self) -> None:
        """Pass on what is told, from here on."""
        self.is_attached = True
        self.modules.attach()
        self._wrap_losses()
        self._wrap_engine()
        self._wrap_replay()
        self._watch_new_optimizers()
        self._hooks = [
            optimizers.register_optimizer_step_pre_hook(self._optimizer_begins),
            optimizers.register_optimizer_step_post_hook(self._optimizer_ends),
        ]

    def detach(self) -> None:
        """Leave PyTorch as it was; what is running ends as if nobody had seen it."""
        self.is_attached = False
        self.modules.detach()
        self._patches.restore()
        forget_in_dynamo()
        for hook in self._hooks:
            hook.remove()

    # Module calls

    def call_begins(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._witness.module_is_called(self.modules, (args, kwargs))
        if self._is_outermost(len(self.modules.stack) - 1, module):
            self._model_begins(module)
            if not self.is_attached:
                return  # the steps that were to be seen are over
            self._witness.model_begins(args, kwargs)
        self._witness.module_begins(self.modules)

    def call_ends(self, module: torch.nn.Module, output: Any) -> None:
        self._witness.module_ends(self.modules, module, output)
        if self._is_outermost(len(self.modules.stack), module):
            self._witness.model_ends(output)
            if torch.is_grad_enabled():
                self._timeline.loss_begins()

    def call_fails(self) -> None:
        """A checkpoint has recomputed enough, or an error the program may catch."""
        self._witness.module_begins(self.modules)

    def _is_outermost(self, num_others: int, module: torch.nn.Module) -> bool:
        """A recomputation within the backward pass is no forward pass."""
        return num_others == 0 and not self.in_backward and _is_model(module)

    def _model_begins(self, module: torch.nn.Module) -> None:
        if torch.is_grad_enabled():
            self._when_due()
            if not self.is_attached:
                return
            self._note(module, self.trained)
            step = self._timeline.step_number
            self._timeline.forward_begins()
            if self._timeline.step_number != step:
                self.note_states()
            return
        self._note(module, self.evaluated)
        if not module.training:
            self._timeline.evaluation_begins()

    def _note(self, module: torch.nn.Module, seen: WeakSet[torch.nn.Module]) -> None:
        if module not in seen:
            seen.add(module)
            is_trained = seen is self.trained
            self.sizes.append((is_trained, model_size(module)))
            self.note_states()

    def note_states(self) -> None:
        """A step begins, or a model is seen for the first time."""
        number = self._timeline.step_number
        used = self.evaluated
        self._witness.step_begins(number, self.trained, used, self.optimizers)

    def look_around(self) -> None:
        """Note all that is alive."""
        self._witness.look_around(self.trained, self.evaluated, self.optimizers)

    # Losses

    def _wrap_losses(self) -> None:
        functional = torch.nn.functional
        for name in LOSSES:
            if hasattr(functional, name):
                loss = self._as_loss(getattr(functional, name))
                self._patches.replace(functional, name, loss)

    def _as_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def loss(*args: Any, **kwargs: Any) -> Any:
            if self.is_attached and not is_tracing() and not self.in_backward:
                self._loss_begins()
            return original(*args, **kwargs)

        return loss

    def _loss_begins(self) -> None:
        if torch.is_grad_enabled():
            self._timeline.loss_begins()

    # The autograd engine

    def _wrap_engine(self) -> None:
        original = torch.autograd.graph._engine_run_backward

        @functools.wraps(original)
        def run_backward(roots: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.is_attached or is_tracing():
                return original(roots, *args, **kwargs)
            self._backward_begins(roots)
            try:
                return original(roots, *args, **kwargs)
            finally:
                if self.is_attached:
                    self._backward_ends()

        for module in (torch.autograd.graph, torch.autograd):
            self._patches.replace(module, "_engine_run_backward", run_backward)

    def _backward_begins(self, roots: Any) -> None:
        """Checkpoints that are reentrant call the engine from within itself."""
        with self._lock:
            self._depth += 1
            is_outermost = self._depth == 1
        if is_outermost:
            self._timeline.backward_begins()
        self._witness.backward_begins(roots)

    def _backward_ends(self) -> None:
        with self._lock:
            self._depth -= 1
            is_outermost = self._depth == 0
        if is_outermost:
            self._witness.backward_ends(self.trained, self.optimizers)
            self._timeline.backward_ends()

    # CUDA graphs

    def _wrap_replay(self) -> None:
        """A captured step allocates nothing when it is replayed: one is enough."""
        original = torch.cuda.CUDAGraph.replay

        @functools.wraps(original)
        def replay(graph: torch.cuda.CUDAGraph) -> None:
            self._num_replays += 1
            if self.is_attached and self._num_replays > 1:
                self._when_replayed()
            original(graph)

        self._patches.replace(torch.cuda.CUDAGraph, "replay", replay)

    # Optimizers

    def _watch_new_optimizers(self) -> None:
        original = torch.optim.Optimizer.__init__

        @functools.wraps(original)
        def __init__(optimizer: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            if self.is_attached:
                self._timeline.optimizer_made(id(optimizer))
            original(optimizer, *args, **kwargs)

        self._patches.replace(torch.optim.Optimizer, "__init__", __init__)

    def _optimizer_begins(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self.is_attached:
            return
        self.optimizers.add(optimizer)
        if not self.in_backward:
            self._timeline.optimizer_begins()

    def _optimizer_ends(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self.is_attached:
            return
        self._timeline.optimizer_ends(id(optimizer))
        self._witness.optimizer_ends(optimizer)


def _is_model(module: torch.nn.Module) -> bool:
    """Losses, metrics and transforms are modules too, but no models."""
    return next(module.parameters(), None) is not None
