"""The one next command a report ends with."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from memplan.errors import MemplanError
from memplan.estimate import estimate
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport
from memplan.views.command import command_of


def next_command(report: MemoryReport, plan: TrainingPlan) -> str:
    """Where it fits, every card; else the mildest single change that makes it fit."""
    if report.fits or plan.model is None:
        return command_of(replace(plan, gpu="all"))
    for change in _changes(plan):
        try:
            changed = replace(plan, **change)
            if estimate(changed).fits:
                return command_of(changed)
        except MemplanError:
            continue
    return command_of(replace(plan, gpu="all"))


def _changes(plan: TrainingPlan) -> Iterator[dict[str, Any]]:
    """Single changes, from those that cost least to those that cost most."""
    if plan.generates:
        yield {"per_device_train_batch_size": 1}
        yield {"precision": "bf16-pure"}
        yield {"quantization": "nf4"}
        return
    if plan.activation_checkpointing != "full":
        yield {"activation_checkpointing": "full"}
    if plan.data_parallel > 1:
        for stage in range(plan.zero_stage + 1, 4):
            yield {"zero_stage": stage}
    if plan.per_device_train_batch_size > 1:
        batch = plan.per_device_train_batch_size // 2
        steps = plan.gradient_accumulation_steps
        yield {
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": 2 * steps,
        }
        yield {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": steps * plan.per_device_train_batch_size,
            "activation_checkpointing": "full",
        }
    if plan.optim.startswith("adamw") and "8bit" not in plan.optim:
        yield {"optim": "adamw-8bit", "activation_checkpointing": "full"}
    if plan.trainable != "lora":
        yield {"trainable": "lora", "activation_checkpointing": "full"}
        yield {
            "trainable": "lora",
            "quantization": "nf4",
            "activation_checkpointing": "full",
            "per_device_train_batch_size": 1,
        }
    for num_gpus in (8, 64):
        if plan.num_gpus < num_gpus:
            yield {
                "num_gpus": num_gpus,
                "zero_stage": 3,
                "activation_checkpointing": "full",
            }
