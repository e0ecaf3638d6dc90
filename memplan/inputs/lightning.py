"""Lightning's `Trainer`, as it is when training begins."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memplan.errors import PlanError
from memplan.inputs.batch import read_batch
from memplan.inputs.configs.format import Reading
from memplan.inputs.configs.precision import precision_of
from memplan.inputs.configs.sharding import STAGES, read_fsdp, sharding_of
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
    from lightning.pytorch import LightningModule, Trainer

AUTOCAST = {
    "32-true": "no",
    "bf16-mixed": "bf16",
    "bf16-true": "no",
    "16-mixed": "fp16",
    "16-true": "no",
}
"""By its names of precisions."""
ENGINE = {"bf16-true": "bf16", "16-true": "fp16"}
"""Of DeepSpeed's engine, beside those."""


def found_in(
    trainer: "Trainer",
    module: "LightningModule",
    batch: Mapping[str, Any],
    gpu: Mapping[str, Any],
) -> Found:
    """The plan of a Trainer whose model is called for the first time.

    Args:
        batch: what the model in the module is called with.
        gpu: fields of the plan that name the card.

    Raises:
        MemplanError: no plan can say what runs.
    """
    if len(trainer.optimizers) != 1:
        raise PlanError(
            f"A training with {len(trainer.optimizers)} optimizers has no formula.",
            hint="`memplan rehearse -- python train.py` takes any.",
        )
    reading = Reading()
    known = read_model(module, reading)
    read_batch(batch, known, reading)
    reading.fields |= {
        "gradient_accumulation_steps": trainer.accumulate_grad_batches,
        "max_grad_norm": float(trainer.gradient_clip_val or 0.0),
        "num_gpus": trainer.world_size,
        "optim": _optimizer(trainer.optimizers[0]),
        "activation_checkpointing": "full"
        if checkpoints_itself(model_in(module))
        else "none",
        **gpu,
    }
    _read_strategy(trainer, reading)
    reading.fields["precision"] = _precision(trainer, module, reading)
    return Found(
        plan=TrainingPlan(**reading.fields),
        model=known,
        not_read=tuple(reading.not_read),
        parameters=num_parameters(module),
        keeps_gradients=module.automatic_optimization,
    )


def _optimizer(optimizer: Any) -> str:
    name = optimizer_name(optimizer)
    if name is None:
        raise PlanError(
            f"The optimizer {type(optimizer).__name__} has no formula.",
            hint="torch's and bitsandbytes' common ones have.",
        )
    return name


def _precision(trainer: Any, module: Any, reading: Reading) -> str:
    name = str(trainer.precision)
    if name not in AUTOCAST:
        raise PlanError(
            f"The precision {name} has no formula.",
            hint=f"These have: {', '.join(AUTOCAST)}.",
        )
    if reading.fields.get("sharding") == "deepspeed":
        # Its engine casts the weights, and makes fp32 copies of those it updates.
        return precision_of(ENGINE.get(name, AUTOCAST[name]), "fp32")
    return precision_of(AUTOCAST[name], trained_dtype(module, reading))


def _read_strategy(trainer: Any, reading: Reading) -> None:
    """Who shards what."""
    strategy = trainer.strategy
    match type(strategy).__name__:
        case "SingleDeviceStrategy":
            return
        case "DDPStrategy":
            reading.not_read.append(
                "DistributedDataParallel as Lightning sets it up: counted as "
                "transformers' Trainer does, which looks for unused parameters"
            )
        case "FSDPStrategy":
            _read_fsdp(strategy, reading)
        case "DeepSpeedStrategy":
            reading.fields |= sharding_of(strategy.config or {})
        case name:
            raise PlanError(
                f"Lightning's {name} has no formula.",
                hint="`memplan rehearse -- python train.py` takes any.",
            )


def _read_fsdp(strategy: Any, reading: Reading) -> None:
    """FSDP1, as the formulas know FSDP2."""
    name = getattr(strategy.sharding_strategy, "name", "")
    if name not in STAGES:
        raise PlanError(
            f"FSDP's {name} has no formula.", hint=f"These have: {', '.join(STAGES)}."
        )
    read_fsdp(
        reading,
        "sharding_strategy",
        strategy=name,
        version=1,
        offloads=bool(getattr(strategy.cpu_offload, "offload_params", False)),
        num_nodes=strategy.num_nodes,
    )
