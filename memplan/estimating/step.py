"""One training step of a plan on the tape: what is alive, phase by phase."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial

from memplan.errors import PlanError, UnknownNameError
from memplan.estimating.card import card_of, processors_of
from memplan.estimating.rank import micro_batches_in_flight
from memplan.formulas.allocator import block_bytes
from memplan.formulas.backward import run_backward
from memplan.formulas.ddp import Ddp, ZeroRedundancy
from memplan.formulas.deepspeed import DeepSpeed
from memplan.formulas.deepspeed_step import Stage3
from memplan.formulas.fsdp2 import Fsdp2
from memplan.formulas.optimizer_step import (
    clip_tensors,
    step_tensors,
    update_bytes,
)
from memplan.formulas.optimizers import (
    Optimizer,
    find_optimizer,
    state_tensors,
    table_tensors,
)
from memplan.formulas.parallel import WHOLE
from memplan.formulas.parameters import Parameter, module_path
from memplan.formulas.setting import ALL_LINEAR, Batch, LowRank, Setting
from memplan.formulas.sharding import Sharder, Tensors, trained
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import ITEM_BYTES
from memplan.formulas.trace import Peak, Phase
from memplan.formulas.weights import (
    AUTOCAST_DTYPE,
    STORED_DTYPE,
    Storing,
    matches_any,
)
from memplan.models import Model
from memplan.models.batch import batch_of
from memplan.models.trainable import trainable_patterns
from memplan.plan import TrainingPlan
from memplan.runner.training.refusals import check_chunks


@dataclass(slots=True)
class Held:
    """Bytes as requested, and as blocks of the allocator."""

    requested_bytes: int = 0
    block_bytes: int = 0

    def plus(self, requested_bytes: int, count: int = 1) -> "Held":
        """With `count` more tensors of that size."""
        return Held(
            self.requested_bytes + count * requested_bytes,
            self.block_bytes + count * block_bytes(requested_bytes),
        )

    def with_all(self, tensors: Iterable[tuple[int, int]]) -> "Held":
        """With all of (bytes, how many)."""
        held = self
        for size_bytes, count in tensors:
            held = held.plus(size_bytes, count)
        return held

    def and_(self, other: "Held") -> "Held":
        """Both together."""
        return Held(
            self.requested_bytes + other.requested_bytes,
            self.block_bytes + other.block_bytes,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """A traced step: what stands still, and what moves."""

    parameters: tuple[Parameter, ...]
    weights: Held
    gradients: Held
    left_gradients: Held
    """Gradients that are held when the step's last micro-batch begins."""
    first_states: Held
    """States from before the first step: fp32 master weights, sums of Adagrad."""
    optimizer_states: Held
    optimizer_temporaries: Held
    buffers: Held
    """The batch, and what sharding keeps through the whole step."""
    averaged_weights: Held
    cache: Held
    """Keys and values of a generation, there in the last phase alone."""
    phases: tuple[Phase, ...]
    sharder: Sharder
    updated: tuple[Parameter, ...]
    """Trained tensors as the optimizer sees them."""
    buffer_tensors: Tensors
    left_tensors: Tensors
    temporary_tensors: Tensors
    """Of `optimizer_temporaries`."""
    assumptions: tuple[str, ...] = ()
    """What sharding takes for granted."""
    unsupported: tuple[str, ...] = ()
    """What sharding and the model do with memory that is not counted."""

    @property
    def num_parameters(self) -> int:
        return sum(p.num_elements * p.count for p in self.parameters)

    @property
    def num_trainable(self) -> int:
        return sum(
            p.num_elements * p.count for p in self.parameters if p.stored.is_trainable
        )


