"""Who holds what on which rank: DDP, ZeroRedundancyOptimizer, FSDP2 or DeepSpeed.

accelerate sets each of them up as the Trainer does. How many ranks there are, and which
this process is, comes from the environment, as torchrun and accelerate leave it.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedDataParallelKwargs,
    FullyShardedDataParallelPlugin,
)
from torch import nn

from memplan.errors import PlanError
from memplan.plan import TrainingPlan
from memplan.runner.training.optimizer import MasterWeights, Recipe
from memplan.runner.training.precision import mixed_precision

Strategy = Literal["single", "ddp", "zero_redundancy", "fsdp2", "deepspeed"]


def strategy_of(plan: TrainingPlan) -> Strategy:
    """Who shards; a single rank with nothing to offload shards nothing."""
    if plan.zero_stage and plan.sharding == "deepspeed":
        return "deepspeed"
    if plan.num_gpus == 1 and not plan.offload_parameters:
        return "single"
    return {0: "ddp", 1: "zero_redundancy"}.get(plan.zero_stage, "fsdp2")  # type: ignore[return-value]


def check_world(plan: TrainingPlan) -> None:
    """Raises PlanError where the process was started among another number of ranks."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != plan.num_gpus:
        raise PlanError(
            f"The plan is for {plan.num_gpus} GPUs, and {world_size} "
            f"{'process was' if world_size == 1 else 'processes were'} started.",
            hint=f"Start it with torchrun --nproc-per-node {plan.num_gpus}.",
        )


def make_accelerator(plan: TrainingPlan) -> Accelerator:
    """accelerate's own object for the plan; joins the process group."""
    options: dict[str, Any] = {
        "mixed_precision": mixed_precision(plan),
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
    }
    match strategy_of(plan):
        case "ddp" | "zero_redundancy":
            # The Trainer's choice (`trainer.py`).
            looks = plan.activation_checkpointing == "none"
            options["kwargs_handlers"] = [
                DistributedDataParallelKwargs(find_unused_parameters=looks)
            ]
        case "fsdp2":
            options["fsdp_plugin"] = _fsdp2_plugin(plan)
        case "deepspeed":
            options["deepspeed_plugin"] = _deepspeed_plugin(plan)
            options["mixed_precision"] = deepspeed_precision(plan)
    return Accelerator(**options)


def name_units(accelerator: Accelerator, module: nn.Module) -> None:
    """Let FSDP2 shard each layer as a unit, by the names the model itself gives.

    Of parts that are not there accelerate would say that they are missing, and a unit
    around the input embeddings it would shard twice (`fsdp2_prepare_model`, 1.15).

    Raises:
        PlanError: the model does not say which its input embeddings are.
    """
    named: set[str] = set(getattr(module, "_no_split_modules", None) or ())
    embeddings: Any = getattr(module, "get_input_embeddings", None)
    try:
        table = None if embeddings is None else embeddings()
    except NotImplementedError as error:
        raise PlanError(
            "accelerate asks a model for its input embeddings before FSDP2 shards it, "
            f"and {type(module).__name__} does not name them.",
            hint="Choose --sharding deepspeed; `estimate` covers both.",
        ) from error
    found = set()
    for part in module.modules():
        name = type(part).__name__
        if name in named and all(inner is not table for inner in part.modules()):
            found.add(name)
    accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(found) or None


def deepspeed_precision(plan: TrainingPlan) -> str:
    """The engine's dtype: what is trained in low precision has fp32 copies there."""
    if plan.precision in ("fp32", "tf32"):
        return "no"
    return plan.precision.partition("-")[0]


def make_optimizer(
    plan: TrainingPlan, recipe: Recipe, parameters: list[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimizer over this rank's parameters, or over its share of them."""
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = recipe
    if strategy_of(plan) == "zero_redundancy":
        make = partial(_zero_redundancy, recipe)
    if plan.precision == "fp16-master":
        return MasterWeights(parameters, make)
    return make(parameters)


def _zero_redundancy(
    recipe: Recipe, parameters: list[nn.Parameter]
) -> torch.optim.Optimizer:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(
        parameters,
        optimizer_class=recipe.build,  # type: ignore[arg-type]
        **recipe.arguments,
    )


def _fsdp2_plugin(plan: TrainingPlan) -> Any:
    """What `--fsdp` of the Trainer sets: a unit for each layer."""
    if plan.offload_parameters:
        # As `accelerate launch` says it: then what is on the host is reduced by gloo.
        os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_OFFLOAD_PARAMS="true")
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="TRANSFORMER_BASED_WRAP",
        reshard_after_forward=plan.zero_stage == 3,
        cpu_offload=plan.offload_parameters,
        cpu_ram_efficient_loading=False,
    )


def _deepspeed_plugin(plan: TrainingPlan) -> Any:
    """DeepSpeed's own defaults beside what the plan says."""
    zero: dict[str, Any] = {"stage": plan.zero_stage}
    if plan.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if plan.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    precision = deepspeed_precision(plan)
    return DeepSpeedPlugin(
        hf_ds_config={
            "train_micro_batch_size_per_gpu": plan.per_device_train_batch_size,
            "gradient_accumulation_steps": plan.gradient_accumulation_steps,
            "gradient_clipping": plan.max_grad_norm,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            # Its own CPU Adam is compiled when it is first used, with a toolkit.
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": precision == "bf16"},
            "fp16": {"enabled": precision == "fp16"},
        }
    )
