"""The results of collectives that a fake process group does not have.

PyTorch's fake group answers at once, with nothing: its futures hold None. DDP, and the
hooks that users give it, look for the reduced tensors there; they get their own.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import GradBucket, _create_work_from_future
from torch.nn.parallel import DistributedDataParallel


def install() -> None:
    """Answer with a rank's own tensors, from here on."""
    modules: list[Any] = [dist.distributed_c10d, dist]
    all_reduce = _with_its_result(dist.all_reduce)
    for module in modules:
        module.all_reduce = all_reduce
    _hook_every_ddp()


def _with_its_result(original: Callable[..., Any]) -> Callable[..., Any]:
    """An asynchronous all-reduce is done, and has what it was given."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def all_reduce(*args: Any, **kwargs: Any) -> Any:
        work = original(*args, **kwargs)
        if work is None:
            return None
        tensor = signature.bind(*args, **kwargs).arguments["tensor"]
        return _create_work_from_future(_done([tensor]))

    return all_reduce


def _hook_every_ddp() -> None:
    """DDP reduces in C++ unless it has a hook: give it one before its first pass."""
    forward: Any = DistributedDataParallel.forward

    @functools.wraps(forward)
    def hooked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._comm_hooks:
            self.register_comm_hook(None, _own_gradients)
        return forward(self, *args, **kwargs)

    DistributedDataParallel.forward = hooked  # type: ignore[method-assign]


def _own_gradients(
    state: object, bucket: GradBucket
) -> torch.futures.Future[torch.Tensor]:
    """What all ranks would come to, if each had what this one has."""
    return _done(bucket.buffer())


def _done(result: Any) -> torch.futures.Future[Any]:
    future: torch.futures.Future[Any] = torch.futures.Future()
    future.set_result(result)
    return future
