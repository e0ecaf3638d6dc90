"""Closed form: a plan in, a memory report out, in milliseconds and without torch.

    report = estimate(TrainingPlan(model="llama-2-7b", gpu="a100-80gb"))

The reference step is that of transformers' Trainer: forward under autocast, of its
outputs only the loss is kept, backward, clipping, optimizer step, gradients set to
None. The peak of the run is that of the steady step, the second and later ones: states
of the optimizer appear at the end of the first.
"""

from dataclasses import replace
from functools import partial

from memplan.estimating.accuracy import allocated_band, reserved_spread
from memplan.estimating.card import (
    card_of,
    context_of,
    processors_of,
    torch_version_of,
)
from memplan.estimating.caveats import assumptions_of, unsupported_of
from memplan.estimating.explain import (
    Explained,
    explanation_of,
    explanation_of_states,
)
from memplan.estimating.moments import Moment, moments_of
from memplan.estimating.rank import num_parameters, part_of, stages_of
from memplan.estimating.savings import Need, savings_of
from memplan.estimating.slack import with_slack
from memplan.estimating.step import Step, trace_step
from memplan.formulas.allocator import SEGMENT_STEP_BYTES
from memplan.formulas.ledger import Ledger
from memplan.formulas.optimizers import find_optimizer, state_tensors
from memplan.formulas.parameters import Parameter, Stored
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import ITEM_BYTES
from memplan.formulas.weights import (
    AUTOCAST_DTYPE,
    STORED_DTYPE,
    ModelStates,
    shard_states,
    states_by_convention,
)
from memplan.formulas.workspaces import cublas_workspace_bytes
from memplan.hardware import Gpu
from memplan.models import Model, find_model
from memplan.models.workload import generation_of, lengths_of
from memplan.plan import TrainingPlan
from memplan.report import (
    Band,
    Components,
    Device,
    MemoryReport,
    ModelSize,
    PeakMemory,
    ReservedMemory,
)
from memplan.units import round_up


def estimate(plan: TrainingPlan, *, explains: bool = False) -> MemoryReport:
    """The memory of one GPU, the most loaded one, in closed form.

    Args:
        explains: the report lists every term, in `explanation`.

    Raises:
        MemplanError: the plan's model, card or version is unknown, or does not suit.
    """
    report = _estimate(plan, explains)
    savings = savings_of(plan, report.peak.device_bytes, needed_bytes)
    return replace(report, savings=savings)


def estimate_of(plan: TrainingPlan, model: Model) -> MemoryReport:
    """The same of a model that is at hand, whatever the plan calls it.

    Raises:
        MemplanError: the plan's card or version is unknown, or does not suit.
    """
    return replace(_estimate_run(plan, model), plan=plan)


def needed_bytes(plan: TrainingPlan) -> int:
    """What a plan takes on the device: of its estimate this alone.

    Raises:
        MemplanError: as `estimate`.
    """
    return _estimate(plan).peak.device_bytes


def need_seen_from(plan: TrainingPlan, device_bytes: int) -> Need:
    """Estimates of other plans, shifted by as much as that of this plan is off.

    Args:
        device_bytes: what this plan was seen to take.

    Raises:
        MemplanError: this plan has no estimate.
    """
    off_by = device_bytes - needed_bytes(plan)
    return lambda other: needed_bytes(other) + off_by


def _estimate(plan: TrainingPlan, explains: bool = False) -> MemoryReport:
    """Without what could be saved."""
    if plan.model is None:
        return _estimate_states(plan, explains)
    model = find_model(plan.model, plan.revision)
    run = generation_of(plan, model)
    report = _estimate_run(run, model, explains)
    assumptions = (*lengths_of(plan, run), *report.assumptions)
    return replace(report, plan=plan, assumptions=assumptions)


