"""Frozen linear layers in nf4 or int8, as bitsandbytes stores them.

transformers does the same to a checkpoint as it reads it. Of a model without weights
they are made up here, one layer at a time, so that the whole model never exists in more
than it is stored in.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from memplan.models import Model
from memplan.plan import TrainingPlan
from memplan.runner.training.precision import compute_dtype
from memplan.runner.training.weights import STANDARD_DEVIATION

if TYPE_CHECKING:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

OUTLIER_THRESHOLD = 6.0
"""`llm_int8_threshold` of transformers."""


def quantize(
    plan: TrainingPlan, model: Model, module: nn.Module, device: torch.device
) -> None:
    """Put a quantized layer in the place of every linear layer that may be.

    The module's own parameters are still on the meta device, or have their values.
    Layers that transformers leaves as they are, the output embeddings above all, are
    left.
    """
    for name, part in list(module.named_modules()):
        if _may_be_quantized(name, part, model.family.never_quantized):
            quantized = _quantized(plan, part, device)
            quantized.requires_grad_(False)
            module.set_submodule(name, quantized.train(part.training))
    # PEFT reads from these marks which adapters it has to put beside the layers.
    marks: Any = module
    marks.is_quantized = True
    marks.is_loaded_in_4bit = plan.quantization == "nf4"
    marks.is_loaded_in_8bit = plan.quantization == "int8"


def _may_be_quantized(name: str, module: nn.Module, kept: tuple[str, ...]) -> bool:
    is_linear = type(module) is nn.Linear or type(module).__name__ == "Conv1D"
    return is_linear and not any(f".{part}." in f".{name}." for part in kept)


def _quantized(plan: TrainingPlan, layer: Any, device: torch.device) -> nn.Module:
    out_features, in_features = layer.weight.shape
    if not isinstance(layer, nn.Linear):
        # Conv1D holds its weight transposed; its replacement does not.
        out_features, in_features = in_features, out_features
    if layer.weight.is_meta:
        weight = torch.empty(
            out_features, in_features, dtype=layer.weight.dtype, device=device
        ).normal_(std=STANDARD_DEVIATION)
    else:
        own = layer.weight.detach()
        weight = (own if isinstance(layer, nn.Linear) else own.T.contiguous()).to(
            device
        )
    new: nn.Module
    if plan.quantization == "nf4":
        new = _linear_4bit(weight, layer.bias is not None, compute_dtype(plan))
    else:
        new = _linear_8bit(weight, layer.bias is not None)
    new.bias = layer.bias
    return new


def _linear_4bit(
    weight: torch.Tensor, has_bias: bool, dtype: torch.dtype
) -> "Linear4bit":
    from bitsandbytes.nn import Linear4bit, Params4bit

    out_features, in_features = weight.shape
    with torch.device("meta"):
        new = Linear4bit(
            in_features,
            out_features,
            has_bias,
            compute_dtype=dtype,
            compress_statistics=False,
            quant_type="nf4",
        )
    stored = Params4bit(
        weight,
        requires_grad=False,
        compress_statistics=False,
        quant_type="nf4",
        module=new,
    )
    new.weight = stored.to(weight.device)
    return new


def _linear_8bit(weight: torch.Tensor, has_bias: bool) -> "Linear8bitLt":
    from bitsandbytes.functional import int8_vectorwise_quant
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    out_features, in_features = weight.shape
    with torch.device("meta"):
        new = Linear8bitLt(
            in_features,
            out_features,
            has_bias,
            has_fp16_weights=False,
            threshold=OUTLIER_THRESHOLD,
        )
    values, scales, _ = int8_vectorwise_quant(weight.to(torch.float16))
    new.weight = Int8Params(
        values, requires_grad=False, has_fp16_weights=False, CB=values, SCB=scales
    )
    return new
