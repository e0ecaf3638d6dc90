"""Data parallelism: who holds what of a model, and what an optimizer step sees of it.

A `Sharder` is one implementation as its most loaded rank sees it: `ddp.Ddp` and
`ddp.ZeroRedundancy`, `fsdp2.Fsdp2`, `deepspeed.DeepSpeed`. Tensors are listed as
(bytes, how many), so that each can be rounded to its block.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import prod
from typing import Protocol

from memplan.formulas.gathering import Gathering
from memplan.formulas.parameters import Parameter
from memplan.formulas.tensors import ITEM_BYTES
from memplan.units import ceil_div

Tensors = list[tuple[int, int]]
"""Bytes of a tensor, and how many of it."""


class Sharder(Protocol):
    """One implementation of data parallelism."""

    @property
    def runs_autocast(self) -> bool:
        """Whether mixed precision is autocast's; else weights are cast as a whole."""

    @property
    def clones_outputs(self) -> bool:
        """Whether looking for unused weights clones what the model returns."""

    @property
    def keeps_fp32(self) -> bool:
        """Whether mixed precision keeps the weights themselves in fp32."""

    def gathering(self, gradients_exist: bool) -> Gathering:
        """What it does on the tape, with gradients of earlier micro-batches or none."""

    def weights(self, parameters: Sequence[Parameter]) -> Tensors:
        """Weights at rest."""

    def gradients(self, parameters: Sequence[Parameter]) -> Tensors:
        """Gradients when the optimizer steps."""

    def left_gradients(
        self, parameters: Sequence[Parameter], gradients_exist: bool
    ) -> Tensors:
        """Gradients that are held when the last micro-batch begins."""

    def updated(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        """Trained tensors as the optimizer of this rank sees them."""

    def masters(self, parameters: Sequence[Parameter]) -> Tensors:
        """fp32 copies of weights that are there from the start on."""

    def buffers(self, parameters: Sequence[Parameter]) -> Tensors:
        """What is held through the whole step."""

    def stepped(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        """Those of `updated` that the optimizer steps at once."""

    def step_temporaries(
        self, parameters: Sequence[Parameter], own: Tensors
    ) -> Tensors:
        """What a step needs for a moment where the optimizer itself needs `own`."""

    def assumptions(self) -> tuple[str, ...]:
        """What its figures take for granted."""

    def unsupported(self, parameters: Sequence[Parameter]) -> tuple[str, ...]:
        """What it does with memory that the figures leave out."""


def trained(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Those that get gradients."""
    return [p for p in parameters if p.stored.is_trainable and p.is_used]


def total_elements(parameters: Sequence[Parameter]) -> int:
    """Elements of all of them."""
    return sum(p.num_elements * p.count for p in parameters)


def item_bytes(parameter: Parameter) -> int:
    """Bytes of an element, as it is computed with."""
    return ITEM_BYTES[parameter.stored.dtype]


def rows_of(parameter: Parameter, num_ranks: int) -> tuple[int, ...]:
    """The shape of the largest of `num_ranks` parts along the first dimension.

    `torch.chunk`: the first ranks get the larger parts, so this is rank 0's.
    """
    if not parameter.shape:
        return ()
    return (ceil_div(parameter.shape[0], num_ranks), *parameter.shape[1:])


def chunk_elements(parameter: Parameter, num_ranks: int) -> int:
    """Elements of that part."""
    return prod(rows_of(parameter, num_ranks))


def in_model_order(parameters: Sequence[Parameter]) -> Iterator[Parameter]:
    """Every tensor by itself, layer by layer."""
    for _, group in groupby(
        parameters, key=lambda p: (p.name.rpartition("*")[0], p.count)
    ):
        layer = list(group)
        for _ in range(layer[0].count):
            yield from layer
