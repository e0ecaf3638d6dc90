"""What is searched: clusters, ways to run on them, and how a global batch is divided.

A candidate is a cluster, a recipe and a micro-batch. A recipe is the plan with one
trick or none of each technique; those that contradict each other are never together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from memplan.errors import MemplanError, PlanError
from memplan.hardware import Gpu
from memplan.plan import TrainingPlan
from memplan.searching.prices import Price
from memplan.tricks.catalogue import find_tricks
from memplan.tricks.trick import EXACTNESSES, Technique, Trick, change_of

ALLOWED = ("exact", "rounding")
"""What is allowed of itself: neither the model nor the optimisation becomes another."""
SEARCHED: tuple[Technique, ...] = (
    "mixed precision",
    "LoRA and quantization",
    "frozen parts",
    "gradient checkpointing",
    "loss",
    "activation offload",
    "optimizer choice",
    "ZeRO and FSDP",
    "CPU offload",
)
"""In the order in which tricks are laid on: what is trained comes before how."""
SHARED = 2
"""Ranks of a recipe that stands for any number of them above one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """So many cards of one model."""

    gpu: Gpu
    num_gpus: int
    price: Price | None

    @property
    def name(self) -> str:
        return f"{self.num_gpus} x {self.gpu.slug}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way to run the plan, whichever card and micro-batch."""

    plan: TrainingPlan
    """Of one rank, or of `SHARED`; one sample, no accumulation."""
    tricks: tuple[Trick, ...] = field(compare=False)

    @property
    def gentleness(self) -> tuple[int, int]:
        """What changes results least comes first, then what changes the plan least."""
        ranks = [EXACTNESSES.index(trick.exactness) for trick in self.tricks]
        return max(ranks, default=0), len(ranks)

    def plan_on(self, cluster: Cluster, share: int, micro_batch: int) -> TrainingPlan:
        """The plan of a candidate, where each rank has a share of the global batch."""
        return replace(
            self.plan,
            gpu=cluster.gpu.slug,
            num_gpus=cluster.num_gpus,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=share // micro_batch,
        )


def divisors(number: int) -> tuple[int, ...]:
    """All of them, the smallest first."""
    return tuple(part for part in range(1, number + 1) if number % part == 0)


def counts_of(global_batch: int, max_gpus: int, gpus_per_node: int) -> tuple[int, ...]:
    """Numbers of ranks that divide the global batch; beyond a node, whole nodes."""
    return tuple(
        count
        for count in divisors(global_batch)
        if count <= max_gpus and (count <= gpus_per_node or count % gpus_per_node == 0)
    )


def allowed_tricks(plan: TrainingPlan, allow: Sequence[str]) -> tuple[Trick, ...]:
    """Those of the searched techniques: what is allowed of itself, and what is named.

    Raises:
        UnknownNameError: no trick has that name.
        PlanError: a name is of what is not searched for.
        MemplanError: the plan's model is unknown.
    """
    for name in allow:
        if not _searched(find_tricks(plan, (name,))):
            raise PlanError(
                f"{name} is not searched for.",
                hint=f"Searched for: {', '.join(SEARCHED)}.",
            )
    return _searched(find_tricks(plan, (*ALLOWED, *allow)))


def _searched(tricks: Sequence[Trick]) -> tuple[Trick, ...]:
    return tuple(trick for trick in tricks if trick.technique in SEARCHED)


def recipes_of(plan: TrainingPlan, tricks: Sequence[Trick]) -> tuple[Recipe, ...]:
    """Every combination, the gentlest first."""
    found = {plan: _Way((), frozenset())}
    for technique in SEARCHED:
        own = [trick for trick in tricks if trick.technique == technique]
        for before, way in tuple(found.items()):
            for trick in own:
                changed = _with(before, way, trick)
                if changed is not None:
                    after, fields = changed
                    found.setdefault(after, _Way((*way.tricks, trick), fields))
    recipes = [Recipe(after, way.tricks) for after, way in found.items()]
    return tuple(sorted(recipes, key=lambda recipe: recipe.gentleness))


@dataclass(frozen=True, slots=True)
class _Way:
    tricks: tuple[Trick, ...]
    fields: frozenset[str]
    """Those of the plan that they speak of."""


def _with(
    plan: TrainingPlan, way: _Way, trick: Trick
) -> tuple[TrainingPlan, frozenset[str]] | None:
    """With one trick more; None where it does not suit, or contradicts another."""
    change = change_of(trick, plan)
    if isinstance(change, str) or not way.fields.isdisjoint(change):
        return None
    # What a trick wants as it is already is its own as well.
    wanted = trick.changes(plan)
    assert not isinstance(wanted, str), "it suits the plan"
    try:
        return replace(plan, **change), way.fields | wanted.keys()
    except MemplanError:
        return None
