"""Optimizers: the states they keep, and what a step needs for a moment.

Names are those of the Trainer (`transformers.training_args.OptimizerNames`) or short
ones. Sources: `torch/optim/*.py` (2.14), `transformers/optimization.py` (5.23),
bitsandbytes 0.50 `optim/optimizer.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from memplan.errors import UnknownNameError
from memplan.formulas.allocator import block_bytes
from memplan.formulas.tape import ITEM_BYTES, Parameter


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """What an optimizer is, for memory's sake."""

    name: str
    algorithm: str
    """adam, sgd, momentum, adafactor, lion or rmsprop."""
    implementation: str
    """foreach, fused, loop, or 8bit (bitsandbytes block-wise)."""
    is_paged: bool = False


def find_optimizer(name: str) -> Optimizer:
    """The optimizer of that name, in either spelling.

    Raises:
        UnknownNameError: there is none.
    """
    key = name.lower().replace("-", "_")
    if key not in _OPTIMIZERS:
        raise UnknownNameError.of("optimizer", name, _OPTIMIZERS)
    return _OPTIMIZERS[key]


def optimizer_names() -> tuple[str, ...]:
    """All names that `find_optimizer` knows."""
    return tuple(_OPTIMIZERS)


def state_tensors(optimizer: Optimizer, parameter: Parameter) -> list[int]:
    """Bytes of each state of one trainable tensor, once the first step made them.

    adam: two moments in the parameter's dtype, and a step count of 4 bytes where fused.
    momentum and rmsprop: one. lion: one in fp32. adafactor: a row and a column of means
    in fp32 for matrices, else one tensor. 8bit: uint8 moments with an fp32 maximum for
    each 256 elements; tensors below 4096 elements stay in fp32.
    """
    num_elements = parameter.num_elements
    size_bytes = num_elements * ITEM_BYTES[parameter.stored.dtype]
    match optimizer.algorithm:
        case "sgd":
            return []
        case "adafactor" if len(parameter.shape) >= 2:
            rows = num_elements // parameter.shape[-1]
            columns = num_elements // parameter.shape[-2]
            return [4 * rows, 4 * columns]
        case "adafactor":
            return [4 * num_elements]
        case "adam":
            num_moments = 2
        case _:
            num_moments = 1
    if optimizer.implementation == "8bit" and num_elements >= 4096:
        return [num_elements, 4 * -(-num_elements // 256)] * num_moments
    if optimizer.implementation == "8bit" or optimizer.algorithm == "lion":
        return [4 * num_elements] * num_moments
    step_count = [4] if optimizer.implementation == "fused" else []
    return [size_bytes] * num_moments + step_count


def step_bytes(optimizer: Optimizer, parameters: Sequence[Parameter]) -> int:
    """Temporaries at the height of a step, for all trainable tensors of this rank.

    foreach makes one list as large as all parameters (the denominators of Adam and
    RMSprop). The loop makes two or three tensors as large as the largest. Fused, SGD
    and block-wise kernels need none.
    """
    trained = [p for p in parameters if p.stored.is_trainable]
    sizes = [p.num_elements * ITEM_BYTES[p.stored.dtype] for p in trained]
    largest = max(sizes, default=0)
    if optimizer.algorithm == "adafactor":
        return 3 * max((4 * p.num_elements for p in trained), default=0)
    if optimizer.algorithm in ("adam", "rmsprop"):
        if optimizer.implementation == "foreach":
            return sum(
                block_bytes(size) * p.count
                for size, p in zip(sizes, trained, strict=True)
            )
        if optimizer.implementation == "loop":
            return 2 * block_bytes(largest)
    return 0


def _known() -> dict[str, Optimizer]:
    rows = {
        "adamw": ("adam", "foreach"),
        "adamw_foreach": ("adam", "foreach"),
        "adamw_torch": ("adam", "foreach"),
        "adamw_fused": ("adam", "fused"),
        "adamw_torch_fused": ("adam", "fused"),
        "adamw_forloop": ("adam", "loop"),
        "adam": ("adam", "foreach"),
        "adam_fused": ("adam", "fused"),
        "adam_forloop": ("adam", "loop"),
        "sgd": ("sgd", "foreach"),
        "sgd_momentum": ("momentum", "foreach"),
        "rmsprop": ("rmsprop", "foreach"),
        "adafactor": ("adafactor", "loop"),
        "lion": ("lion", "fused"),
        "lion_32bit": ("lion", "fused"),
        "lion_8bit": ("lion", "8bit"),
        "adamw_8bit": ("adam", "8bit"),
        "adamw_bnb_8bit": ("adam", "8bit"),
    }
    known = {
        name: Optimizer(name=name, algorithm=algorithm, implementation=implementation)
        for name, (algorithm, implementation) in rows.items()
    }
    for name, algorithm, implementation in (
        ("paged_adamw_32bit", "adam", "fused"),
        ("paged_adamw_8bit", "adam", "8bit"),
        ("paged_lion_32bit", "lion", "fused"),
        ("paged_lion_8bit", "lion", "8bit"),
    ):
        known[name] = Optimizer(
            name=name,
            algorithm=algorithm,
            implementation=implementation,
            is_paged=True,
        )
    return known


_OPTIMIZERS = _known()
