"""How fast a candidate trains: a roofline of its counted step, and of its links.

    seconds = micro-batches x (their work, and what ranks exchange for each)
            + the update, shared where states are, and what ranks exchange for it

Work is counted as one card does it alone (`estimating/speed.py`), so that it is the
same however many others there are. No communication is taken to hide behind it. Both
the card and its links are taken to reach one fraction of their datasheets, the
efficiency.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from memplan.errors import MemplanError
from memplan.estimating.speed import counted_micro_batch, counted_update, rates_of
from memplan.formulas.optimizers import find_optimizer
from memplan.formulas.parameters import Parameter
from memplan.formulas.sharding import trained
from memplan.formulas.tensors import ITEM_BYTES
from memplan.formulas.weights import AUTOCAST_DTYPE, STORED_DTYPE
from memplan.formulas.work import Work
from memplan.plan import TrainingPlan
from memplan.searching.calibration import Efficiency
from memplan.searching.candidates import Cluster, Recipe
from memplan.searching.links import Links, all_gather_bytes, all_reduce_bytes

NOT_PREDICTED = (
    "what waits for host memory or its processor has no predicted speed: it would be a "
    "guess"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """What is predicted of one optimizer step of a candidate."""

    step_s: float
    computing_s: float
    """Of all micro-batches, and the update."""
    communication_s: float
    samples_per_s: float
    """Of all GPUs together, as the next."""
    tokens_per_s: float | None
    """None where samples have no tokens."""
    of_peak_fraction: float
    """Operations of the step by the card's peak rate for its products: MFU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Bytes that each rank sends."""

    per_micro_batch: float = 0.0
    per_step: float = 0.0


@dataclass(frozen=True, slots=True)
class _Counted:
    """Of one micro-batch on one card."""

    work: Work
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class _Basis:
    """What all micro-batches of a recipe on a card have in common."""

    alone: TrainingPlan
    """What decides the work of a micro-batch: neither others nor the optimizer."""
    update_s: float
    """Of one rank; those that share states each update their part."""
    traffic: Traffic
    bytes_per_s: float
    """Of the link that it goes over."""
    efficiency: float


