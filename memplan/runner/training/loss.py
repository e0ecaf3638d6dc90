"""Cross-entropy in parts: of all logits, those of one part of the tokens live at once.

The head hands its input on, and the loss runs the head itself, part by part, each under
a checkpoint. What comes out is what the whole would give, but for the order of a sum.
torchtune and Liger kernels save the same memory by kernels of their own.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

IGNORED = -100
"""The label of what is not predicted (`loss/loss_utils.py` of transformers)."""


def split_loss(module: nn.Module, num_parts: int) -> None:
    """Let a causal language model compute its loss over so many parts of the tokens."""
    model: Any = module
    head = model.get_output_embeddings()
    model.loss_function = partial(_loss_in_parts, head, num_parts)
    head.forward = _hand_on


def _hand_on(hidden_states: torch.Tensor) -> torch.Tensor:
    """In place of the head's product: the loss makes it."""
    return hidden_states


def _loss_in_parts(
    head: nn.Linear,
    num_parts: int,
    logits: torch.Tensor,
    labels: torch.Tensor,
    vocab_size: int,
    **others: Any,
) -> torch.Tensor:
    """`ForCausalLMLoss` of transformers, given hidden states in place of logits."""
    targets = nn.functional.pad(labels, (0, 1), value=IGNORED)[..., 1:].reshape(-1)
    rows = logits.reshape(-1, logits.shape[-1])
    total = rows.new_zeros((), dtype=torch.float32)
    for part, wanted in zip(
        rows.chunk(num_parts), targets.chunk(num_parts), strict=True
    ):
        total = total + checkpoint(_sum_of, head, part, wanted, use_reentrant=False)
    return total / (targets != IGNORED).sum()


def _sum_of(head: nn.Linear, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = nn.functional.linear(rows, head.weight, head.bias)
    return nn.functional.cross_entropy(
        logits.float(), targets, ignore_index=IGNORED, reduction="sum"
    )
