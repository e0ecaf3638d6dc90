"""From a plan to everything a training step needs."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from memplan.models import Model
from memplan.models.trainable import trainable_patterns
from memplan.plan import TrainingPlan
from memplan.runner.training.attention import implementation
from memplan.runner.training.batch import make_batch
from memplan.runner.training.checkpointing import enable_checkpointing
from memplan.runner.training.ema import Averages
from memplan.runner.training.grids import tell_grids
from memplan.runner.training.loss import split_loss
from memplan.runner.training.model import build_model, set_ties
from memplan.runner.training.optimizer import keep_embeddings_in_32bit, recipe_of
from memplan.runner.training.parallel import (
    deepspeed_precision,
    make_optimizer,
    name_units,
    strategy_of,
)
from memplan.runner.training.precision import DTYPES, frozen_dtype, stored_dtype
from memplan.runner.training.quantize import quantize
from memplan.runner.training.step import Run
from memplan.runner.training.trainable import (
    add_adapters,
    freeze,
    store,
    trained_parameters,
)
from memplan.runner.training.weights import empty_parameters, materialise

if TYPE_CHECKING:
    from accelerate import Accelerator


def assemble(
    plan: TrainingPlan, model: Model, accelerator: "Accelerator", module: nn.Module
) -> Run:
    """Shard and wrap the model; make its optimizer and its batch."""
    keep_embeddings_in_32bit(plan.optim, module)
    if plan.torch_compile:
        module.compile()
    wrapped, optimizer = wrap(plan, accelerator, module)
    trained = trained_parameters(wrapped)
    with accelerator.device:
        batch = make_batch(plan, model, module, stored_dtype(plan))
    tell_grids(module, batch)
    return Run(
        accelerator=accelerator,
        model=wrapped,
        optimizer=optimizer,
        trained=trained,
        batch=batch,
        max_grad_norm=plan.max_grad_norm,
        averages=Averages(trained) if plan.ema else None,
        offloads_activations=plan.offload_activations,
    )


def build(plan: TrainingPlan, model: Model, device: torch.device) -> nn.Module:
    """The model with its frozen, quantized, checkpointed and adapted parts."""
    trained, frozen = stored_dtype(plan), frozen_dtype(plan, model)
    if strategy_of(plan) == "deepspeed" and deepspeed_precision(plan) != "no":
        # The engine casts all weights, and makes fp32 copies of those it updates.
        trained = frozen = DTYPES[deepspeed_precision(plan)]
    trains_all = trainable_patterns(plan, model) == ("",)
    with _where(plan, device):
        module = build_model(
            model, trained if trains_all else frozen, implementation(plan)
        )
    set_ties(model, module)
    if plan.quantization != "none":
        quantize(plan, model, module, device)
    if is_built_empty(plan) and strategy_of(plan) != "fsdp2":
        materialise(module, device)
    if plan.workload == "train":
        enable_checkpointing(plan, module)
    if plan.cross_entropy_chunks > 1:
        split_loss(module, plan.cross_entropy_chunks)
    freeze(plan, model, module)
    store(module, trained, frozen)
    if plan.trainable == "lora":
        module = add_adapters(plan, model, module)
    # Initial values needed room of their own; a run that loads a checkpoint does not.
    torch.cuda.empty_cache()
    return module


def is_built_empty(plan: TrainingPlan) -> bool:
    """Whether weights are made after the model, in shards or quantized."""
    return plan.quantization != "none" or strategy_of(plan) == "fsdp2"


def wrap(
    plan: TrainingPlan, accelerator: "Accelerator", module: nn.Module
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model and the optimizer as accelerate prepares them."""
    recipe = recipe_of(plan.optim)
    if strategy_of(plan) == "deepspeed":
        optimizer = recipe(trained_parameters(module))
        engine, prepared = accelerator.prepare(module, optimizer)
        return cast(nn.Module, engine), cast(torch.optim.Optimizer, prepared)
    if strategy_of(plan) == "fsdp2":
        from accelerate.utils import fsdp2_prepare_model

        name_units(accelerator, module)
        wrapped = fsdp2_prepare_model(accelerator, module)
        accelerator._models.append(wrapped)  # as `prepare` does: clipping looks there
        host = torch.device("cpu") if plan.offload_parameters else accelerator.device
        materialise(wrapped, host)
    else:
        wrapped = accelerator.prepare_model(module)
    optimizer = make_optimizer(plan, recipe, trained_parameters(wrapped))
    # A ZeroRedundancyOptimizer would have to gather its states to place them.
    places_states = strategy_of(plan) != "zero_redundancy"
    return wrapped, accelerator.prepare_optimizer(optimizer, places_states)


def _where(plan: TrainingPlan, device: torch.device) -> AbstractContextManager[object]:
    return empty_parameters(device) if is_built_empty(plan) else device