class Clock:
    """Times of candidates; what several of them share is counted once."""

    def __init__(
        self,
        links: Links,
        efficiencies: Mapping[str, Efficiency],
        tokens_per_sample: int | None,
    ) -> None:
        """Get ready.

        Args:
            efficiencies: by slug of the card.
            tokens_per_sample: None where samples have none.
        """
        self._links = links
        self._efficiencies = efficiencies
        self._tokens = tokens_per_sample
        self._bases: dict[tuple[TrainingPlan, str, int], _Basis | None] = {}
        self._ways_alone: dict[tuple[TrainingPlan, str], TrainingPlan] = {}
        self._counted: dict[tuple[TrainingPlan, int], _Counted | None] = {}
        self._updates: dict[tuple[TrainingPlan, str], Work] = {}
        self._exchanged: dict[tuple[TrainingPlan, str, int, int], Traffic] = {}

    def step_s(
        self, recipe: Recipe, cluster: Cluster, share: int, micro_batch: int
    ) -> float | None:
        """Seconds of an optimizer step; None where they would be a guess."""
        parts = self._parts(recipe, cluster, share, micro_batch)
        return None if parts is None else sum(parts)

    def least_step_s(
        self, recipe: Recipe, cluster: Cluster, share: int, largest: int
    ) -> float | None:
        """No micro-batch up to `largest` lets the step take less.

        A sample takes the least time in the largest micro-batch: each operator moves
        some bytes for a micro-batch, whatever its size, and some for each sample.
        """
        facts = self._facts(recipe, cluster, largest)
        if facts is None:
            return None
        basis, counted = facts
        sent = basis.traffic.per_micro_batch + basis.traffic.per_step
        computing = share / largest * counted.work.seconds + basis.update_s
        return (computing + sent / basis.bytes_per_s) / basis.efficiency

    def throughput(
        self, recipe: Recipe, cluster: Cluster, share: int, micro_batch: int
    ) -> Throughput | None:
        """What comes of the seconds of a step; None where they would be a guess."""
        parts = self._parts(recipe, cluster, share, micro_batch)
        facts = self._facts(recipe, cluster, micro_batch)
        if parts is None or facts is None:
            return None
        _, counted = facts
        computing, communication = parts
        seconds = computing + communication
        samples_per_s = share * cluster.num_gpus / seconds
        dtype = computed_in(recipe.plan)
        peak = rates_of(cluster.gpu, recipe.plan).flops_per_s[dtype]
        operations = counted.work.flops * (share // micro_batch)
        return Throughput(
            step_s=seconds,
            computing_s=computing,
            communication_s=communication,
            samples_per_s=samples_per_s,
            tokens_per_s=self._tokens and samples_per_s * self._tokens,
            of_peak_fraction=operations / seconds / peak,
        )

    def _parts(
        self, recipe: Recipe, cluster: Cluster, share: int, micro_batch: int
    ) -> tuple[float, float] | None:
        """Seconds of computing, and of communication."""
        facts = self._facts(recipe, cluster, micro_batch)
        if facts is None:
            return None
        basis, counted = facts
        times = share // micro_batch
        computing = times * counted.work.seconds + basis.update_s
        sent = times * basis.traffic.per_micro_batch + basis.traffic.per_step
        return (
            computing / basis.efficiency,
            sent / basis.bytes_per_s / basis.efficiency,
        )

    def _facts(
        self, recipe: Recipe, cluster: Cluster, micro_batch: int
    ) -> tuple[_Basis, _Counted] | None:
        """None where the host has a say, or nothing can be counted."""
        basis = self._basis(recipe, cluster)
        counted = None if basis is None else self._count(basis.alone, micro_batch)
        return None if basis is None or counted is None else (basis, counted)

    def _basis(self, recipe: Recipe, cluster: Cluster) -> _Basis | None:
        key = recipe.plan, cluster.gpu.slug, cluster.num_gpus
        if key not in self._bases:
            self._bases[key] = self._new_basis(recipe.plan, cluster)
        return self._bases[key]

    def _new_basis(self, plan: TrainingPlan, cluster: Cluster) -> _Basis | None:
        waits = plan.offload_optimizer or plan.offload_parameters
        if waits or plan.offload_activations or find_optimizer(plan.optim).is_paged:
            return None
        alone = self._alone(plan, cluster.gpu.slug)
        counted = self._count(alone, 1)
        if counted is None:
            return None
        update_s = self._update_s(alone, plan.optim, counted)
        return _Basis(
            alone=alone,
            update_s=update_s / (cluster.num_gpus if plan.zero_stage else 1),
            traffic=self._traffic(alone, plan, cluster.num_gpus, counted),
            bytes_per_s=self._links.of(cluster.gpu, cluster.num_gpus).bytes_per_s,
            efficiency=self._efficiencies[cluster.gpu.slug].fraction,
        )

    def _alone(self, plan: TrainingPlan, gpu: str) -> TrainingPlan:
        key = plan, gpu
        if key not in self._ways_alone:
            self._ways_alone[key] = replace(
                plan,
                gpu=gpu,
                optim="sgd",
                num_gpus=1,
                zero_stage=0,
                sharding="fsdp2",
            )
        return self._ways_alone[key]

    def _update_s(self, alone: TrainingPlan, optim: str, counted: _Counted) -> float:
        """Of one rank that updates everything."""
        key = alone, optim
        if key not in self._updates:
            own = trained(counted.parameters)
            self._updates[key] = counted_update(replace(alone, optim=optim), own)
        return self._updates[key].seconds

    def _traffic(
        self, alone: TrainingPlan, plan: TrainingPlan, num_ranks: int, counted: _Counted
    ) -> Traffic:
        key = alone, plan.sharding, plan.zero_stage, num_ranks
        if key not in self._exchanged:
            self._exchanged[key] = traffic_of(plan, num_ranks, counted.parameters)
        return self._exchanged[key]

    def _count(self, alone: TrainingPlan, micro_batch: int) -> _Counted | None:
        key = alone, micro_batch
        if key not in self._counted:
            plan = replace(alone, per_device_train_batch_size=micro_batch)
            self._counted[key] = _counted_as(plan)
        return self._counted[key]


def computed_in(plan: TrainingPlan) -> str:
    """The dtype of most products."""
    return AUTOCAST_DTYPE.get(plan.precision, STORED_DTYPE[plan.precision])


def traffic_of(
    plan: TrainingPlan, num_ranks: int, parameters: tuple[Parameter, ...]
) -> Traffic:
    """What ranks exchange, by who shards what.

    Stage 0: gradients are reduced once a step, in what weights are stored in. Stage 1
    of PyTorch: the same, and each rank hands round the weights it has updated.
    DeepSpeed's engine exchanges in low precision: gradients are scattered once a step
    at stage 1, and for each micro-batch from stage 2 on; stages 1 and 2 gather what was
    updated. FSDP2 gathers weights for each micro-batch, stage 3 once more for its
    backward pass, and scatters gradients once a step: the Trainer accumulates whole
    ones. Sources are those of `formulas/{ddp,fsdp2,deepspeed}.py`.
    """
    if num_ranks == 1:
        return Traffic()
    own = trained(parameters)
    stored = sum(p.count * p.num_elements * ITEM_BYTES[p.stored.dtype] for p in own)
    dtype = computed_in(plan)
    low = sum(p.count * p.num_elements for p in own) * ITEM_BYTES[dtype]
    whole = sum(p.count * _gathered_bytes(p, dtype) for p in parameters)
    gather = all_gather_bytes(num_ranks, 1)
    match plan.sharding, plan.zero_stage:
        case _, 0:
            return Traffic(per_step=all_reduce_bytes(num_ranks, stored))
        case "fsdp2", 1:
            reduced = all_reduce_bytes(num_ranks, stored)
            return Traffic(per_step=reduced + gather * stored)
        case "fsdp2", stage:
            times = 2 if stage == 3 else 1
            return Traffic(
                per_micro_batch=times * gather * whole, per_step=gather * low
            )
        case _, 1:
            return Traffic(per_step=2 * gather * low)
        case _, 2:
            return Traffic(per_micro_batch=gather * low, per_step=gather * low)
        case _:
            return Traffic(per_micro_batch=gather * (2 * whole + low))


def _gathered_bytes(parameter: Parameter, dtype: str) -> int:
    """Of one whole tensor as it goes from rank to rank."""
    if parameter.stored.is_quantized:
        return parameter.stored.num_bytes
    return parameter.num_elements * ITEM_BYTES[dtype]


def _counted_as(plan: TrainingPlan) -> _Counted | None:
    try:
        work, step = counted_micro_batch(plan)
    except MemplanError:
        return None
    return _Counted(work, step.parameters)
