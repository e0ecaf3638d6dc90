"""Closed form: a plan in, a memory report out, in about a millisecond and no torch.

    report = estimate(TrainingPlan(model="llama-2-7b", gpu="a100-80gb"))

The reference step is that of transformers' Trainer: forward under autocast, of its
outputs only the loss is kept, backward, clipping, optimizer step, gradients set to
None. The peak of the run is that of the steady step, the second and later ones: states
of the optimizer appear at the end of the first.
"""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from memplan.errors import PlanError
from memplan.formulas.allocator import SEGMENT_STEP_BYTES
from memplan.formulas.optimizers import find_optimizer
from memplan.formulas.weights import (
    ModelStates,
    shard_states,
    states_by_convention,
)
from memplan.formulas.workspaces import cublas_workspace_bytes
from memplan.hardware import Gpu, custom_gpu, find_gpu
from memplan.models import find_model
from memplan.plan import TrainingPlan
from memplan.report import (
    Band,
    Components,
    Device,
    MemoryReport,
    ModelSize,
    PeakMemory,
    PhaseMemory,
)
from memplan.step import Step, trace_step
from memplan.units import MiB, round_up

NEWEST_TORCH = (2, 14)
"""The newest version whose constants are known."""
ASSUMED_CONTEXT_BYTES = 500 * MiB
"""Where no measurement of a card's context is known: between the 131 MiB of a T4 and
the 942 MiB of an A100 with eager loading (docs/components.md)."""
ASSUMED_SMS = 108
"""Of a card whose number of multiprocessors is not known: those of an A100."""
NCCL_BYTES = 1536 * MiB
"""Outside the allocator, at the first barrier of two A100 (docs/components.md)."""


def estimate(plan: TrainingPlan) -> MemoryReport:
    """The memory of one GPU, the most loaded one, in closed form.

    Raises:
        MemplanError: the plan's model, card or version is unknown, or does not suit.
    """
    gpu = card(plan)
    torch_version = torch_version_of(plan)
    if plan.model is None:
        return _states_report(plan, gpu, torch_version)
    model = find_model(plan.model, plan.revision)
    capability = gpu.compute_capability or (9, 0)
    optimizer = find_optimizer(plan.optim)
    num_sms = gpu.num_sms or ASSUMED_SMS
    step = trace_step(plan, model, optimizer, capability, torch_version, num_sms)
    workspace = 2 * cublas_workspace_bytes(capability, torch_version)
    moments = _moments(step, workspace)
    highest = max(moments, key=lambda moment: (moment.step == 2, moment.allocated))
    components = highest.components
    if plan.accounting != "torch":
        components = _by_convention(plan, step, components)
    size = ModelSize(
        name=model.name,
        parameters=step.num_parameters,
        trainable_parameters=step.num_trainable,
    )
    return _report(
        plan,
        gpu,
        torch_version,
        size,
        components,
        highest,
        tuple(moment.as_phase() for moment in moments),
        assumptions=model.notes,
    )


def card(plan: TrainingPlan) -> Gpu:
    """The card a plan names, with the plan's own memory size where it gives one."""
    gpu = _catalogued(plan.gpu)
    if plan.gpu_memory_bytes is not None:
        gpu = custom_gpu(gpu, plan.gpu_memory_bytes)
    return gpu


@cache
def _catalogued(name: str) -> Gpu:
    """Reading a card's file takes longer than an estimate."""
    return find_gpu(name)


def torch_version_of(plan: TrainingPlan) -> tuple[int, int]:
    """The version whose constants apply: the plan's, the installed, else the newest.

    Raises:
        PlanError: the plan's version cannot be read.
    """
    text = plan.torch or _installed_torch()
    if text is None:
        return NEWEST_TORCH
    parts = text.split("+")[0].split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts[:2]):
        raise PlanError(f"{text!r} is no torch version.", hint="Write it like 2.11.")
    return int(parts[0]), int(parts[1])


