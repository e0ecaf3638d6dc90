"""What data parallelism does on the tape: weights gathered, gradients on their way.

The tape says what runs next; a `Gathering` answers how many bytes that puts beside the
model's own, or moves the tape's level with `Tape.grow`. One layer is one unit, as the
Trainer wraps them; weights outside the layers form units of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from memplan.formulas.events import Events
    from memplan.formulas.parameters import Parameter
    from memplan.formulas.tape import Tape
    from memplan.formulas.tensors import Storage
    from memplan.formulas.trace import Totals

GATHERED = "weights gathered from shards"
FLAT = "buffer of the all-gather"
REDUCED = "gradients on their way to be reduced"
"""What the bytes are, to a reader."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One of several equal layers."""

    parameters: tuple["Parameter", ...]
    """Its parameters; `count` says how often each stands in it."""
    is_unit: bool
    """Sharding takes it as one; a group of layers around it is none."""
    is_nested: bool
    """It is part of such a group, which is traced once for many."""


class Gathering(Protocol):
    """One rank's buffers, weights and gradients of a step, as the tape plays it."""

    keeps_gradients: bool
    """Whether gradients stay where autograd made them until their unit is done."""
    is_even: bool
    """Whether what stands beside the layers in backward changes by the same amount from
    one to the next, but for the first and last two: then only these can be highest."""

    def around_forward(self, layer: Layer, events: "Events") -> "Events":
        """What one layer asks for forward, with what it is gathered into."""

    def around_backward(self, layer: Layer, events: "Events") -> "Events":
        """The same backward, with what its gradients are reduced from."""

    def keep_gradient(self, name: str, storage: "Storage") -> None:
        """The gradient of the weight of that name stays where autograd made it."""

    def use_weight(self, tape: "Tape", parameter: "Parameter") -> None:
        """A weight outside the layers is about to be used."""

    def leave_unit(self, tape: "Tape", unit: Sequence["Parameter"]) -> None:
        """A part outside the layers that sharding takes as one has run: the input
        embedding, or what the model names beside its layers."""

    def enter_layers(self, tape: "Tape", layer: Layer, count: int) -> None:
        """`count` equal layers are about to run forward."""

    def beside_forward(
        self, layer: Layer, index: int, count: int, peak_bytes: int
    ) -> int:
        """Bytes beside layer `index` where it runs forward, itself at `peak_bytes`."""

    def parts_forward(
        self, layer: Layer, index: int, beside_bytes: int
    ) -> Mapping[str, int]:
        """What those bytes are."""

    def leave_layers(self, tape: "Tape", layer: Layer, count: int) -> None:
        """They have run forward."""

    def end_forward(self, tape: "Tape") -> None:
        """The model has returned."""

    def begin_backward(self, tape: "Tape") -> None:
        """The gradient of the loss is about to be made."""

    def leave_loss(self, tape: "Tape") -> None:
        """The gradient of the model's output is there."""

    def enter_layers_backward(self, tape: "Tape", layer: Layer, count: int) -> None:
        """`count` equal layers are about to run backward, the last one first."""

    def receive_gradient(self, tape: "Tape", parameter: "Parameter") -> None:
        """Autograd hands over the gradient of a weight; not all need get one."""

    def beside_backward(
        self, layer: Layer, index: int, count: int, peak_bytes: int
    ) -> int:
        """Bytes beside layer `index` where it runs backward, itself at `peak_bytes`."""

    def parts_backward(
        self, layer: Layer, index: int, count: int, beside_bytes: int
    ) -> Mapping[str, int]:
        """What those bytes are."""

    def reduced(self, leaves: "Totals", layer: Layer) -> "Totals":
        """What a layer leaves behind once its gradients are reduced."""

    def leave_layers_backward(self, tape: "Tape", layer: Layer, count: int) -> None:
        """They have run backward."""

    def end_backward(self, tape: "Tape") -> None:
        """All gradients have been made."""


class NoGathering:
    """Every rank holds the whole model: nothing to do."""

    keeps_gradients = True
    is_even = True

    def around_forward(self, layer: Layer, events: "Events") -> "Events":
        return events

    def around_backward(self, layer: Layer, events: "Events") -> "Events":
        return events

    def keep_gradient(self, name: str, storage: "Storage") -> None:
        return

    def use_weight(self, tape: "Tape", parameter: "Parameter") -> None:
        return

    def leave_unit(self, tape: "Tape", unit: Sequence["Parameter"]) -> None:
        return

    def enter_layers(self, tape: "Tape", layer: Layer, count: int) -> None:
        return

    def beside_forward(
        self, layer: Layer, index: int, count: int, peak_bytes: int
    ) -> int:
        return 0

    def parts_forward(
        self, layer: Layer, index: int, beside_bytes: int
    ) -> Mapping[str, int]:
        return {GATHERED: beside_bytes}

    def leave_layers(self, tape: "Tape", layer: Layer, count: int) -> None:
        return

    def end_forward(self, tape: "Tape") -> None:
        return

    def begin_backward(self, tape: "Tape") -> None:
        return

    def leave_loss(self, tape: "Tape") -> None:
        return

    def enter_layers_backward(self, tape: "Tape", layer: Layer, count: int) -> None:
        return

    def receive_gradient(self, tape: "Tape", parameter: "Parameter") -> None:
        return

    def beside_backward(
        self, layer: Layer, index: int, count: int, peak_bytes: int
    ) -> int:
        return 0

    def parts_backward(
        self, layer: Layer, index: int, count: int, beside_bytes: int
    ) -> Mapping[str, int]:
        return {REDUCED: beside_bytes}

    def reduced(self, leaves: "Totals", layer: Layer) -> "Totals":
        return leaves

    def leave_layers_backward(self, tape: "Tape", layer: Layer, count: int) -> None:
        return

    def end_backward(self, tape: "Tape") -> None:
        return
