"""The training loop: a few whole steps on one synthetic batch."""

import gc
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from memplan.runner.training.ema import Averages
from memplan.runner.training.garbage import collecting_between_steps

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(kw_only=True, slots=True)
class Run:
    """Everything a step needs, wrapped and on the device."""

    accelerator: "Accelerator"
    model: nn.Module
    optimizer: torch.optim.Optimizer
    trained: list[nn.Parameter]
    batch: dict[str, Any]
    max_grad_norm: float
    averages: Averages | None = None
    offloads_activations: bool = False
    loss: torch.Tensor | None = field(default=None)
    """Of the last micro-batch: a training loop keeps it for its log."""


def train(
    run: Run, steps: int, micro_batches: int, watched_steps: int | None = None
) -> None:
    """Forward, backward, clipping, optimizer, gradients set to None, so many times.

    Of steps whose memory nobody watches the garbage is not collected: it takes time.
    """
    with collecting_between_steps():
        for step in range(1, steps + 1):
            for _ in range(micro_batches):
                train_micro_batch(run)
            if watched_steps is None or step <= watched_steps:
                gc.collect()
            print(f"step {step} of {steps}", file=sys.stderr, flush=True)


def train_micro_batch(run: Run) -> None:
    """One micro-batch; accelerate steps when enough have been accumulated."""
    accelerator = run.accelerator
    with accelerator.accumulate(run.model):
        with _saving_of(run):
            run.loss = run.model(**run.batch).loss
        accelerator.backward(run.loss)
        run.loss = run.loss.detach()  # what is left of the graph may go
        if accelerator.sync_gradients and run.max_grad_norm:
            # All parameters, as the Trainer passes: what is frozen has no gradient.
            accelerator.clip_grad_norm_(run.model.parameters(), run.max_grad_norm)
        run.optimizer.step()
        if accelerator.sync_gradients and run.averages is not None:
            run.averages.update(run.trained)
        run.optimizer.zero_grad()


def _saving_of(run: Run) -> AbstractContextManager[object]:
    """Where the forward pass leaves what the backward pass needs."""
    if run.offloads_activations:
        return torch.autograd.graph.save_on_cpu(pin_memory=True)
    return nullcontext()