def _estimate_run(
    plan: TrainingPlan, model: Model, explains: bool = False
) -> MemoryReport:
    """A step of training, or a generation."""
    gpu = card_of(plan)
    torch_version = torch_version_of(plan)
    optimizer = find_optimizer(plan.optim)
    capability, num_sms = processors_of(gpu)
    # One for the thread of the forward pass, one for that of the backward pass.
    num_threads = 1 if plan.generates else 2
    workspace = cublas_workspace_bytes(capability, torch_version)
    part = part_of(plan, model)
    candidates = []
    for stage in stages_of(plan):
        step = trace_step(
            plan,
            part,
            optimizer,
            capability,
            torch_version,
            num_sms,
            stage,
            make_tape=partial(Tape, ledger=Ledger()) if explains else Tape,
        )
        workspaces = num_threads * workspace
        moments = moments_of(step, workspaces)
        moments = with_slack(plan, part, step, optimizer, workspaces, moments)
        highest = max(moments, key=lambda moment: (moment.step == 2, moment.allocated))
        candidates.append((highest.allocated, stage, step, moments, highest))
    _, stage, step, moments, highest = max(candidates, key=lambda some: some[0])
    whole = step.num_parameters if part is model else num_parameters(model)
    report = _report(
        plan,
        gpu,
        torch_version,
        ModelSize(
            name=model.name,
            parameters=whole,
            trainable_parameters=step.num_trainable
            if part is model
            else _all_ranks(whole, step),
        ),
        highest,
        _by_convention(plan, step, highest.components),
        moments,
        assumptions_of(plan, model, torch_version, stage) + step.assumptions,
        unsupported_of(plan) + step.unsupported,
    )
    if not explains:
        return report
    run = Explained(
        plan=plan,
        model=part,
        optimizer=optimizer,
        gpu=gpu,
        step=step,
        highest=highest,
        workspace_bytes=workspace,
        num_workspaces=num_threads,
    )
    return replace(report, explanation=explanation_of(run, report))


def _all_ranks(whole: int, step: Step) -> int:
    """Trainable parameters of all ranks: all, or as large a part as on this one."""
    if step.num_trainable == step.num_parameters:
        return whole
    return whole * step.num_trainable // step.num_parameters


def _by_convention(
    plan: TrainingPlan, step: Step, components: Components
) -> Components:
    """Model states by a published convention beside what the step itself needs."""
    if plan.accounting == "torch":
        return components
    quantized = [p for p in step.parameters if p.stored.is_quantized]
    num_quantized = sum(p.num_elements * p.count for p in quantized)
    states = shard_states(
        states_by_convention(
            plan.accounting,
            plan.precision,
            find_optimizer(plan.optim),
            step.num_trainable,
            step.num_parameters - step.num_trainable - num_quantized,
            sum(p.stored.num_bytes * p.count for p in quantized),
        ),
        plan.zero_stage,
        plan.data_parallel,
    )
    return Components(
        weights=states.weights,
        gradients=states.gradients,
        optimizer_states=states.optimizer_states,
        activations=components.activations,
        temporary_buffers=components.temporary_buffers,
        functionality_specific=components.functionality_specific,
    )


def _estimate_states(plan: TrainingPlan, explains: bool) -> MemoryReport:
    """Model states alone, of a bare parameter count."""
    assert plan.parameters is not None
    if plan.accounting == "torch":
        states = _torch_states(plan)
    else:
        states = states_by_convention(
            plan.accounting,
            plan.precision,
            find_optimizer(plan.optim),
            plan.parameters,
        )
    states = shard_states(states, plan.zero_stage, plan.data_parallel)
    components = Components(
        weights=0 if plan.offload_parameters else states.weights,
        gradients=states.gradients,
        optimizer_states=0 if plan.offload_optimizer else states.optimizer_states,
    )
    moment = Moment(
        step=2,
        phase="optimizer",
        place="model states",
        components=components,
        requested=components.total,
        allocated=components.total,
        end=components.total,
    )
    size = ModelSize(
        name=f"{plan.parameters} parameters",
        parameters=plan.parameters,
        trainable_parameters=plan.parameters,
    )
    report = _report(
        plan,
        card_of(plan),
        torch_version_of(plan),
        size,
        moment,
        components,
        [moment],
        (),
        unsupported_of(plan),
    )
    if not explains:
        return report
    explanation = explanation_of_states(plan, card_of(plan), report)
    return replace(report, explanation=explanation)


