"""A plan's precision in the words of torch and accelerate."""

from contextlib import AbstractContextManager, nullcontext

import torch

from memplan.formulas.weights import AUTOCAST_DTYPE, STORED_DTYPE
from memplan.models import Model
from memplan.plan import TrainingPlan

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def stored_dtype(plan: TrainingPlan) -> torch.dtype:
    """What trained weights are kept in."""
    return DTYPES[STORED_DTYPE[plan.precision]]


def frozen_dtype(plan: TrainingPlan, model: Model) -> torch.dtype:
    """What frozen weights are kept in."""
    name = plan.frozen_dtype or model.frozen_dtype or STORED_DTYPE[plan.precision]
    return DTYPES[name]


def compute_dtype(plan: TrainingPlan) -> torch.dtype:
    """What matrix products run in."""
    return DTYPES[AUTOCAST_DTYPE.get(plan.precision, STORED_DTYPE[plan.precision])]


def mixed_precision(plan: TrainingPlan) -> str:
    """accelerate's name for the autocast of a plan: no, bf16 or fp16."""
    return AUTOCAST_DTYPE.get(plan.precision, "no")


def autocast(
    plan: TrainingPlan, device_type: str = "cuda"
) -> AbstractContextManager[object]:
    """Autocast as the plan asks, where accelerate does not set it up itself."""
    if plan.precision not in AUTOCAST_DTYPE:
        return nullcontext()
    return torch.autocast(device_type, compute_dtype(plan))


def set_matmul_precision(plan: TrainingPlan) -> None:
    """TF32 lets the tensor cores take fp32 operands; it moves no memory of ours."""
    if plan.precision == "tf32":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
