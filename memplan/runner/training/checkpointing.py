"""Activation checkpointing: of every layer, of some, or of what is cheap."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    create_selective_checkpoint_contexts,
)

from memplan.plan import TrainingPlan

aten = torch.ops.aten
EXPENSIVE = frozenset(
    (
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten.baddbmm.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    )
)
"""What selective checkpointing keeps: matrix products and attention."""


def enable_checkpointing(plan: TrainingPlan, model: nn.Module) -> None:
    """Checkpoint the layers that the model lets be checkpointed, without reentry."""
    mode, every = plan.checkpointing
    if mode == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    enable: Callable[..., None] = model.activation_checkpointing_enable  # type: ignore[assignment]
    enable(activation_checkpointing_kwargs=options, every_n_layers=every)


def _policy(ctx: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    if operator in EXPENSIVE:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