def trace_step(
    plan: TrainingPlan,
    model: Model,
    optimizer: Optimizer,
    compute_capability: tuple[int, int],
    torch_version: tuple[int, int],
    num_sms: int,
    stage: str = WHOLE,
    make_tape: Callable[..., Tape] = Tape,
) -> Step:
    """Trace the forward and backward pass of one micro-batch, and size the rest.

    `model` is the part of it that a rank of the pipeline `stage` holds; `make_tape`
    makes one that notes more than sizes.

    Raises:
        PlanError: the plan does not suit the model.
    """
    _check_closed_form(plan, model)
    batch = batch_of(plan, model)
    sharder = sharder_of(plan)
    patterns = trainable_patterns(plan, model)
    tape = make_tape(
        policy=_storing(plan, model, sharder, patterns),
        setting=_setting(
            plan, model, sharder, compute_capability, torch_version, num_sms, stage
        ),
    )
    gradients_exist = plan.gradient_accumulation_steps > 1
    tape.gathering = sharder.gathering(gradients_exist)
    if isinstance(tape.gathering, Stage3):
        # DeepSpeed gathers in the order that an earlier step has shown.
        earlier = Tape(tape.policy, tape.setting, tape.gathering.recorder)
        with earlier.no_grad() if plan.generates else nullcontext():
            model.family.forward(earlier, model.config, batch)
    if plan.generates:
        with tape.no_grad():
            model.family.forward(tape, model.config, batch)
        tape.end_phase("generate")
    else:
        loss = model.family.forward(tape, model.config, batch)
        tape.exit_autocast()
        tape.gathering.end_forward(tape)
        tape.end_phase("loss")
        run_backward(tape, loss, gradients_exist=gradients_exist)
        tape.end_phase("backward")
    parameters = tuple(
        p if p.name in tape.received else replace(p, is_used=False)
        for p in tape.parameters.values()
    )
    if stage == WHOLE:
        _check_trainable(plan, model, parameters, patterns)
    step = _sized(plan, model, batch, optimizer, sharder, tape, parameters)
    in_flight = micro_batches_in_flight(plan, stage)
    return replace(step, phases=_with_in_flight(step.phases, in_flight - 1))


NO_CLOSED_FORM = {
    "torch_compile": "what torch.compile fuses",
}
"""Fields of a plan that a run alone can answer for."""
DEFAULTS = {item.name: item.default for item in fields(TrainingPlan)}


def _check_closed_form(plan: TrainingPlan, model: Model) -> None:
    check_chunks(plan, model)
    for name, noun in NO_CLOSED_FORM.items():
        if getattr(plan, name) != DEFAULTS[name]:
            raise PlanError(
                f"There is no closed form for {noun}.",
                hint="Ask `memplan rehearse`: it takes the same flags.",
            )


def _with_in_flight(phases: tuple[Phase, ...], others: int) -> tuple[Phase, ...]:
    """The phases beside `others` micro-batches that wait for their backward pass."""
    if not others:
        return phases
    waiting = next(phase.end for phase in phases if phase.name == "loss")
    return tuple(
        Phase(
            phase.name,
            Peak(phase.peak.at.plus(waiting, others), phase.peak.place),
            phase.end.plus(waiting, others),
            phase.events,
        )
        for phase in phases
    )


def sharder_of(plan: TrainingPlan) -> Sharder:
    """Who shards what, over the data-parallel ranks."""
    num_ranks = plan.data_parallel
    if plan.zero_stage and plan.sharding == "deepspeed":
        return DeepSpeed(
            num_ranks=num_ranks,
            stage=plan.zero_stage,
            offloads_optimizer=plan.offload_optimizer,
            offloads_parameters=plan.offload_parameters,
            accumulates=plan.gradient_accumulation_steps > 1,
        )
    if plan.zero_stage == 0 or (num_ranks == 1 and not plan.offload_parameters):
        return Ddp(num_ranks=num_ranks)
    if plan.zero_stage == 1:
        return ZeroRedundancy(
            num_ranks=num_ranks,
            update_bytes=partial(update_bytes, find_optimizer(plan.optim)),
        )
    return Fsdp2(
        num_ranks=num_ranks,
        reshards_after_forward=plan.zero_stage == 3,
        offloads=plan.offload_parameters,
    )


