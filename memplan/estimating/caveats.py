"""What a report's figures rest on, and what is not in them.

One line each, printed with every report: an option that moves memory and is not
modelled is named here, never dropped in silence.
"""

from memplan.estimating.accuracy import unknown_reserved
from memplan.estimating.card import NEWEST_TORCH
from memplan.estimating.rank import micro_batches_in_flight
from memplan.formulas.optimizers import find_optimizer
from memplan.formulas.parallel import WHOLE
from memplan.formulas.weights import STORED_DTYPE
from memplan.models import Model
from memplan.models.batch import batch_of, seq_len_of
from memplan.plan import TrainingPlan

ASSUMED_SIZES = ("seq_len", "target_seq_len", "images_per_sample", "image_size")
INPUT_OF_SIZE = {
    "seq_len": "tokens",
    "target_seq_len": "target_tokens",
    "images_per_sample": "images",
    "image_size": "images",
}


def assumptions_of(
    plan: TrainingPlan, model: Model, torch_version: tuple[int, int], stage: str
) -> tuple[str, ...]:
    """What the plan left open, and what the formulas take for granted."""
    lines = []
    sizes = _assumed_sizes(plan, model)
    if sizes:
        lines.append(f"{sizes}, which the plan leaves open")
    if plan.workload == "train":
        lines.append(
            "a step like the Trainer's: the loss is kept, the logits are not; "
            "gradients are set to None"
        )
    else:
        lines.append("no gradients; logits of the last token alone")
    if "tokens" in model.family.inputs:
        lines.append("every sample is padded to the full length; no padding mask")
    lines += _division(plan, stage)
    if torch_version > NEWEST_TORCH:
        newest = ".".join(map(str, NEWEST_TORCH))
        lines.append(f"constants of torch {newest}, the newest that are known")
    if plan.offload_optimizer or plan.offload_parameters:
        lines.append("what is offloaded takes no GPU memory between its uses")
    if plan.offload_optimizer and plan.sharding == "fsdp2":
        lines.append(
            "FSDP2 offloads optimizer states with parameters and gradients alone "
            "(CPUOffloadPolicy); here the states are on the host, the rest is not"
            if not plan.offload_parameters
            else "FSDP2's CPUOffloadPolicy: parameters, gradients, states on the host"
        )
    if plan.quantization != "none":
        lines.append(_quantized_base(plan, model))
    if plan.workload == "train" and find_optimizer(plan.optim).decays_gradients:
        lines.append(f"no weight decay: for it {plan.optim} would copy the gradients")
    return (*lines, *model.notes)


def _division(plan: TrainingPlan, stage: str) -> list[str]:
    """How model parallelism divides the run."""
    lines = []
    if plan.tensor_parallel > 1:
        lines.append(
            "tensor parallelism as Megatron's: heads, MLP and vocabulary divided, sums "
            "reduced in place"
        )
    if stage != WHOLE:
        in_flight = micro_batches_in_flight(plan, stage)
        lines.append(
            f"1F1B schedule; the {stage} pipeline stage is the most loaded, with "
            f"{in_flight} micro-batches in flight"
        )
    if plan.context_parallel > 1:
        lines.append("ring attention over the context-parallel ranks")
    return lines


def unsupported_of(plan: TrainingPlan) -> tuple[str, ...]:
    """What takes memory on the card, or may, and is not counted."""
    unknown = unknown_reserved(plan)
    lines = [] if unknown is None else [unknown]
    if plan.model is None:
        return (
            "activations, temporary buffers and workspaces: a parameter count alone "
            "does not decide them",
        )
    if find_optimizer(plan.optim).is_paged:
        lines.append(
            "paged optimizer states: unified memory outside the allocator, on the card "
            "as long as there is room"
        )
    if plan.quantization == "int8":
        lines.append(
            "LLM.int8's outlier columns, multiplied apart: how many depends on the data"
        )
    if plan.context_parallel > 1:
        lines.append("key-value blocks of other ranks while they pass around the ring")
    return tuple(lines)


def _quantized_base(plan: TrainingPlan, model: Model) -> str:
    """The recipe of a quantized base: PEFT's preparation casts the rest to fp32."""
    others = plan.frozen_dtype or model.frozen_dtype or STORED_DTYPE[plan.precision]
    how = (
        "as prepare_model_for_kbit_training leaves them"
        if others == "fp32"
        else "as they were loaded"
    )
    return (
        f"linear layers in {plan.quantization} with bitsandbytes' defaults in "
        f"transformers; other weights in {others}, {how}"
    )


def _assumed_sizes(plan: TrainingPlan, model: Model) -> str:
    """Sizes of the batch that the plan does not give: `seq_len 2048, ...`."""
    batch = batch_of(plan, model)
    sizes = {name: getattr(batch, name) for name in ASSUMED_SIZES}
    sizes["seq_len"] = seq_len_of(plan, model)
    return ", ".join(
        f"{name} {size}"
        for name, size in sizes.items()
        if getattr(plan, name) is None
        and INPUT_OF_SIZE[name] in model.family.inputs
        and size
    )
