"""Optimizers that keep or move less."""

from collections.abc import Callable
from dataclasses import dataclass

from memplan.estimating.changes import Fields
from memplan.formulas.optimizers import MOMENTS, find_optimizer
from memplan.plan import TrainingPlan
from memplan.tricks.trick import ALREADY, Exactness, Trick

OPTIM = "torch/optim/adamw.py (foreach takes about as much more as the parameters do)"
BITSANDBYTES = "Dettmers et al., arXiv 2110.02861; bitsandbytes/optim/adamw.py"
PAGED = (
    "Dettmers et al., arXiv 2305.14314, paged optimizers; bitsandbytes/functional.py"
)


def _adam(name: str) -> Callable[[TrainingPlan], Fields | str]:
    """The same algorithm by another implementation."""

    def changes(plan: TrainingPlan) -> Fields | str:
        now, then = find_optimizer(plan.optim), find_optimizer(name)
        if now.algorithm != "adam":
            return f"the plan's optimizer is no AdamW but {plan.optim}"
        if (now.implementation, now.is_paged) == (then.implementation, then.is_paged):
            return ALREADY
        return {"optim": name}

    return changes


def _other(name: str, most_moments: int) -> Callable[[TrainingPlan], Fields | str]:
    """Another algorithm, in place of one with more moments a parameter."""

    def changes(plan: TrainingPlan) -> Fields | str:
        now = find_optimizer(plan.optim)
        if now.algorithm == find_optimizer(name).algorithm:
            return ALREADY
        if sum(MOMENTS.get(now.algorithm, ())) <= most_moments:
            return f"{plan.optim} keeps no more"
        return {"optim": name}

    return changes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    name: str
    title: str
    exactness: Exactness
    cost: str
    source: str
    changes: Callable[[TrainingPlan], Fields | str]


_ROWS = (
    _Row(
        name="adamw-fused",
        title="AdamW, fused",
        exactness="rounding",
        cost="None: one kernel updates many tensors, without lists of temporaries.",
        source=OPTIM,
        changes=_adam("adamw-fused"),
    ),
    _Row(
        name="adamw-foreach",
        title="AdamW, foreach",
        exactness="rounding",
        cost="Temporaries as large as the parameters, for fewer kernels than the loop.",
        source=OPTIM,
        changes=_adam("adamw-foreach"),
    ),
    _Row(
        name="adamw-forloop",
        title="AdamW, a loop",
        exactness="rounding",
        cost="A dozen kernels for each tensor: the slowest of PyTorch's three.",
        source=OPTIM,
        changes=_adam("adamw-forloop"),
    ),
    _Row(
        name="adamw-8bit",
        title="AdamW, 8-bit states",
        exactness="rounding",
        cost="States are rounded to 256 values a block; embeddings keep fp32.",
        source=BITSANDBYTES,
        changes=_adam("adamw-8bit"),
    ),
    _Row(
        name="adamw-paged",
        title="AdamW, paged states",
        exactness="rounding",
        cost="States move to host memory where the card is full, over PCIe.",
        source=PAGED,
        changes=_adam("paged-adamw-32bit"),
    ),
    _Row(
        name="adamw-paged-8bit",
        title="AdamW, paged 8-bit states",
        exactness="rounding",
        cost="Both: rounded states, which move to host memory where the card is full.",
        source=PAGED,
        changes=_adam("paged-adamw-8bit"),
    ),
    _Row(
        name="adafactor",
        title="Adafactor",
        exactness="different optimisation",
        cost="Second moments by rows and columns, no first: other steps, often slower "
        "to converge.",
        source="Shazeer and Stern, arXiv 1804.04235; transformers/optimization.py",
        changes=_other("adafactor", 0),
    ),
    _Row(
        name="lion",
        title="Lion",
        exactness="different optimisation",
        cost="One moment and the sign of it: learning rate and decay are tuned anew.",
        source="Chen et al., arXiv 2302.06675; bitsandbytes/optim/lion.py",
        changes=_other("lion", 1),
    ),
    _Row(
        name="lion-8bit",
        title="Lion, 8-bit state",
        exactness="different optimisation",
        cost="As Lion, its moment rounded to 256 values a block.",
        source="Chen et al., arXiv 2302.06675; bitsandbytes/optim/lion.py",
        changes=_other("lion-8bit", 1),
    ),
    _Row(
        name="sgd-momentum",
        title="SGD with momentum",
        exactness="different optimisation",
        cost="No step size of its own for each weight: transformers train badly.",
        source="torch/optim/sgd.py; Zhang et al., arXiv 1912.03194",
        changes=_other("sgd-momentum", 1),
    ),
    _Row(
        name="sgd",
        title="SGD",
        exactness="different optimisation",
        cost="No states at all: transformers train badly.",
        source="torch/optim/sgd.py; Zhang et al., arXiv 1912.03194",
        changes=_other("sgd", 0),
    ),
)

TRICKS = tuple(
    Trick(
        name=row.name,
        title=row.title,
        technique="optimizer choice",
        exactness=row.exactness,
        cost=row.cost,
        source=row.source,
        changes=row.changes,
    )
    for row in _ROWS
)
