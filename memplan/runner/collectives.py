"""Waits for NCCL's watchdog where a virtual card is faster than it.

ProcessGroupNCCL holds the tensors of a collective until its watchdog, which looks every
100 ms, has seen it end. A step on a card takes longer than that. On a virtual card it
takes a few milliseconds, and the tensors of several steps would be held at once.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch.optim import optimizer as optimizers


def install() -> None:
    """Wait before and after each optimizer step: as long as nothing is left to see."""
    if dist.is_available() and dist.is_nccl_available():
        optimizers.register_optimizer_step_pre_hook(_wait)
        optimizers.register_optimizer_step_post_hook(_wait)


def _wait(optimizer: Any, args: Any, kwargs: Any) -> None:
    if not dist.is_initialized() or torch.cuda.is_current_stream_capturing():
        return
    for group in tuple(dist.distributed_c10d._world.pg_map):
        for device_type in group._device_types:
            backend = group._get_backend(device_type)
            if isinstance(backend, dist.ProcessGroupNCCL):
                backend._wait_for_pending_works()  # type: ignore[attr-defined]