def _setting(
    plan: TrainingPlan,
    model: Model,
    sharder: Sharder,
    compute_capability: tuple[int, int],
    torch_version: tuple[int, int],
    num_sms: int,
    stage: str,
) -> Setting:
    low_rank = None
    if plan.trainable == "lora":
        low_rank = LowRank(
            rank=plan.lora_rank,
            targets=plan.lora_targets or model.family.lora_targets,
            dropout=plan.lora_dropout,
        )
    mode, every = plan.checkpointing
    return Setting(
        autocast=AUTOCAST_DTYPE.get(plan.precision) if sharder.runs_autocast else None,
        clones_outputs=sharder.clones_outputs and mode == "none",
        is_training=plan.workload == "train",
        attention=plan.attn_implementation,
        checkpointing=mode,
        checkpoint_every=every,
        low_rank=low_rank,
        quantization=plan.quantization,
        compute_capability=compute_capability,
        torch_version=torch_version,
        num_sms=num_sms,
        hidden_dtype=STORED_DTYPE[plan.precision],
        sequence_shards=plan.tensor_parallel if plan.sequence_parallel else 1,
        stage=stage,
        cross_entropy_chunks=plan.cross_entropy_chunks,
        offloads_activations=plan.offload_activations,
    )


def _storing(
    plan: TrainingPlan, model: Model, sharder: Sharder, patterns: tuple[str, ...]
) -> Storing:
    dtype = STORED_DTYPE[plan.precision]
    low = None if sharder.runs_autocast else AUTOCAST_DTYPE.get(plan.precision)
    is_cast = False
    if not sharder.keeps_fp32:
        dtype, low = low or dtype, None
        is_cast = dtype != "fp32"
    return Storing(
        dtype=dtype,
        trainable=patterns,
        frozen_dtype=plan.frozen_dtype or model.frozen_dtype or dtype,
        compute_dtype=AUTOCAST_DTYPE.get(plan.precision, dtype),
        quantization=plan.quantization,
        never_quantized=model.family.never_quantized,
        computed_in=low,
        is_cast=is_cast,
    )


def _check_trainable(
    plan: TrainingPlan,
    model: Model,
    parameters: Sequence[Parameter],
    patterns: tuple[str, ...],
) -> None:
    """Every pattern, and every LoRA target, must have found something."""
    names = [module_path(p.name) for p in parameters]
    if plan.trainable == "lora":
        _check_adapters(plan.lora_targets, model, parameters)
    for pattern in patterns:
        if not matches_any((pattern,), names):
            raise UnknownNameError.of(
                "parameter or trainable set",
                pattern,
                {n.rsplit(".", 1)[0] for n in names},
            )


def _check_adapters(
    targets: tuple[str, ...], model: Model, parameters: Sequence[Parameter]
) -> None:
    """Every target must be a linear layer of the model's."""
    adapted = [p.name for p in parameters if ".lora_A." in p.name]
    linear = {
        p.name.split(".")[-2]
        for p in parameters
        if p.name.endswith(".weight") and len(p.shape) == 2 and not p.is_embedding
        if ".lora_" not in p.name
    }
    for target in targets:
        if target == ALL_LINEAR and adapted:
            continue
        if not any(f".{target}.lora_A" in f".{name}" for name in adapted):
            raise UnknownNameError.of("LoRA target", target, linear)
    if not adapted:
        raise PlanError(
            f"{model.name} has no linear layers that LoRA adapts by default.",
            hint=f"Name some with --lora-targets: {', '.join(sorted(linear))}.",
        )


