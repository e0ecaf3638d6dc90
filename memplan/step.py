"""One training step of a plan on the tape: what is alive, phase by phase."""

from collections.abc import Sequence
from dataclasses import dataclass

from memplan.errors import PlanError, UnknownNameError
from memplan.formulas.allocator import block_bytes
from memplan.formulas.backward import run_backward
from memplan.formulas.optimizers import Optimizer, state_tensors, step_bytes
from memplan.formulas.setting import Batch, LowRank, Setting
from memplan.formulas.sharding import Sharder
from memplan.formulas.tape import ITEM_BYTES, Parameter, Phase, Tape, Totals
from memplan.formulas.weights import (
    AUTOCAST_DTYPE,
    STORED_DTYPE,
    Storing,
    matches_any,
)
from memplan.models import Model
from memplan.plan import TrainingPlan


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Step:
    """A traced step: what stands still, and what moves."""

    parameters: tuple[Parameter, ...]
    weights: Held
    gradients: Held
    optimizer_states: Held
    optimizer_temporaries: Held
    buffers: Held
    """The batch, and what sharding keeps through the whole step."""
    averaged_weights: Held
    phases: tuple[Phase, ...]
    gradients_exist: bool
    """Whether an earlier micro-batch has left gradients when the step's last begins."""

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
) -> Step:
    """Trace the forward and backward pass of one micro-batch, and size the rest.

    Raises:
        PlanError: the plan does not suit the model.
    """
    batch = batch_of(plan, model)
    sharder = sharder_of(plan)
    patterns = _trainable_patterns(plan, model)
    tape = Tape(
        policy=_storing(plan, model, patterns),
        setting=_setting(plan, model, compute_capability, torch_version, num_sms),
        unit_bytes=sharder.unit_bytes,
        gradient_shards=sharder.gradient_shards,
    )
    gradients_exist = plan.gradient_accumulation_steps > 1
    if plan.workload == "generate":
        with tape.no_grad():
            model.family.forward(tape, model.config, batch)
        tape.end_phase("generate")
    else:
        loss = model.family.forward(tape, model.config, batch)
        tape.exit_autocast()
        tape.end_phase("loss")
        run_backward(tape, loss, gradients_exist=gradients_exist)
        tape.end_phase("backward")
    parameters = tuple(tape.parameters.values())
    _check_trainable(plan, parameters, patterns)
    return _sized(plan, model, batch, optimizer, sharder, tape, parameters)


def batch_of(plan: TrainingPlan, model: Model) -> Batch:
    """The micro-batch, from the plan, the preset's defaults, and the model's limits."""
    defaults, family = model.defaults, model.family
    limit = family.max_seq_len(model.config)
    seq_len = plan.seq_len or defaults.get("seq_len") or min(limit or 2048, 2048)
    if "tokens" in family.inputs and limit is not None and seq_len > limit:
        raise PlanError(
            f"A sequence of {seq_len} tokens is longer than {model.name} allows "
            f"({limit}).",
            hint=f"Use --seq-len {limit} or less.",
        )
    for name, wanted in (
        ("images_per_sample", "images"),
        ("image_size", "images"),
        ("target_seq_len", "target_tokens"),
    ):
        if getattr(plan, name) is not None and wanted not in family.inputs:
            raise PlanError(
                f"{model.name} takes no {wanted.replace('_', ' ')}.",
                hint=f"Leave --{name.replace('_', '-')} out.",
            )
    return Batch(
        size=plan.per_device_train_batch_size,
        seq_len=seq_len if "tokens" in family.inputs else 0,
        target_seq_len=plan.target_seq_len or defaults.get("target_seq_len", 128),
        images_per_sample=plan.images_per_sample
        or defaults.get("images_per_sample", 1),
        image_size=plan.image_size
        or defaults.get("image_size")
        or family.default_image_size(model.config),
        has_labels=plan.workload == "train",
    )


def sharder_of(plan: TrainingPlan) -> Sharder:
    """Who shards what, over the data-parallel ranks."""
    return Sharder(
        implementation=plan.sharding if plan.zero_stage else "ddp",
        stage=plan.zero_stage,
        num_ranks=plan.data_parallel,
    )


def _setting(
    plan: TrainingPlan,
    model: Model,
    compute_capability: tuple[int, int],
    torch_version: tuple[int, int],
    num_sms: int,
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
        autocast=AUTOCAST_DTYPE.get(plan.precision),
        is_training=plan.workload == "train",
        attention=plan.attn_implementation,
        checkpointing=mode,
        checkpoint_every=every,
        low_rank=low_rank,
        compute_capability=compute_capability,
        torch_version=torch_version,
        num_sms=num_sms,
    )


