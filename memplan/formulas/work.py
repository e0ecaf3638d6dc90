"""What a step has to do: operations, bytes moved, and the time that rates allow.

A `MeteredTape` is a tape that also counts. Operations are those of matrix products,
convolutions and attention, as PyTorch's own counter has them
(`torch/utils/flop_counter.py` of 2.14: a causal mask halves nothing). Bytes are what an
operator reads and writes when it is a kernel of its own: eager PyTorch, no fusion. An
operator takes the longer of the two, at the rates of the card's datasheet, and the step
the sum: a roofline (Williams, Waterman, Patterson, 2009).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from memplan.formulas.parameters import Shape
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import ITEM_BYTES, Tensor, Weight

Inputs = Sequence[Tensor]


@dataclass(frozen=True, slots=True)
class Rates:
    """What a card does in a second at best."""

    bytes_per_s: float
    flops_per_s: Mapping[str, float]
    """By dtype of the factors: fp32, bf16, fp16, int8."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is done, and how long it takes at the least."""

    flops: int = 0
    moved_bytes: int = 0
    seconds: float = 0.0

    def plus(self, other: "Work", times: float = 1) -> "Work":
        """With so many times the other."""
        return Work(
            self.flops + round(times * other.flops),
            self.moved_bytes + round(times * other.moved_bytes),
            self.seconds + times * other.seconds,
        )


@dataclass(slots=True)
class MeteredTape(Tape):
    """A tape that counts the work of the forward and of the backward pass."""

    rates: Rates = field(default_factory=lambda: Rates(1.0, {}))
    work: Work = field(default_factory=Work)
    marks: list[Work] = field(default_factory=list)
    """What was done before each of the layers that are being traced."""
    again: Work = field(default_factory=Work)
    """What a checkpointed layer does a second time if it saves something after it."""

    def apply(
        self, name: str, inputs: Inputs, shape: Shape, dtype: str, **given: Any
    ) -> Tensor:
        # A checkpointed layer runs again: its work was counted when it ran first.
        output = Tape.apply(self, name, inputs, shape, dtype, **given)
        if not self.mode.is_recomputed:
            self._count(name, inputs, output, given)
        return output

    def begin_layers(self) -> None:
        self.marks.append(self.work)

    def end_layers(self, stand_for: int, count: int) -> None:
        """Of `count` layers, as many were counted, the traced one stands for fewer."""
        before = self.marks.pop()
        own = self.work.plus(before, -1)
        self.work = before.plus(own, stand_for / count)
        if self.mode.record:
            self.again = Work()

    def _count(
        self, name: str, inputs: Inputs, output: Tensor, given: Mapping[str, Any]
    ) -> None:
        mode = self.mode
        flops = flops_of(name, inputs, output.shape)
        moved = 0
        if given.get("alias") is None:
            moved = sum(map(_stored_bytes, inputs)) + output.num_bytes
        elif name.endswith("_"):
            moved = 2 * output.num_bytes
        moved += 2 * given.get("scratch_bytes", 0)
        dtype = "int8" if name == "8-bit linear" else inputs[0].dtype
        forward = self._work(flops, moved, dtype)
        self.work = self.work.plus(forward, self.count)
        if output.edge is None:
            return
        backward = self._backward(name, inputs, output, given, flops)
        self.work = self.work.plus(backward, self.count)
        if not mode.record:
            is_kept = given.get("is_expensive") and mode.keep is not None
            self._count_again(Work() if is_kept else forward, given)

    def _count_again(self, forward: Work, given: Mapping[str, Any]) -> None:
        """Recomputation stops at the last tensor that is saved.

        Inputs are saved before an operator runs, results after it
        (`utils/checkpoint.py`, early_stop).
        """
        if given.get("saved"):
            self._settle()
        self.again = self.again.plus(forward, self.count)
        if given.get("saves_output") or given.get("stats_bytes"):
            self._settle()

    def _settle(self) -> None:
        self.work, self.again = self.work.plus(self.again), Work()

    def _backward(
        self,
        name: str,
        inputs: Inputs,
        output: Tensor,
        given: Mapping[str, Any],
        flops: int,
    ) -> Work:
        """Gradients of those inputs that want one."""
        wanted = [x for x in inputs if x.edge is not None]
        factors = sum(x.edge is not None for x in inputs[:2])
        times = 2.5 if is_fused_attention(name) else factors
        read = output.num_bytes + sum(x.num_bytes for x in given.get("saved", ()))
        read += output.num_bytes if given.get("saves_output") else 0
        is_passed = given.get("passes_gradient") or given.get("passes_views")
        written = 0 if is_passed else sum(x.num_bytes for x in wanted)
        moved = read + written if written else 0
        moved += 2 * given.get("backward_scratch_bytes", 0)
        return self._work(round(times * flops), moved, output.dtype)

    def _work(self, flops: int, moved_bytes: int, dtype: str) -> Work:
        seconds = moved_bytes / self.rates.bytes_per_s
        if flops:
            seconds = max(seconds, flops / self.rates.flops_per_s[dtype])
        return Work(flops, moved_bytes, seconds)


def flops_of(name: str, inputs: Inputs, shape: Shape) -> int:
    """Operations of one operator forward: two for each product and sum."""
    if is_fused_attention(name):
        query, key, value = inputs[:3]
        num_scores = prod(query.shape[:3]) * key.shape[2]
        return 2 * num_scores * (query.shape[3] + value.shape[3])
    length = CONTRACTED.get(name)
    return 2 * prod(shape) * length(inputs, shape) if length else 0


def is_fused_attention(name: str) -> bool:
    """A kernel that computes attention at once; its backward makes the scores again."""
    return name.endswith(" attention")


def _rows(inputs: Inputs, shape: Shape) -> int:
    return inputs[0].shape[-1]


def _kernel(inputs: Inputs, shape: Shape) -> int:
    return prod(inputs[1].shape[1:])


def _other_side(inputs: Inputs, shape: Shape) -> int:
    """Of a product whose second factor is no input that could want a gradient."""
    if len(inputs) > 1:
        return inputs[0].shape[-1]
    return prod(inputs[0].shape) // shape[-1]


CONTRACTED: dict[str, Callable[[Inputs, Shape], int]] = {
    "linear": _rows,
    "4-bit linear": _rows,
    "8-bit linear": _rows,
    "grouped_mm": _rows,
    "matmul": _rows,
    "project": _rows,
    "mm": _other_side,
    "convolution": _kernel,
}
"""How many products are summed for one element of the output, by operator."""


def _stored_bytes(x: Tensor) -> int:
    return x.num_stored_bytes if isinstance(x, Weight) else x.num_bytes


def optimizer_bytes(
    num_elements: int, dtype: str, state_bytes: int, clips: bool
) -> int:
    """Moved by an update in place: read gradient, weight and states, write the latter.

    Clipping reads gradients for the norm, and scales them.
    """
    own = num_elements * ITEM_BYTES[dtype]
    return 3 * own + 2 * state_bytes + (3 * own if clips else 0)
