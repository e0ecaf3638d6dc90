"""The card and the torch version a plan is held against."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from memplan.errors import PlanError
from memplan.hardware import ASSUMED_SMS, Gpu, custom_gpu, find_gpu
from memplan.plan import TrainingPlan
from memplan.units import MiB

NEWEST_TORCH = (2, 14)
"""The newest version whose constants are known."""
ASSUMED_CONTEXT_BYTES = 500 * MiB
"""Where no measurement of a card's context is known: between the 131 MiB of a T4 and
the 942 MiB of an A100 with eager loading (docs/components.md)."""
NCCL_BYTES = 1536 * MiB
"""Outside the allocator, at the first barrier of two A100 (docs/components.md)."""


def card_of(plan: TrainingPlan) -> Gpu:
    """The card a plan names, with the plan's own memory size where it gives one."""
    gpu = _catalogued(plan.gpu)
    if plan.gpu_memory_bytes is not None:
        gpu = custom_gpu(gpu, plan.gpu_memory_bytes)
    return gpu


@cache
def _catalogued(name: str) -> Gpu:
    """Reading a card's file takes longer than an estimate."""
    return find_gpu(name)


def processors_of(gpu: Gpu) -> tuple[tuple[int, int], int]:
    """Compute capability and multiprocessors, where unknown those of a usual card."""
    return gpu.compute_capability or (9, 0), gpu.num_sms or ASSUMED_SMS


def torch_version_of(plan: TrainingPlan) -> tuple[int, int]:
    """The version whose constants apply: the plan's, the installed, else the newest.

    Raises:
        PlanError: the plan's version cannot be read.
    """
    text = plan.torch or _installed_torch()
    if text is None:
        return NEWEST_TORCH
    parts = text.split("+")[0].split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts[:2]):
        raise PlanError(f"{text!r} is no torch version.", hint="Write it like 2.11.")
    return int(parts[0]), int(parts[1])


@cache
def _installed_torch() -> str | None:
    """The installed version, without importing it."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def context_of(plan: TrainingPlan, gpu: Gpu) -> tuple[int, tuple[str, ...]]:
    """Bytes outside the allocator, and where they are from."""
    return outside_allocator(gpu, plan.context_bytes, plan.num_gpus)


def outside_allocator(
    gpu: Gpu, given_bytes: int | None, num_gpus: int
) -> tuple[int, tuple[str, ...]]:
    """Context and NCCL's buffers, or the bytes that the user gives for them."""
    if given_bytes is not None:
        return given_bytes, ()
    context, basis = card_context(gpu)
    if num_gpus == 1:
        return context, (basis,)
    return context + NCCL_BYTES, (
        basis,
        "NCCL buffers of 1.5 GiB, as seen on two A100",
    )


def card_context(gpu: Gpu) -> tuple[int, str]:
    """The CUDA context of a card, and how it is known."""
    if gpu.context_bytes is not None:
        basis = f"CUDA context as seen with torch {gpu.context_basis}"
        return gpu.context_bytes, basis
    return (
        ASSUMED_CONTEXT_BYTES,
        "CUDA context of 500 MiB assumed: no measurement of this card is known",
    )
