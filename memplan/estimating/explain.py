"""An estimate, term by term: what every component is the sum of.

The terms add up to the byte: those of a component to what the report states for it,
all of them to what the run takes on the device. They come from where the sums come
from: the tape's ledger (`formulas.ledger`) says what was alive at the peak, and the
functions that size weights, gradients and states are asked again, one by one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

from memplan.estimating.arithmetic import (
    elements,
    letters_of,
    per_parameter,
    size,
    term,
)
from memplan.estimating.card import NCCL_BYTES, card_context, outside_allocator
from memplan.estimating.explained_states import (
    alive_gradient_terms,
    by_place,
    gradient_terms,
    parts_of,
    state_terms,
    weight_terms,
)
from memplan.estimating.explained_tape import tape_terms
from memplan.estimating.moments import Moment
from memplan.estimating.step import (
    Step,
    batch_bytes,
    cache_item_bytes,
    masters_of,
    sharder_of,
    update_tensors,
    updated_by,
)
from memplan.formulas.allocator import SEGMENT_STEP_BYTES, block_bytes
from memplan.formulas.large_pool import LargePool
from memplan.formulas.ledger import Origin, origin_of
from memplan.formulas.optimizer_step import clip_tensors
from memplan.formulas.optimizers import Optimizer
from memplan.formulas.sharding import Sharder, Tensors, item_bytes, trained
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import ITEM_BYTES
from memplan.formulas.trace import Items, Totals
from memplan.formulas.weights import states_by_convention
from memplan.formulas.workspaces import cublas_workspace_bytes
from memplan.hardware import Gpu
from memplan.models import Model
from memplan.models.batch import batch_of
from memplan.plan import TrainingPlan
from memplan.report import Components, Explanation, MemoryReport, Term
from memplan.units import MiB

STATES = ("weights", "gradients", "optimizer_states")
ORDER = (*(field.name for field in fields(Components)), "segments", "outside")


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """A traced step, at its highest moment."""

    plan: TrainingPlan
    model: Model
    optimizer: Optimizer
    gpu: Gpu
    step: Step
    highest: Moment
    workspace_bytes: int
    num_workspaces: int

    @property
    def sharder(self) -> Sharder:
        return sharder_of(self.plan)

    @property
    def updates(self) -> bool:
        """The optimizer steps here."""
        return self.highest.phase == "optimizer"

    @property
    def at(self) -> Totals:
        """What the tape holds at the moment; nothing while the optimizer steps."""
        for phase in self.step.phases:
            if phase.name == self.highest.phase:
                return phase.peak.at
        return Totals()

    @property
    def items(self) -> Items:
        return self.at.items or {}

    @property
    def block_bytes(self) -> int:
        """Of blocks that are taken fresh: as `moments_of` adds them up."""
        step, held = self.step, self.standing_bytes
        if self.updates:
            return held + step.gradients.and_(step.optimizer_temporaries).block_bytes
        if self.generated:
            held += step.cache.block_bytes
        return held + step.left_gradients.block_bytes + self.at.block_bytes

    @property
    def left_bytes(self) -> int:
        """Of blocks when the backward pass returns."""
        left = self.step.left_gradients.block_bytes
        return self.standing_bytes + left + self.step.phases[-1].end.block_bytes

    @property
    def standing_bytes(self) -> int:
        """Of blocks that are there in every phase."""
        step = self.step
        held = step.weights.and_(step.averaged_weights).and_(step.buffers)
        workspaces = self.workspace_bytes * self.num_workspaces
        return held.and_(step.optimizer_states).block_bytes + workspaces

    @property
    def generated(self) -> bool:
        """All tokens have been generated."""
        last = self.step.phases[-1].name
        return self.plan.generates and self.highest.phase == last


def explanation_of(run: Explained, report: MemoryReport) -> Explanation:
    """Every term of a report that was made from a traced step."""
    letters = letters_of(
        run.model.family, run.model.config, batch_of(run.plan, run.model)
    )
    terms = [
        *_states(run, report),
        *tape_terms(run.items, letters),
        *_buffers(run),
        *_update(run),
        *_functional(run),
        *_rounding(run),
        *outside_terms(run.plan, run.gpu, report),
    ]
    return in_order(terms, letters.of([one.formula for one in terms]))


def explanation_of_states(
    plan: TrainingPlan, gpu: Gpu, report: MemoryReport
) -> Explanation:
    """Those of a bare parameter count."""
    terms = [*_by_convention(report), *outside_terms(plan, gpu, report)]
    return in_order(terms, {})


def in_order(terms: Iterable[Term], letters: dict[str, str]) -> Explanation:
    """By component, and the largest first."""
    some = [one for one in terms if one.bytes]
    some.sort(key=lambda one: (ORDER.index(one.component), -one.bytes))
    return Explanation(letters=letters, terms=tuple(some))


# Weights, gradients, states


def _states(run: Explained, report: MemoryReport) -> Iterator[Term]:
    plan, sharder, parameters = run.plan, run.sharder, run.step.parameters
    if plan.accounting != "torch":
        yield from _by_convention(report)
        return
    yield from weight_terms(sharder, parameters)
    if run.updates:
        yield from gradient_terms(sharder, parameters)
    else:
        accumulates = plan.gradient_accumulation_steps > 1 and not plan.generates
        left: Tensors = []
        if not plan.generates:
            left = sharder.left_gradients(parameters, accumulates)
        yield from alive_gradient_terms(sharder, parameters, left, run.items)
    if plan.workload != "train" or plan.offload_optimizer:
        return
    updated = updated_by(plan, sharder.updated(parameters))
    yield from state_terms(run.optimizer, updated)
    masters = sum_of(masters_of(plan, sharder, parameters, updated))
    origin = origin_of(sharder.masters)
    formula = elements(masters // 4, 4)
    yield term("optimizer_states", "fp32 master weights", formula, masters, origin)


def _by_convention(report: MemoryReport) -> Iterator[Term]:
    """So many bytes a parameter, over so many ranks."""
    plan = report.plan
    assert plan is not None
    origin = origin_of(states_by_convention)
    for name in STATES:
        total: int = getattr(report.components, name)
        what = f"model states by --accounting {plan.accounting}"
        count, ranks = report.model.parameters, plan.data_parallel
        yield term(name, what, per_parameter(total, count, ranks), total, origin)


# Temporary buffers


def _buffers(run: Explained) -> Iterator[Term]:
    """What is there through the whole step."""
    batch = batch_of(run.plan, run.model)
    ids = batch_bytes(run.model, batch)
    formula = size(ids)
    if run.model.family.batch_bytes is None:
        formula = f"2 x b x s x 8 B = 2 x {batch.size} x {batch.seq_len} x 8 B"
    yield term("temporary_buffers", "the batch", formula, ids, origin_of(batch_bytes))
    buffers = run.sharder.buffers(run.step.parameters)
    origin = origin_of(run.sharder.buffers)
    if buffers:
        name = f"{len(buffers)} buckets of gradients"
        total = sum_of(buffers)
        items = {item_bytes(p) for p in trained(run.step.parameters)}
        formula = size(total)
        if len(items) == 1:
            each = items.pop()
            formula = elements(total // each, each)
        yield term("temporary_buffers", name, formula, total, origin)
    yield term(
        "temporary_buffers",
        "cuBLAS workspaces",
        size(run.workspace_bytes, run.num_workspaces),
        run.workspace_bytes * run.num_workspaces,
        origin_of(cublas_workspace_bytes),
    )


def _update(run: Explained) -> Iterator[Term]:
    """What the optimizer's step needs for a moment."""
    plan, sharder, parameters = run.plan, run.sharder, run.step.parameters
    if not run.updates or plan.offload_optimizer:
        return
    stepped = updated_by(plan, sharder.stepped(parameters))
    own, function = update_tensors(plan, run.optimizer, stepped)
    tensors = sharder.step_temporaries(parameters, own)
    origin = origin_of(function if tensors == own else sharder.step_temporaries)
    total = sum_of(tensors)
    name, formula = f"temporaries of {run.optimizer.name}", size(total)
    if function is clip_tensors:
        name = "norms for clipping"
    elif tensors == own and run.optimizer.implementation == "foreach":
        each = ITEM_BYTES[stepped[0].stored.dtype]
        formula = elements(total // each, each)
    yield term("temporary_buffers", name, formula, total, origin)


def _rounding(run: Explained) -> Iterator[Term]:
    """Blocks beyond what was asked for; beside the optimizer, what backward left.

    Slack is less than none where fresh blocks are larger than cached ones.
    """
    blocks, allocated = run.block_bytes, run.highest.allocated
    left = max(run.left_bytes - blocks, 0) if run.updates else 0
    slack = allocated - blocks - left
    rounding = blocks - run.highest.requested
    if -rounding <= slack < 0:
        rounding, slack = rounding + slack, 0
    for name, size_bytes, function in (
        ("rounding of blocks to 512 B, or to their segment", rounding, block_bytes),
        ("what the loss holds of the backward pass until the step", left, Tape.pin),
        ("slack of cached blocks", slack, LargePool),
    ):
        origin = origin_of(function)
        yield term("temporary_buffers", name, size(size_bytes), size_bytes, origin)


# The rest


def _functional(run: Explained) -> Iterator[Term]:
    """Averaged weights, and the keys and values of a generation."""
    plan, model = run.plan, run.model
    if plan.ema:
        origin = Origin("memplan/estimating/step.py, trace_step")
        parts = parts_of(
            trained(run.step.parameters), lambda parameter: 4 * parameter.num_elements
        )
        what = "averaged weights of "
        yield from by_place("functionality_specific", parts, origin, what)
    if run.generated:
        kv_bytes = model.family.kv_bytes_per_token
        assert kv_bytes is not None
        batch = batch_of(plan, model)
        tokens = batch.seq_len + plan.max_new_tokens
        per_token = kv_bytes(model.config, cache_item_bytes(plan, model))
        yield term(
            "functionality_specific",
            f"keys and values of {batch.seq_len} tokens of the prompt and "
            f"{plan.max_new_tokens} new ones",
            f"{batch.size} x {tokens} x {per_token:,} B",
            batch.size * tokens * per_token,
            origin_of(kv_bytes),
        )


def outside_terms(plan: TrainingPlan, gpu: Gpu, report: MemoryReport) -> Iterator[Term]:
    """Whole segments, the CUDA context, and NCCL's buffers."""
    peak = report.peak
    unused = peak.reserved_bytes - peak.allocated_bytes
    name = f"up to whole segments of {SEGMENT_STEP_BYTES // MiB} MiB"
    yield term("segments", name, size(unused), unused, origin_of(block_bytes))
    origin = origin_of(outside_allocator)
    if plan.context_bytes is not None:
        given = plan.context_bytes
        yield term("outside", "as the plan gives it", size(given), given, Origin())
        return
    context, basis = card_context(gpu)
    yield term("outside", basis, size(context), context, origin_of(card_context))
    if plan.num_gpus > 1:
        yield term("outside", "NCCL buffers", size(NCCL_BYTES), NCCL_BYTES, origin)


def sum_of(tensors: Tensors) -> int:
    """Bytes of all of them."""
    return sum(size_bytes * count for size_bytes, count in tensors)