@cache
def _installed_torch() -> str | None:
    """The installed version, without importing it."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class _Moment:
    """The highest point of one phase."""

    step: int
    phase: str
    place: str
    components: Components
    requested: int
    allocated: int
    end: int

    def as_phase(self) -> PhaseMemory:
        return PhaseMemory(
            step=self.step,
            phase=self.phase,
            peak_allocated_bytes=self.allocated,
            end_allocated_bytes=self.end,
        )


def _moments(step: Step, workspace_bytes: int) -> list[_Moment]:
    """Every phase of the first and of the steady step."""
    moments = []
    for index in (1, 2):
        has_states = index > 1
        states = step.optimizer_states if has_states else None
        states_requested = states.requested_bytes if states else 0
        states_blocks = states.block_bytes if states else 0
        left = step.gradients if step.gradients_exist else None
        fixed_requested = (
            step.weights.requested_bytes
            + step.averaged_weights.requested_bytes
            + step.buffers.requested_bytes
            + workspace_bytes
        )
        fixed_blocks = (
            step.weights.block_bytes
            + step.averaged_weights.block_bytes
            + step.buffers.block_bytes
            + workspace_bytes
        )
        for phase in step.phases:
            at, end = phase.peak.at, phase.end
            gradients = at.gradient_bytes + (left.requested_bytes if left else 0)
            blocks = left.block_bytes if left else 0
            allocated = fixed_blocks + states_blocks + blocks + at.block_bytes
            moments.append(
                _moment(
                    step,
                    index,
                    phase.name,
                    phase.peak.place,
                    allocated,
                    fixed_blocks + states_blocks + blocks + end.block_bytes,
                    gradients=gradients,
                    optimizer_states=states_requested,
                    activations=at.saved_bytes,
                    temporary=fixed_requested
                    - step.weights.requested_bytes
                    - step.averaged_weights.requested_bytes
                    + at.temporary_bytes,
                )
            )
        if step.phases[-1].name != "backward":
            continue
        end_blocks = (
            fixed_blocks
            + step.gradients.block_bytes
            + step.optimizer_states.block_bytes
        )
        moments.append(
            _moment(
                step,
                index,
                "optimizer",
                "optimizer.step",
                end_blocks + step.optimizer_temporaries.block_bytes,
                end_blocks - step.gradients.block_bytes,
                gradients=step.gradients.requested_bytes,
                optimizer_states=step.optimizer_states.requested_bytes,
                activations=0,
                temporary=step.optimizer_temporaries.requested_bytes
                + step.buffers.requested_bytes
                + workspace_bytes,
            )
        )
    return moments


def _moment(
    step: Step,
    index: int,
    phase: str,
    place: str,
    allocated: int,
    end: int,
    *,
    gradients: int,
    optimizer_states: int,
    activations: int,
    temporary: int,
) -> _Moment:
    """A moment whose temporary buffers take in the rounding of blocks."""
    weights = step.weights.requested_bytes
    functional = step.averaged_weights.requested_bytes
    requested = (
        weights + gradients + optimizer_states + activations + temporary + functional
    )
    return _Moment(
        step=index,
        phase=phase,
        place=place,
        components=Components(
            weights=weights,
            gradients=gradients,
            optimizer_states=optimizer_states,
            activations=activations,
            temporary_buffers=temporary + allocated - requested,
            functionality_specific=functional,
        ),
        requested=requested,
        allocated=allocated,
        end=end,
    )


def _by_convention(
    plan: TrainingPlan, step: Step, components: Components
) -> Components:
    """Model states by a published convention beside what the step itself needs."""
    states = shard_states(
        states_by_convention(
            plan.accounting,
            plan.precision,
            step.num_trainable,
            step.num_parameters - step.num_trainable,
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


def _states_report(
    plan: TrainingPlan, gpu: Gpu, torch_version: tuple[int, int]
) -> MemoryReport:
    """Model states alone, of a bare parameter count."""
    assert plan.parameters is not None
    accounting = plan.accounting
    if accounting == "torch":
        states = _torch_states(plan)
    else:
        states = states_by_convention(accounting, plan.precision, plan.parameters, 0)
    states = shard_states(states, plan.zero_stage, plan.data_parallel)
    components = Components(
        weights=states.weights,
        gradients=states.gradients,
        optimizer_states=0 if plan.offload_optimizer else states.optimizer_states,
    )
    moment = _Moment(
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
    return _report(
        plan,
        gpu,
        torch_version,
        size,
        components,
        moment,
        (moment.as_phase(),),
        unsupported=(
            "activations, temporary buffers and workspaces: a parameter count alone "
            "does not decide them",
        ),
    )


def _torch_states(plan: TrainingPlan) -> ModelStates:
    """What PyTorch holds for each parameter of a bare count."""
    from memplan.formulas.optimizers import state_tensors
    from memplan.formulas.tape import Parameter, Stored
    from memplan.formulas.weights import STORED_DTYPE

    assert plan.parameters is not None
    dtype = STORED_DTYPE[plan.precision]
    item_bytes = 4 if dtype == "fp32" else 2
    stored = Stored(dtype, True, item_bytes * plan.parameters)
    parameter = Parameter("parameters", (plan.parameters,), 1, stored)
    states = sum(state_tensors(find_optimizer(plan.optim), parameter))
    if plan.precision == "fp16-master":
        states += 4 * plan.parameters
    return ModelStates(stored.num_bytes, stored.num_bytes, states)


def _report(
    plan: TrainingPlan,
    gpu: Gpu,
    torch_version: tuple[int, int],
    size: ModelSize,
    components: Components,
    moment: _Moment,
    phases: tuple[PhaseMemory, ...],
    *,
    assumptions: tuple[str, ...] = (),
    unsupported: tuple[str, ...] = (),
) -> MemoryReport:
    """Hold the peak against the card."""
    allocated = components.total
    requested = min(moment.requested, allocated)
    reserved = round_up(allocated, SEGMENT_STEP_BYTES)
    context, context_basis = _context(plan, gpu)
    device_bytes = reserved + context
    budget = gpu.total_bytes - int(gpu.total_bytes * plan.headroom_fraction)
    peak = PeakMemory(
        requested_bytes=requested,
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        device_bytes=device_bytes,
        phase=moment.phase,
        step=moment.step,
        module=moment.place,
    )
    return MemoryReport(
        source="estimated",
        plan=plan,
        model=size,
        device=Device(
            gpu=gpu.slug,
            total_bytes=gpu.total_bytes,
            context_bytes=context,
            torch=".".join(map(str, torch_version)),
            allocator="caching allocator, default settings",
        ),
        components=components,
        peak=peak,
        phases=phases,
        fits=device_bytes <= budget,
        headroom_bytes=budget - device_bytes,
        band=Band(
            low_bytes=requested,
            high_bytes=reserved,
            basis="from the bytes requested to the segments reserved without "
            "fragmentation; not calibrated against a card",
        ),
        assumptions=(*context_basis, *assumptions),
        unsupported=unsupported,
    )


def _context(plan: TrainingPlan, gpu: Gpu) -> tuple[int, tuple[str, ...]]:
    """Bytes outside the allocator, and where they are from."""
    if plan.context_bytes is not None:
        return plan.context_bytes, ()
    if gpu.context_bytes is not None:
        context, basis = gpu.context_bytes, f"CUDA context of {gpu.context_basis}"
    else:
        context = ASSUMED_CONTEXT_BYTES
        basis = "CUDA context of 500 MiB assumed: no measurement of this card is known"
    if plan.num_gpus == 1:
        return context, (basis,)
    return context + NCCL_BYTES, (
        basis,
        "NCCL buffers of 1.5 GiB, as seen on two A100",
    )
