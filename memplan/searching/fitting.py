"""The largest value of something that a plan still fits with, by doubling and halving.

What a plan takes grows with every one of its sizes, but for ripples: kernels that want
multiples of eight, blocks that are rounded. Around what was found a window of values is
looked at one by one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["fits", "breaks", "refused"]
Look = Callable[[int], State]

WINDOW = 16
"""Values beside the largest that are looked at one by one: twice the multiple of eight
that kernels want of a length."""
LONGEST_STRIDE = 256
"""Between values that are not refused: of images, what becomes one token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """Where fitting ends."""

    largest: int | None
    """None: not even `beyond` fits, which is the smallest there is."""
    beyond: int | None
    """The next value; None: there was none to look at."""
    skipped: tuple[int, ...] = ()
    """Values just below the largest that do not fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """The values to look at: `start`, and in strides from it."""

    start: int
    stride: int
    least: int
    most: int

    def snap(self, value: int) -> int:
        """The next one below, within bounds."""
        return max(self._down(value), self._up(self.least))

    def _down(self, value: int) -> int:
        value = min(value, self.most)
        return self.start + (value - self.start) // self.stride * self.stride

    def _up(self, value: int) -> int:
        return self.start - (self.start - value) // self.stride * self.stride


def stride_of(look: Look, start: int, least: int, most: int) -> int | None:
    """How far the nearest value is that is not refused; None: there is none."""
    for stride in range(1, LONGEST_STRIDE + 1):
        for value in (start + stride, start - stride):
            if least <= value <= most and look(value) != "refused":
                return stride
    return None


def find_edge(look: Look, values: Range) -> Edge:
    """Where fitting ends, starting from a value that is not refused."""
    is_fitting = look(values.start) == "fits"
    low, high = (_climb if is_fitting else _descend)(look, values)
    if low is None:
        return Edge(largest=None, beyond=high)
    while high is not None and high - low > values.stride:
        middle = values.snap((low + high) // 2)
        if look(middle) == "fits":
            low = middle
        else:
            high = middle
    low = _over_ripples(look, values, low)
    beyond = low + values.stride
    below = (low - values.stride * k for k in range(WINDOW, 0, -1))
    return Edge(
        largest=low,
        beyond=beyond if beyond <= values.most else None,
        skipped=tuple(v for v in below if v >= values.least and look(v) == "breaks"),
    )


def _climb(look: Look, values: Range) -> tuple[int, int | None]:
    """The last of the doubled values that fits, and the next one; None: all of them."""
    low = values.start
    while True:
        value = values.snap(max(2 * low, low + values.stride))
        if value <= low:
            return low, None
        if look(value) != "fits":
            return low, value
        low = value


def _descend(look: Look, values: Range) -> tuple[int | None, int | None]:
    """One that fits below those that do not; None, and the smallest that breaks.

    Small values can be refused too: a sample must hold its images.
    """
    high, refused = values.start, values.snap(0) - values.stride
    while high - refused > values.stride:
        value = max(values.snap((refused + high) // 2), refused + values.stride)
        match look(value):
            case "fits":
                return value, high
            case "breaks":
                high = value
            case "refused":
                refused = value
    return None, high


def _over_ripples(look: Look, values: Range, low: int) -> int:
    """The largest that fits with nothing behind it that does, a window wide."""
    while True:
        ahead = (low + values.stride * k for k in range(WINDOW, 0, -1))
        found = next((v for v in ahead if v <= values.most and look(v) == "fits"), None)
        if found is None:
            return low
        low = found