def _trainable_patterns(plan: TrainingPlan, model: Model) -> tuple[str, ...]:
    """Regular expressions of the parameters that train."""
    import re

    name = model.default_trainable if plan.trainable == "default" else plan.trainable
    if plan.workload == "generate" or name == "lora":
        return ()
    if name == "all" and plan.quantization != "none":
        raise PlanError(
            f"Weights stored in {plan.quantization} cannot be trained.",
            hint="Add --trainable lora.",
        )
    if name == "all":
        return ("",)
    if name in model.trainable_sets:
        return tuple(model.trainable_sets[name])
    patterns = tuple(part.strip() for part in name.split(",") if part.strip())
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise PlanError(
                f"{pattern!r} is neither a trainable set of {model.name} nor a regular "
                f"expression: {error}.",
                hint=_known_sets(model),
            ) from error
    return patterns


def _known_sets(model: Model) -> str:
    names = ["all", "lora", *model.trainable_sets]
    return f"Known sets: {', '.join(names)}."


def _storing(plan: TrainingPlan, model: Model, patterns: tuple[str, ...]) -> Storing:
    dtype = STORED_DTYPE[plan.precision]
    return Storing(
        dtype=dtype,
        trainable=patterns,
        frozen_dtype=model.frozen_dtype or dtype,
        quantization=plan.quantization,
    )


def _check_trainable(
    plan: TrainingPlan, parameters: Sequence[Parameter], patterns: tuple[str, ...]
) -> None:
    """Every pattern, and every LoRA target, must have found something."""
    names = [p.name for p in parameters]
    if plan.trainable == "lora":
        for target in plan.lora_targets:
            if not any(f".{target}.lora_A" in f".{name}" for name in names):
                linear = {
                    name.split(".")[-2] for name in names if name.endswith(".weight")
                }
                raise UnknownNameError.of("LoRA target", target, linear)
    for pattern in patterns:
        if not matches_any((pattern,), names):
            raise UnknownNameError.of(
                "parameter or trainable set",
                pattern,
                {n.rsplit(".", 1)[0] for n in names},
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
    weights = gradients = states = averaged = Held()
    trained_bytes = 0
    for parameter in parameters:
        weights = weights.plus(
            sharder.weight_bytes(parameter.stored.num_bytes), parameter.count
        )
        if not parameter.stored.is_trainable:
            continue
        trained_bytes += parameter.stored.num_bytes * parameter.count
        gradients = gradients.plus(
            sharder.gradient_bytes(parameter.stored.num_bytes), parameter.count
        )
        if plan.precision == "fp16-master":
            master = sharder.state_bytes(4 * parameter.num_elements)
            states = states.plus(master, parameter.count)
        for size_bytes in state_tensors(optimizer, parameter):
            states = states.plus(sharder.state_bytes(size_bytes), parameter.count)
        if plan.ema:
            averaged = averaged.plus(4 * parameter.num_elements, parameter.count)
    buffers = Held().plus(_batch_bytes(model, batch))
    item_bytes = ITEM_BYTES[STORED_DTYPE[plan.precision]]
    buffers = buffers.plus(sharder.constant_bytes(trained_bytes, item_bytes))
    if plan.workload == "generate":
        cache_item = ITEM_BYTES[AUTOCAST_DTYPE.get(plan.precision, "fp32")]
        if plan.precision in ("bf16-pure", "fp16-master"):
            cache_item = 2
        per_token = model.family.kv_bytes_per_token(model.config, cache_item)
        tokens = batch.seq_len + plan.max_new_tokens
        averaged = averaged.plus(per_token * tokens * batch.size)
        gradients = states = Held()
    if plan.offload_optimizer:
        states = Held()
    if plan.offload_parameters:
        weights = Held()
    temporaries = Held()
    if plan.workload == "train" and not plan.offload_optimizer:
        size = sharder.state_bytes(step_bytes(optimizer, parameters))
        temporaries = Held(size, size)
    return Step(
        parameters=parameters,
        weights=weights,
        gradients=gradients,
        optimizer_states=states,
        optimizer_temporaries=temporaries,
        buffers=buffers,
        averaged_weights=averaged,
        phases=tuple(tape.phases),
        gradients_exist=plan.gradient_accumulation_steps > 1,
    )


def _batch_bytes(model: Model, batch: Batch) -> int:
    """Token ids and labels as int64, pictures as fp32, on the device."""
    if model.family.batch_bytes is not None:
        return model.family.batch_bytes(model.config, batch)
    return 2 * 8 * batch.size * batch.seq_len


def totals_of(held: Held) -> Totals:
    """Bytes that stand still, as temporary totals."""
    return Totals(held.block_bytes, 0, held.requested_bytes, 0)
