"""Optimizers: which there are, and the states they keep.

Names are those of the Trainer (`transformers.training_args.OptimizerNames`) or short
ones. Sources: `torch/optim/*.py` (2.14), `transformers/optimization.py` and
`trainer_optimizer.py` (5.23), bitsandbytes 0.50 `optim/optimizer.py`.
"""

from dataclasses import dataclass
from difflib import get_close_matches

from memplan.errors import UnknownNameError
from memplan.formulas.parameters import Parameter
from memplan.formulas.tensors import ITEM_BYTES

MIN_8BIT_ELEMENTS = 4096
"""bitsandbytes keeps the states of smaller tensors in fp32 (`min_8bit_size`)."""
BLOCK_ELEMENTS = 256
"""Elements that share one fp32 maximum in an 8-bit state."""
TABLE_BYTES = 1024
"""The 256 fp32 values that 8-bit codes stand for (`create_dynamic_map`)."""
MIN_PAGED_ELEMENTS = 100_000
"""States of smaller tensors are not paged (`get_state_buffer`)."""

MOMENTS = {
    "adam": (1, 1),
    "ademamix": (2, 1),
    "adagrad": (1,),
    "lion": (1,),
    "momentum": (1,),
    "rmsprop": (1,),
    "sgd": (),
}
"""State tensors of an algorithm, each as a multiple of the parameter's elements."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """What an optimizer is, for memory's sake."""

    name: str
    algorithm: str
    """A key of MOMENTS, or adafactor, or torch_adafactor."""
    implementation: str
    """foreach, fused, loop; or bitsandbytes' 32bit, 8bit."""
    is_paged: bool = False
    """Large states are managed memory, outside PyTorch's allocator."""

    @property
    def starts_with_states(self) -> bool:
        """Adagrad makes them when it is made, others in their first step."""
        return self.algorithm == "adagrad"

    @property
    def decays_gradients(self) -> bool:
        """Whether weight decay makes a list of gradients: not where it is decoupled."""
        return self.implementation == "foreach" and not self.name.startswith("adamw")


def find_optimizer(name: str) -> Optimizer:
    """The optimizer of that name, in either spelling.

    Raises:
        UnknownNameError: there is none, or it is not modelled.
    """
    key = name.strip().lower().replace("-", "_")
    if key in _OPTIMIZERS:
        return _OPTIMIZERS[key]
    if key not in NOT_MODELLED:
        raise UnknownNameError.of("optimizer", name, _OPTIMIZERS)
    closest = get_close_matches(key, _OPTIMIZERS, n=3, cutoff=0)
    raise UnknownNameError(
        f"The Trainer's optimizer {name!r} is not modelled.",
        hint=f"The closest by name that are: {', '.join(closest)}.",
    )


def optimizer_names() -> tuple[str, ...]:
    """All names that `find_optimizer` knows."""
    return tuple(_OPTIMIZERS)


def state_tensors(optimizer: Optimizer, parameter: Parameter) -> list[int]:
    """Bytes of each state of one trainable tensor in PyTorch's allocator.

    torch: moments in the parameter's dtype, and a step count of 4 bytes where fused
    (foreach and loop keep theirs on the host; accelerate moves Adagrad's). Adafactor
    of transformers: a mean for each row and column of a matrix in fp32, else one for
    each element, and the root mean square; torch's keeps them in the parameter's
    dtype. bitsandbytes: fp32, or a byte an element with an fp32 maximum for each 256.
    """
    moments = _moment_bytes(optimizer, parameter)
    if optimizer.is_paged and parameter.num_elements >= MIN_PAGED_ELEMENTS:
        moments = []
    return moments + _constants(optimizer, parameter)


def table_tensors(optimizer: Optimizer, parameters: list[Parameter]) -> list[int]:
    """What an optimizer keeps once for all tensors: the tables of 8-bit codes."""
    if any(_has_8bit_states(optimizer, p) for p in parameters):
        return [TABLE_BYTES] * len(MOMENTS[optimizer.algorithm])
    return []


def convention_bytes(optimizer: Optimizer) -> int:
    """Bytes of states of one parameter as conventions count them.

    Adam 8, with one moment 4, Adafactor 4, in 8 bits a quarter of that
    (transformers, "Model training anatomy" and "GPU").
    """
    if optimizer.algorithm.endswith("adafactor"):
        return 4
    num_moments = sum(MOMENTS[optimizer.algorithm])
    return num_moments * (1 if optimizer.implementation == "8bit" else 4)


