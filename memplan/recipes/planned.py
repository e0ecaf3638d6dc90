"""A paper's recipe with what a plan says: precision, batch, checkpointing, clipping."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from memplan.errors import PlanError
from memplan.plan import TrainingPlan
from memplan.runner.training.checkpointing import enable_checkpointing
from memplan.runner.training.fitting import (
    Fitting,
    Recipe,
    Source,
    make_accelerator,
)
from memplan.runner.training.precision import mixed_precision, set_matmul_precision


def planned_fitting(
    plan: TrainingPlan,
    module: nn.Module,
    recipe: Recipe,
    sources: Sequence[Source],
    **settings: Any,
) -> Fitting:
    """The run of a plan, over data, as the paper's optimizer and schedule move it.

    Args:
        plan: its micro-batch is that of each source; accumulation counts the
            micro-batches of one source in an update.
        settings: of the Accelerator, such as cpu=True.

    Raises:
        PlanError: the plan shards, quantizes or adds adapters, which no paper did.
    """
    if plan.zero_stage or plan.quantization != "none" or plan.trainable == "lora":
        raise PlanError(
            "A recipe trains one whole copy of the model on each GPU.",
            hint="Leave out --zero-stage, --quantization and --trainable lora.",
        )
    set_matmul_precision(plan)
    enable_checkpointing(plan, module)
    accelerator = make_accelerator(
        len(sources),
        plan.gradient_accumulation_steps,
        mixed_precision=mixed_precision(plan),
        **settings,
    )
    size = plan.per_device_train_batch_size
    return Fitting(
        accelerator,
        module,
        replace(recipe, max_grad_norm=plan.max_grad_norm),
        [replace(it, loading=replace(it.loading, batch_size=size)) for it in sources],
    )
