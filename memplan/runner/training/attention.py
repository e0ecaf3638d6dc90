"""The attention kernel that a plan asks for."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel

from memplan.errors import PlanError
from memplan.plan import TrainingPlan

BACKENDS = {
    "math": SDPBackend.MATH,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
NO_KERNEL = "No available kernel"
"""What PyTorch says where precision, mask, head size or card rule a kernel out."""


def implementation(plan: TrainingPlan) -> str | None:
    """transformers' name of it; None lets the model choose."""
    if plan.attn_implementation == "auto":
        return None
    return "eager" if plan.attn_implementation == "eager" else "sdpa"


@contextmanager
def attention_kernel(plan: TrainingPlan) -> Iterator[None]:
    """Holds `scaled_dot_product_attention` to one kernel, where the plan names one.

    Raises:
        PlanError: that kernel cannot run the model's attention.
    """
    backend = BACKENDS.get(plan.attn_implementation)
    if backend is None:
        yield
        return
    try:
        with sdpa_kernel(backend):
            yield
    except RuntimeError as error:
        if NO_KERNEL not in str(error):
            raise
        raise PlanError(
            f"The {plan.attn_implementation} kernel cannot run the attention of "
            f"{plan.model} in {plan.precision} on this card.",
            hint="Leave --attn-implementation out for PyTorch's own choice.",
        ) from error
