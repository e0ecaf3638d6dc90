"""What trains: named sets, regular expressions, or LoRA adapters by PEFT."""

import re
from collections.abc import Sequence

import torch
from torch import nn

from memplan.errors import PlanError, UnknownNameError
from memplan.formulas.setting import ALL_LINEAR
from memplan.models import Model
from memplan.models.trainable import trainable_patterns
from memplan.plan import TrainingPlan


def freeze(plan: TrainingPlan, model: Model, module: nn.Module) -> None:
    """Let only those parameters train that the plan names.

    Raises:
        UnknownNameError: a pattern finds no parameter.
    """
    patterns = trainable_patterns(plan, model)
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise UnknownNameError.of(
                "parameter or trainable set",
                pattern,
                {name.rpartition(".")[0] for name in names},
            )
    for name, parameter in module.named_parameters():
        trains = any(re.search(pattern, name) for pattern in patterns)
        parameter.requires_grad_(trains and parameter.is_floating_point())


def store(module: nn.Module, trained: torch.dtype, frozen: torch.dtype) -> None:
    """Keep trained and frozen weights each in their dtype; quantized ones stay."""
    for parameter in module.parameters():
        if not parameter.is_floating_point() or _is_quantized(parameter):
            continue
        dtype = trained if parameter.requires_grad else frozen
        if parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)


def add_adapters(plan: TrainingPlan, model: Model, module: nn.Module) -> nn.Module:
    """PEFT's LoRA beside the linear layers that the plan, or the family, names.

    Raises:
        UnknownNameError: a target is no linear layer of the model.
    """
    from peft import LoraConfig, get_peft_model

    targets = plan.lora_targets or model.family.lora_targets
    _check_targets(plan.lora_targets, model, module)
    config = LoraConfig(
        r=plan.lora_rank,
        lora_alpha=2 * plan.lora_rank,
        lora_dropout=plan.lora_dropout,
        target_modules=ALL_LINEAR if ALL_LINEAR in targets else list(targets),
        # GPT-2 writes its linear layers as Conv1D, with the weight transposed.
        fan_in_fan_out=model.family.name == "gpt2",
    )
    adapted: nn.Module = get_peft_model(module, config)
    return adapted.train()


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _check_targets(targets: Sequence[str], model: Model, module: nn.Module) -> None:
    """Of a family's own targets some may be of other models of it."""
    places = [name for name, part in module.named_modules() if _is_linear(part)]
    if not (targets or model.family.lora_targets):
        raise PlanError(
            f"{model.name} has no linear layers that LoRA adapts by default.",
            hint="Name some with --lora-targets.",
        )
    for target in targets:
        if target == ALL_LINEAR:
            continue
        if not any(f".{place}".endswith(f".{target}") for place in places):
            raise UnknownNameError.of(
                "LoRA target", target, {place.rpartition(".")[2] for place in places}
            )


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _is_quantized(parameter: nn.Parameter) -> bool:
    return type(parameter).__name__ in ("Params4bit", "Int8Params")
