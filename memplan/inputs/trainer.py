"""transformers' `TrainingArguments`, as they are when training begins."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memplan.errors import PlanError
from memplan.inputs.batch import read_batch
from memplan.inputs.configs.arguments import MOVES_MEMORY, checkpointing_of
from memplan.inputs.configs.format import Reading
from memplan.inputs.configs.precision import precision_of
from memplan.inputs.configs.sharding import read_fsdp, sharding_of, strategy_of
from memplan.inputs.live import (
    Found,
    checkpoints_itself,
    model_in,
    num_parameters,
    read_model,
    trained_dtype,
)
from memplan.inputs.optimizer import optimizer_name
from memplan.plan import TrainingPlan

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments


def found_in(
    args: "TrainingArguments",
    model: "nn.Module",
    optimizer: Any,
    batch: Mapping[str, Any],
    gpu: Mapping[str, Any],
) -> Found:
    """The plan of a Trainer that has its first batch.

    Args:
        optimizer: as the Trainer made it; None where it has none yet.
        gpu: fields of the plan that name the card.

    Raises:
        MemplanError: no plan can say what runs.
    """
    if getattr(args, "parallelism_config", None) is not None:
        raise PlanError(
            "A parallelism_config of the Trainer is not read.",
            hint="`memplan rehearse -- torchrun train.py` takes it.",
        )
    reading = Reading()
    known = read_model(model, reading)
    read_batch(batch, known, reading)
    fields = reading.fields
    fields |= {
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "max_grad_norm": float(args.max_grad_norm or 0.0),
        "num_gpus": args.world_size,
        "optim": optimizer_name(optimizer) or _value(args.optim),
        "activation_checkpointing": _checkpointing(args, model, reading),
        **gpu,
    }
    autocast = _autocast(args)
    if getattr(args, "deepspeed_plugin", None) is not None:
        autocast = _read_deepspeed(args, autocast, reading)
    elif getattr(args, "fsdp_plugin_args", None):
        _read_fsdp(args.fsdp_plugin_args, reading)
    elif getattr(args, "n_gpu", 1) > 1:
        raise PlanError(
            f"nn.DataParallel over {args.n_gpu} GPUs has no formula.",
            hint="Start it with torchrun: DistributedDataParallel has.",
        )
    is_deepspeed = fields.get("sharding") == "deepspeed"
    trained = "fp32" if is_deepspeed else trained_dtype(model, reading)
    fields["precision"] = precision_of(autocast, trained, bool(args.tf32))
    for name, what in MOVES_MEMORY.items():
        if getattr(args, name, None):
            reading.miss(name, what)
    if args.torch_compile:
        what = "compiled kernels allocate otherwise: the formulas are eager's"
        reading.miss("torch_compile", what)
    _check_ddp(args, reading)
    return Found(
        plan=TrainingPlan(**fields),
        model=known,
        not_read=tuple(reading.not_read),
        parameters=num_parameters(model),
    )


def _autocast(args: "TrainingArguments") -> str:
    return "bf16" if args.bf16 else "fp16" if args.fp16 else "no"


def _value(name: Any) -> str:
    """Of an enumeration, its value."""
    return str(getattr(name, "value", name))


def _checkpointing(args: Any, model: Any, reading: Reading) -> str:
    """The newer spelling where the library has it: the older is its alias there."""
    name = "activation_checkpointing"
    if not hasattr(args, name):
        name = "gradient_checkpointing"
    if not (getattr(args, name) or checkpoints_itself(model_in(model))):
        return "none"
    options = getattr(args, f"{name}_kwargs", None) or {}
    return checkpointing_of(options, name, reading)


def _read_deepspeed(args: Any, autocast: str, reading: Reading) -> str:
    """Stage and offload of the engine; its autocast, where it has one of its own."""
    config = args.deepspeed_plugin.hf_ds_config.config
    reading.fields |= sharding_of(config)
    for name in ("bf16", "fp16"):
        if (config.get(name) or {}).get("enabled") is True:
            return name
    return autocast


def _read_fsdp(options: Mapping[str, Any], reading: Reading) -> None:
    """FSDP, by the arguments of accelerate's plugin."""
    version = options.get("fsdp_version", 2)
    key = "fsdp_config.reshard_after_forward"
    strategy = strategy_of(options.get("reshard_after_forward", True), version, key)
    read_fsdp(
        reading,
        key,
        strategy=strategy,
        version=version,
        offloads=bool(options.get("cpu_offload")),
    )
    if options.get("activation_checkpointing"):
        reading.fields["activation_checkpointing"] = "full"


def _check_ddp(args: Any, reading: Reading) -> None:
    """The formula has what the Trainer chooses."""
    if reading.fields["num_gpus"] == 1:
        return
    looks = getattr(args, "ddp_find_unused_parameters", None)
    chosen = reading.fields["activation_checkpointing"] == "none"
    if looks is not None and looks != chosen:
        reading.not_read.append(f"ddp_find_unused_parameters={looks}")
    for name in ("ddp_bucket_cap_mb", "ddp_static_graph"):
        if getattr(args, name, None) is not None:
            reading.not_read.append(name)