def _sized(
    plan: TrainingPlan,
    model: Model,
    batch: Batch,
    optimizer: Optimizer,
    sharder: Sharder,
    tape: Tape,
    parameters: tuple[Parameter, ...],
) -> Step:
    """Sum what stands still, as this rank holds it."""
    gradients_exist = plan.gradient_accumulation_steps > 1
    averaged = cache = Held()
    weights = Held().with_all(sharder.weights(parameters))
    gradients = Held().with_all(sharder.gradients(parameters))
    left_tensors = sharder.left_gradients(parameters, gradients_exist)
    left = Held().with_all(left_tensors)
    buffer_tensors = [*sharder.buffers(parameters), (batch_bytes(model, batch), 1)]
    buffers = Held().with_all(buffer_tensors)
    updated: list[Parameter] = []
    temporary_tensors: Tensors = []
    if plan.ema:
        for parameter in trained(parameters):
            averaged = averaged.plus(4 * parameter.num_elements, parameter.count)
    if plan.generates:
        cache_item = cache_item_bytes(plan, model)
        assert model.family.kv_bytes_per_token is not None
        per_token = model.family.kv_bytes_per_token(model.config, cache_item)
        tokens = batch.seq_len + plan.max_new_tokens
        cache = cache.plus(per_token * tokens * batch.size)
        gradients = left = Held()
    states = temporaries = masters = Held()
    if plan.workload == "train" and not plan.offload_optimizer:
        updated = updated_by(plan, sharder.updated(parameters))
        states = _states(optimizer, updated)
        stepped = updated_by(plan, sharder.stepped(parameters))
        own, _ = update_tensors(plan, optimizer, stepped)
        temporary_tensors = sharder.step_temporaries(parameters, own)
        temporaries = Held().with_all(temporary_tensors)
        masters = masters.with_all(masters_of(plan, sharder, parameters, updated))
    return Step(
        parameters=parameters,
        weights=weights,
        gradients=gradients,
        left_gradients=left,
        first_states=masters.and_(states) if optimizer.starts_with_states else masters,
        optimizer_states=states.and_(masters),
        optimizer_temporaries=temporaries,
        buffers=buffers,
        averaged_weights=averaged,
        cache=cache,
        phases=tuple(tape.phases),
        sharder=sharder,
        updated=tuple(updated),
        buffer_tensors=buffer_tensors,
        left_tensors=left_tensors,
        temporary_tensors=temporary_tensors,
        assumptions=sharder.assumptions(),
        unsupported=sharder.unsupported(parameters) + model.family.unsupported,
    )


def cache_item_bytes(plan: TrainingPlan, model: Model) -> int:
    """Of a key or value as it is kept.

    Linear layers give what autocast says; quantized ones what they were given by a
    norm, which autocast makes fp32, but for that of T5: it is no operator of PyTorch.
    """
    if plan.precision in ("bf16-pure", "fp16-master"):
        return 2
    if plan.quantization == "none":
        return ITEM_BYTES[AUTOCAST_DTYPE.get(plan.precision, "fp32")]
    is_t5 = "target_tokens" in model.family.inputs
    stored = plan.frozen_dtype or model.frozen_dtype or "fp32"
    return ITEM_BYTES[stored] if is_t5 else 4


def masters_of(
    plan: TrainingPlan,
    sharder: Sharder,
    parameters: Sequence[Parameter],
    updated: Sequence[Parameter],
) -> Tensors:
    """fp32 copies of weights: sharding's own, or those of the precision policy."""
    masters = sharder.masters(parameters)
    if plan.precision == "fp16-master" and sharder.keeps_fp32:
        masters = masters + [(4 * p.num_elements, p.count) for p in updated]
    return masters


def updated_by(plan: TrainingPlan, updated: list[Parameter]) -> list[Parameter]:
    """The tensors as the optimizer sees them: with fp16 weights, fp32 copies."""
    if plan.precision != "fp16-master":
        return updated
    return [replace(p, stored=replace(p.stored, dtype="fp32")) for p in updated]


def _states(optimizer: Optimizer, updated: list[Parameter]) -> Held:
    """States in the allocator, from the end of the first step on."""
    states = Held()
    for parameter in updated:
        for size_bytes in state_tensors(optimizer, parameter):
            states = states.plus(size_bytes, parameter.count)
    for size_bytes in table_tensors(optimizer, updated):
        states = states.plus(size_bytes)
    return states


def update_tensors(
    plan: TrainingPlan, optimizer: Optimizer, updated: list[Parameter]
) -> tuple[Tensors, Callable[..., Tensors]]:
    """The higher of clipping and stepping, and whose it is.

    Master weights want fp32 gradients too.
    """
    clip = clip_tensors(updated) if plan.max_grad_norm else []
    step = step_tensors(optimizer, updated, *processors_of(card_of(plan)))
    if plan.precision == "fp16-master" and plan.sharding != "deepspeed":
        step = step + [(4 * p.num_elements, p.count) for p in updated]
    both: tuple[tuple[Tensors, Callable[..., Tensors]], ...] = (
        (clip, clip_tensors),
        (step, step_tensors),
    )
    return max(both, key=lambda some: Held().with_all(some[0]).block_bytes)


def batch_bytes(model: Model, batch: Batch) -> int:
    """Token ids and labels as int64, pictures as fp32, on the device."""
    if model.family.batch_bytes is not None:
        return model.family.batch_bytes(model.config, batch)
    return 2 * 8 * batch.size * batch.seq_len