def _band(plan: TrainingPlan, gpu: Gpu, allocated_bytes: int) -> Band:
    """Of a model, from the errors seen so far; sums of model states are exact."""
    if plan.model is None or plan.accounting != "torch":
        return Band(
            low_bytes=allocated_bytes,
            high_bytes=allocated_bytes,
            basis="arithmetic on a parameter count, or a convention: no measurement",
        )
    return allocated_band(plan, allocated_bytes, gpu.slug)


def _reserved(plan: TrainingPlan, allocated_bytes: int) -> ReservedMemory | None:
    """What PyTorch reserves for a peak, by what it did for plans of the class.

    Whole segments, and as many as the peak takes at least.
    """
    if plan.model is None or plan.accounting != "torch":
        return None
    found = reserved_spread(plan, allocated_bytes)
    if found is None:
        return None
    spread, basis = found
    low, likely, high = (
        round_up(round(allocated_bytes * max(ratio, 1.0)), SEGMENT_STEP_BYTES)
        for ratio in (spread.low, spread.median, spread.high)
    )
    return ReservedMemory(
        likely_bytes=likely, low_bytes=low, high_bytes=high, basis=basis
    )


def _torch_states(plan: TrainingPlan) -> ModelStates:
    """What PyTorch holds for each parameter of a bare count.

    DeepSpeed's engine holds low-precision weights and an fp32 copy.
    """
    assert plan.parameters is not None
    dtype = STORED_DTYPE[plan.precision]
    has_masters = plan.precision == "fp16-master"
    if plan.zero_stage and plan.sharding == "deepspeed":
        dtype = AUTOCAST_DTYPE.get(plan.precision, dtype)
        has_masters = True
    size_bytes = ITEM_BYTES[dtype] * plan.parameters
    stored = Stored("fp32" if has_masters else dtype, True, size_bytes)
    parameter = Parameter("parameters", (plan.parameters,), 1, stored)
    states = sum(state_tensors(find_optimizer(plan.optim), parameter))
    if has_masters:
        states += 4 * plan.parameters
    return ModelStates(size_bytes, size_bytes, states)


def _report(
    plan: TrainingPlan,
    gpu: Gpu,
    torch_version: tuple[int, int],
    size: ModelSize,
    highest: Moment,
    components: Components,
    moments: list[Moment],
    assumptions: tuple[str, ...],
    unsupported: tuple[str, ...],
) -> MemoryReport:
    """Hold the peak against the card."""
    allocated = components.total
    requested = min(highest.requested, allocated)
    reserved = round_up(allocated, SEGMENT_STEP_BYTES)
    context, context_basis = context_of(plan, gpu)
    device_bytes = reserved + context
    budget = gpu.total_bytes - int(gpu.total_bytes * plan.headroom_fraction)
    return MemoryReport(
        source="estimated",
        plan=plan,
        model=size,
        device=Device(
            gpu=gpu.slug,
            total_bytes=gpu.total_bytes,
            context_bytes=context,
            torch=".".join(map(str, torch_version)),
            allocator=f"caching allocator, {plan.alloc_conf or 'default settings'}",
        ),
        components=components,
        peak=PeakMemory(
            requested_bytes=requested,
            allocated_bytes=allocated,
            reserved_bytes=reserved,
            device_bytes=device_bytes,
            phase=highest.phase,
            step=highest.step,
            module=highest.place,
        ),
        phases=tuple(moment.as_phase() for moment in moments),
        fits=device_bytes <= budget,
        headroom_bytes=budget - device_bytes,
        band=_band(plan, gpu, allocated),
        reserved=_reserved(plan, allocated),
        assumptions=(*context_basis, *assumptions),
        unsupported=unsupported,
        num_gpus=plan.num_gpus,
        headroom_fraction=plan.headroom_fraction,
    )