def _moment_bytes(optimizer: Optimizer, parameter: Parameter) -> list[int]:
    """The states that are as large as the parameter, or its rows and columns."""
    num_elements = parameter.num_elements
    item_bytes = ITEM_BYTES[parameter.stored.dtype]
    match optimizer.algorithm, optimizer.implementation:
        case "adafactor", _:
            return [4 * n for n in factor_elements(parameter)]
        case "torch_adafactor", _:
            return [item_bytes * n for n in factor_elements(parameter)]
        case _, "8bit" if _has_8bit_states(optimizer, parameter):
            item_bytes = 1
        case _, "8bit" | "32bit":
            item_bytes = 4
    return [item_bytes * num_elements * n for n in MOMENTS[optimizer.algorithm]]


def _constants(optimizer: Optimizer, parameter: Parameter) -> list[int]:
    """Small states beside the moments; paging leaves them in the allocator."""
    if optimizer.algorithm in ("adafactor", "adagrad"):
        return [4]
    if optimizer.implementation == "fused" and MOMENTS[optimizer.algorithm]:
        return [4]
    if _has_8bit_states(optimizer, parameter):
        num_blocks = -(-parameter.num_elements // BLOCK_ELEMENTS)
        return [4 * num_blocks * n for n in MOMENTS[optimizer.algorithm]]
    return []


def factor_elements(parameter: Parameter) -> tuple[int, ...]:
    """Elements of Adafactor's second moment: rows and columns of the last two axes."""
    if len(parameter.shape) < 2:
        return (parameter.num_elements,)
    num_elements = parameter.num_elements
    return num_elements // parameter.shape[-1], num_elements // parameter.shape[-2]


def _has_8bit_states(optimizer: Optimizer, parameter: Parameter) -> bool:
    """The Trainer asks for fp32 states of embeddings (`trainer.py`)."""
    return (
        optimizer.implementation == "8bit"
        and parameter.num_elements >= MIN_8BIT_ELEMENTS
        and not parameter.is_embedding
    )


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
        "adagrad": ("adagrad", "foreach"),
        "sgd": ("sgd", "foreach"),
        "sgd_momentum": ("momentum", "foreach"),
        "rmsprop": ("rmsprop", "foreach"),
        "adafactor": ("adafactor", "loop"),
        "torch_adafactor": ("torch_adafactor", "loop"),
        "adamw_8bit": ("adam", "8bit"),
        "adamw_bnb_8bit": ("adam", "8bit"),
        "ademamix": ("ademamix", "32bit"),
        "ademamix_8bit": ("ademamix", "8bit"),
        "lion": ("lion", "32bit"),
        "lion_32bit": ("lion", "32bit"),
        "lion_8bit": ("lion", "8bit"),
        "rmsprop_bnb": ("rmsprop", "32bit"),
        "rmsprop_bnb_32bit": ("rmsprop", "32bit"),
        "rmsprop_bnb_8bit": ("rmsprop", "8bit"),
    }
    known = {
        name: Optimizer(name=name, algorithm=algorithm, implementation=implementation)
        for name, (algorithm, implementation) in rows.items()
    }
    for family, algorithm in (
        ("adamw", "adam"),
        ("ademamix", "ademamix"),
        ("lion", "lion"),
    ):
        for bits in ("32bit", "8bit"):
            name = f"paged_{family}_{bits}"
            known[name] = Optimizer(
                name=name, algorithm=algorithm, implementation=bits, is_paged=True
            )
    return known


_OPTIMIZERS = _known()

NOT_MODELLED = frozenset(
    (
        "adalomo",
        "adamw_anyprecision",
        "adamw_torch_4bit",
        "adamw_torch_8bit",
        "adamw_torch_npu_fused",
        "adamw_torch_xla",
        "apollo_adamw",
        "apollo_adamw_layerwise",
        "galore_adafactor",
        "galore_adafactor_layerwise",
        "galore_adamw",
        "galore_adamw_8bit",
        "galore_adamw_8bit_layerwise",
        "galore_adamw_layerwise",
        "grokadamw",
        "lomo",
        "schedule_free_adamw",
        "schedule_free_radam",
        "schedule_free_sgd",
        "stable_adamw",
    )
)
"""Names of the Trainer that need a package or a device of their own."""
