"""Which weights DeepSpeed's stage 3 has gathered when, by the order of their use.

Source: DeepSpeed 0.19, `runtime/zero/partitioned_param_coordinator.py`. The engine
records the modules that a step calls, forward and backward, and from the next step on
gathers what they need ahead of them:

* Before a module runs, a bucket of the weights that come next is gathered, unless
  there are as many as may be live (`fetch_sub_module`).
* What is gathered together lies in one flat buffer. The first module that needs a
  weight of it copies all of them out, and the buffer stays until the last of them has
  been needed (`AllGatherCoalescedHandle`): until then they are there twice. A weight
  gathered by itself is a view of its buffer.
* After a module its weights are let go, unless they are used again soon
  (`__params_to_release`), or prefetching has passed over that use.

How this goes on hangs on all sizes before, so it is played, call by call, in plain
integers; modules without weights, which prefetch too, are left out but for the model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, groupby

from memplan.formulas.gathering import Layer, NoGathering
from memplan.formulas.parameters import Parameter
from memplan.formulas.sharding import in_model_order
from memplan.formulas.tape import Tape

MAX_LIVE_ELEMENTS = 1_000_000_000
"""stage3_max_live_parameters: no more weights are gathered ahead."""
PREFETCH_ELEMENTS = 50_000_000
"""stage3_prefetch_bucket_size: a bucket is full from here on."""
MAX_REUSE_ELEMENTS = 1_000_000_000
"""stage3_max_reuse_distance: what is used again within so many is not let go."""
PERSISTENT_ELEMENTS = 100_000
"""stage3_param_persistence_threshold: smaller parameters are never partitioned away."""

Call = list[int]
"""The weights that a module needs, by their index."""


def is_persistent(parameter: Parameter) -> bool:
    """Whether stage 3 keeps it whole on every rank."""
    return parameter.num_elements <= PERSISTENT_ELEMENTS


@dataclass(slots=True)
class Recorder(NoGathering):
    """The order of weights in a forward pass: one outside the layers, or layers."""

    order: list[tuple[Parameter | Layer, int]] = field(default_factory=list)
    """With the number of the layers."""

    def use_weight(self, tape: Tape, parameter: Parameter) -> None:
        self.order.append((parameter, 1))

    def leave_layers(self, tape: Tape, layer: Layer, count: int) -> None:
        if not layer.is_nested:
            self.order.append((layer, count))


@dataclass(slots=True)
class Run:
    """A weight outside the layers, or layers, and the calls that are theirs."""

    what: Parameter | Layer
    forward: list[list[int]] = field(default_factory=list)
    """Of each layer, its calls."""
    backward: list[list[int]] = field(default_factory=list)
    """None where no gradient is expected to come."""

    @property
    def backward_calls(self) -> list[list[int]]:
        """Where one comes all the same, what was there going forward."""
        return self.backward or self.forward


class Schedule:
    """What is live at each place of a step, forward and backward."""

    def __init__(
        self, order: Sequence[tuple[Parameter | Layer, int]], recomputes: bool
    ) -> None:
        self.runs: list[Run] = []
        self.calls: list[Call] = []
        self.sizes: list[int] = []
        """Elements of each weight."""
        outside: dict[str, int] = {}
        for what, count in order:
            run = Run(what)
            if isinstance(what, Layer):
                modules = _modules_of(what)
                run.forward = [self._call(modules) for _ in range(count)]
            elif not is_persistent(what):
                if what.name not in outside:
                    outside[what.name] = self._add(what)
                self.calls.append([outside[what.name]])
                run.forward = [[len(self.calls) - 1]]
            self.runs.append(run)
        self._go_backward(recomputes)
        self.levels = live_elements(self.calls, self.sizes)

    def at(self, calls: Sequence[int]) -> int:
        """The most elements that are live in any of some calls."""
        return max((self.levels[number] for number in calls), default=0)

    def _call(self, modules: Iterable[Sequence[Parameter]]) -> list[int]:
        """Call the modules of one layer, forward."""
        start = len(self.calls)
        self.calls += [[self._add(p) for p in weights] for weights in modules]
        return list(range(start, len(self.calls)))

    def _add(self, parameter: Parameter) -> int:
        self.sizes.append(parameter.num_elements)
        return len(self.sizes) - 1

    def _go_backward(self, recomputes: bool) -> None:
        """Down to the first run with a trained weight."""
        first = next(
            (number for number, run in enumerate(self.runs) if _is_trained(run.what)),
            len(self.runs),
        )
        for run in reversed(self.runs[first:]):
            runs_again = recomputes and isinstance(run.what, Layer)
            for forward in reversed(run.forward):
                again = [*forward, *reversed(forward)] if runs_again else forward[::-1]
                start = len(self.calls)
                self.calls += [self.calls[number] for number in again]
                run.backward.append(list(range(start, len(self.calls))))
            run.backward.reverse()


@lru_cache(maxsize=64)
def schedule_of(
    order: tuple[tuple[Parameter | Layer, int], ...], recomputes: bool
) -> Schedule:
    """The schedule of a model, the same whatever the batch and the number of ranks."""
    return Schedule(order, recomputes)


def _modules_of(layer: Layer) -> list[list[Parameter]]:
    """The modules of a layer with weights that come and go, in their order."""
    some = (p for p in in_model_order(layer.parameters) if not is_persistent(p))
    return [list(own) for _, own in groupby(some, key=_module_of)]


def _module_of(parameter: Parameter) -> str:
    return parameter.name.rpartition(".")[0]


def _is_trained(what: Parameter | Layer) -> bool:
    parameters = what.parameters if isinstance(what, Layer) else (what,)
    return any(p.stored.is_trainable for p in parameters)


class Bucket:
    """Weights that were gathered together."""

    __slots__ = ("is_copied", "num_elements", "num_waiting")

    def __init__(self, num_weights: int, num_elements: int) -> None:
        self.num_elements = num_elements if num_weights > 1 else 0
        """Elements that are there twice while it is in use."""
        self.num_waiting = num_weights
        self.is_copied = False


def live_elements(
    calls: Sequence[Sequence[int]], num_elements: Sequence[int]
) -> list[int]:
    """Elements on the device while each of `calls` runs.

    A call is the weights, as indices of `num_elements`, that a module needs.
    """
    queue = [(weight, number) for number, call in enumerate(calls) for weight in call]
    ends = list(accumulate(map(len, calls)))
    passed = [0, *accumulate(sum(num_elements[w] for w in call) for call in calls)]
    next_use = _next_uses(calls, len(num_elements))
    is_there = [False] * len(num_elements)
    prefetched_for = [-1] * len(num_elements)
    bucket_of: list[Bucket | None] = [None] * len(num_elements)
    available = twice = position = 0
    levels = []

    def gather(weights: Sequence[int]) -> int:
        size = sum(num_elements[weight] for weight in weights)
        bucket = Bucket(len(weights), size)
        for weight in weights:
            is_there[weight], bucket_of[weight] = True, bucket
        return size

    def prefetch(position: int, available: int) -> tuple[int, int]:
        room = min(MAX_LIVE_ELEMENTS - available, PREFETCH_ELEMENTS)
        ahead, size = [], 0
        while position < len(queue) and size < room:
            weight, number = queue[position]
            position += 1
            prefetched_for[weight] = number
            if not is_there[weight]:
                is_there[weight] = True
                ahead.append(weight)
                size += num_elements[weight]
        return position, available + (gather(ahead) if ahead else 0)

    position, available = prefetch(position, available)
    for number, call in enumerate(calls):
        missing = [weight for weight in call if not is_there[weight]]
        if missing:
            available += gather(missing)
        for weight in call:
            bucket, bucket_of[weight] = bucket_of[weight], None
            if bucket is None:
                continue
            if not bucket.is_copied:
                bucket.is_copied = True
                twice += bucket.num_elements
            bucket.num_waiting -= 1
            if not bucket.num_waiting:
                twice -= bucket.num_elements
        position = max(position, ends[number])
        if position < len(queue) and available < MAX_LIVE_ELEMENTS:
            position, available = prefetch(position, available)
        levels.append(available + twice)
        for weight, use in zip(call, next_use[number], strict=True):
            is_soon = use > 0 and passed[use] - passed[number + 1] < MAX_REUSE_ELEMENTS
            if not is_soon and prefetched_for[weight] <= number:
                is_there[weight] = False
                available -= num_elements[weight]
    return levels


def _next_uses(calls: Sequence[Sequence[int]], num_weights: int) -> list[list[int]]:
    """The call that needs each weight of a call next; 0 where none does."""
    later = [0] * num_weights
    uses: list[list[int]] = []
    for number in reversed(range(len(calls))):
        call = calls[number]
        uses.append([later[weight] for weight in call])
        for weight in call:
            later[weight] = number
    uses.reverse()
    return uses
