"""The attention kernel that a plan asks for."""

from contextlib import AbstractContextManager, nullcontext

from torch.nn.attention import SDPBackend, sdpa_kernel

from memplan.plan import TrainingPlan

BACKENDS = {
    "math": SDPBackend.MATH,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


def implementation(plan: TrainingPlan) -> str | None:
    """transformers' name of it; None lets the model choose."""
    if plan.attn_implementation == "auto":
        return None
    return "eager" if plan.attn_implementation == "eager" else "sdpa"


def attention_kernel(plan: TrainingPlan) -> AbstractContextManager[object]:
    """Holds `scaled_dot_product_attention` to one kernel, where the plan names one."""
    backend = BACKENDS.get(plan.attn_implementation)
    return nullcontext() if backend is None else sdpa_kernel(backend)
