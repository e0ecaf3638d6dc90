"""Modules that several inputs pass through: one weight, and one gradient of it.

The predictor runs its layers image by image, and some on subjects, objects and pairs
alike. So their weights are made once, where the building blocks of `layers` make them
at their one use.
"""

from dataclasses import dataclass

from memplan.formulas.convolution import relu, relu_in_place
from memplan.formulas.layers import dropout, upper
from memplan.formulas.linear import matmul_weight
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor, Weight


@dataclass(frozen=True, slots=True)
class Linear:
    """`nn.Linear`."""

    weight: Weight
    bias: Weight

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        return matmul_weight(t, x, self.weight, self.weight.shape[0], self.bias)


def make_linear(t: Tape, name: str, in_features: int, out_features: int) -> Linear:
    """Declare one."""
    with t.scope(name):
        weight = t.weight("weight", (out_features, in_features), is_linear=True)
        return Linear(weight, t.weight("bias", (out_features,), is_linear=True))


@dataclass(frozen=True, slots=True)
class Mlp:
    """The published `MLP` of two layers, with a ReLU between."""

    first: Linear
    second: Linear

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        hidden = relu(t, self.first(t, x))
        return self.second(t, hidden)


def make_mlp(
    t: Tape, name: str, in_features: int, hidden_size: int, out_features: int
) -> Mlp:
    """Declare one."""
    with t.scope(f"{name}.layers"):
        return Mlp(
            make_linear(t, "0", in_features, hidden_size),
            make_linear(t, "1", hidden_size, out_features),
        )


@dataclass(frozen=True, slots=True)
class VisualToSemantic:
    """`vis2sem`: linear, ReLU in place, dropout, linear."""

    first: Linear
    second: Linear
    dropout: float

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        hidden = self.first(t, x)
        hidden = relu_in_place(t, hidden)
        hidden = dropout(t, hidden, self.dropout)
        return self.second(t, hidden)


def make_vis2sem(t: Tape, size: int, probability: float) -> VisualToSemantic:
    """Declare one."""
    with t.scope("vis2sem"):
        return VisualToSemantic(
            make_linear(t, "0", size, 2 * size),
            make_linear(t, "3", 2 * size, size),
            probability,
        )


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """`nn.LayerNorm`: saves its input in fp32, mean and reciprocal deviation."""

    weight: Weight
    bias: Weight

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        source = upper(t, x)
        return t.apply(
            "layer_norm",
            (source, self.weight, self.bias),
            x.shape,
            source.dtype,
            saved=(source,),
            stats_bytes=2 * 4 * x.shape[0],
        )


def make_layer_norm(t: Tape, name: str, size: int) -> LayerNorm:
    """Declare one."""
    with t.scope(name):
        return LayerNorm(t.weight("weight", (size,)), t.weight("bias", (size,)))
