"""What clipping and an optimizer's step need for a moment, beside states and gradients.

Tensors are listed as (bytes, how many). The Trainer makes two groups of parameters,
matrices that decay and the rest (`trainer.py`, `create_optimizer`); torch's optimizers
step one group after the other, and a function's locals die between them. Weight decay
is decoupled or 0, the Trainer's default: else Adam, SGD and RMSprop would copy the
gradients too. The first step makes its states on the way and is no higher.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from memplan.formulas.allocator import block_bytes
from memplan.formulas.optimizers import Optimizer, factor_elements, state_tensors
from memplan.formulas.parameters import Parameter
from memplan.formulas.reductions import row_sum_bytes
from memplan.formulas.tensors import ITEM_BYTES

Tensors = list[tuple[int, int]]

NORM_CHUNK_ELEMENTS = 65_536
"""kChunkSize of `native/cuda/MultiTensorApply.cuh`."""


def clip_tensors(parameters: Sequence[Parameter]) -> Tensors:
    """Temporaries of `torch.nn.utils.clip_grad_norm_`, which scales in place.

    The norm of all gradients at once (`native/cuda/ForeachReduceOp.cu`): an fp32 sum
    for each chunk of the largest gradient, as many for every other, and one norm for
    each gradient. GradScaler's unscaling (fp16) is in place and adds four scalars.
    """
    num_tensors = sum(p.count for p in parameters)
    largest = max((p.num_elements for p in parameters), default=0)
    num_chunks = -(-largest // NORM_CHUNK_ELEMENTS)
    return [(4 * num_chunks * num_tensors, 1), (4, num_tensors)]


def update_bytes(optimizer: Optimizer, parameters: Sequence[Parameter]) -> int:
    """States of these tensors, and what a step over them needs for a moment."""
    states = sum(sum(state_tensors(optimizer, p)) * p.count for p in parameters)
    moment = sum(size * count for size, count in step_tensors(optimizer, parameters))
    return states + moment


def step_tensors(
    optimizer: Optimizer,
    parameters: Sequence[Parameter],
    compute_capability: tuple[int, int] = (9, 0),
    num_sms: int = 132,
) -> Tensors:
    """Temporaries at the height of a step over these trainable tensors on a card.

    foreach: Adam, Adagrad and RMSprop make the roots of the second moments of a whole
    group, in the parameters' dtype; Adagrad scaled gradients too. Others go from
    tensor to tensor, and what a name holds of one lives until the next rebinds it
    (`_tensor_by_tensor`). Fused kernels, bitsandbytes', and SGD work in place. The
    means of Adafactor's columns are sums over rows, which a card splits
    (`row_sum_bytes`).
    """
    split = partial(
        _column_sums, compute_capability=compute_capability, num_sms=num_sms
    )
    matrices = [p for p in parameters if len(p.shape) > 1]
    groups = matrices, [p for p in parameters if len(p.shape) < 2]
    match optimizer.algorithm, optimizer.implementation:
        case "adam" | "adagrad" | "rmsprop", "foreach":
            lists = 2 if optimizer.algorithm == "adagrad" else 1
            return _highest(
                [(_bytes(p), lists * p.count) for p in group] for group in groups
            )
        case "adam", "loop":
            return _highest(
                [(before, 1), (_bytes(p), 2)]
                for group in groups
                for before, p in _tensor_by_tensor(group)
            )
        case "torch_adafactor", _:
            return _highest(
                [(before, 1), *own, *_factors(p, ITEM_BYTES[p.stored.dtype])]
                for group in groups
                for before, p in _tensor_by_tensor(group)
                for own in ([(_bytes(p), 1)], split(p, ITEM_BYTES[p.stored.dtype]))
            )
        case "adafactor", _:
            return _highest(_adafactor_heights([*groups[0], *groups[1]], split))
    return []


def _column_sums(
    parameter: Parameter,
    item_bytes: int,
    *,
    compute_capability: tuple[int, int],
    num_sms: int,
) -> Tensors:
    """Scratch of a sum over the rows of a matrix."""
    if len(parameter.shape) != 2:
        return []
    rows, columns = parameter.shape
    scratch = row_sum_bytes(rows, columns, item_bytes, compute_capability, num_sms)
    return [(scratch, 1)]


def _adafactor_heights(
    parameters: Sequence[Parameter], split: Callable[[Parameter, int], Tensors]
) -> Iterator[Tensors]:
    """transformers' Adafactor, whose one loop runs over all groups.

    `(grad**2) + eps` stands beside the update of the tensor before; then the new
    update is made from the factors of rows and columns beside the squares, which are
    averaged before. Gradients and parameters below fp32 are copied to fp32 first.
    """
    for before, p in _tensor_by_tensor(parameters, item_bytes=4):
        size_bytes = 4 * p.num_elements
        own = 2 if p.stored.dtype == "fp32" else 4
        yield [(before, 1), (size_bytes, own)]
        yield [*split(p, 4), (size_bytes, own - 1)]
        yield [*_factors(p, 4), (size_bytes, own)]


def _factors(parameter: Parameter, item_bytes: int) -> Tensors:
    """A mean for each row and each column."""
    return [(item_bytes * n, 1) for n in factor_elements(parameter)]


def _tensor_by_tensor(
    parameters: Sequence[Parameter], item_bytes: int | None = None
) -> Iterator[tuple[int, Parameter]]:
    """Each tensor with the bytes of the one before; layers repeat."""
    before = 0
    for index, p in enumerate(parameters):
        yield before, p
        before = _bytes(p, item_bytes)
        following = parameters[index + 1] if index + 1 < len(parameters) else None
        is_last_of_layer = following is None or _layer(following) != _layer(p)
        if p.count > 1 and is_last_of_layer:
            first = index
            while first and _layer(parameters[first - 1]) == _layer(p):
                first -= 1
            yield before, parameters[first]


def _layer(parameter: Parameter) -> str:
    """The path up to the index of the innermost repeated layer."""
    return parameter.name.rpartition("*")[0]


def _bytes(parameter: Parameter, item_bytes: int | None = None) -> int:
    item_bytes = item_bytes or ITEM_BYTES[parameter.stored.dtype]
    return parameter.num_elements * item_bytes


def _highest(candidates: Iterator[Tensors] | Sequence[Tensors]) -> Tensors:
    """The list that takes most."""

    def total(tensors: Tensors) -> int:
        return sum(block_bytes(size) * count for size, count in tensors)

    return max(candidates, key=total, default=[])
