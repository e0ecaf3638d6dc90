"""What the process holds of the card beside the allocator: context, kernels, NCCL.

Read as soon as there is a context, and in the end: the difference is what libraries
took meanwhile. Others may use the card too. What they hold is told apart

    by NVML's figure of this process, where the driver names it;
    else by what was in use before this process came to use CUDA;
    else not at all.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from memplan.runner.device import is_virtual
from memplan.runner.neighbours import Usage, usage_of
from memplan.runner.patches import Patches

BY_CARD = "a virtual card, which is this process's own"
BY_PROCESS = "NVML's figure of this process"
BY_BASELINE = "the card's memory in use, less what was in use before CUDA came up"
BY_NOBODY = "the card's memory in use, by whomever"
LATE = "first read when CUDA was up already"


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one card, at one moment."""

    used_bytes: int
    reserved_bytes: int
    usage: Usage | None


class Outside:
    """Reads cards when they come up."""

    def __init__(self, ask: Callable[[int], Usage | None] = usage_of) -> None:
        self._ask = ask
        self._patches = Patches()
        self._is_attached = False
        self._is_late = False
        self._baseline: dict[int, Usage | None] = {}
        self._first: dict[int, Reading] = {}

    def attach(self) -> None:
        """Wait for the first context, if there is none yet."""
        self._is_attached = True
        self._is_late = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        if self._is_late:
            self.look()
            return
        torch.cuda._lazy_call(self._cuda_begins)  # type: ignore[no-untyped-call]
        original = torch.cuda.set_device

        @functools.wraps(original)
        def set_device(device: Any) -> None:
            original(device)
            if self._is_attached:
                self.look()

        self._patches.replace(torch.cuda, "set_device", set_device)

    def detach(self) -> None:
        self._is_attached = False
        self._patches.restore()

    def look(self) -> None:
        """Read every card that this process has come to use since."""
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return
        for device in range(torch.cuda.device_count()):
            if device not in self._first and _has_context(device):
                self._first[device] = self._read(device)

    def content(self, device: int) -> dict[str, Any]:
        """At the start and now, in the words of a capture."""
        now = self._read(device)
        first = self._first.get(device, now)
        others, basis = self._others(device, now)
        before, _ = self._others(device, first)
        if self._is_late:
            basis = f"{basis}; {LATE}"
        return {
            "at_start_bytes": _outside(first, before or 0),
            "at_end_bytes": _outside(now, others or 0),
            "others_bytes": others,
            "basis": basis,
        }

    def _cuda_begins(self) -> None:
        """There is no context yet; a card that is the only one may be given one."""
        if not self._is_attached:
            return
        num_devices = torch.cuda.device_count()
        if not is_virtual():
            self._baseline = {
                device: self._ask(device) for device in range(num_devices)
            }
        if num_devices == 1:
            self._first[0] = self._read(0)

    def _read(self, device: int) -> Reading:
        free, total = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        usage = None if is_virtual() else self._ask(device)
        return Reading(total - free, reserved, usage)

    def _others(self, device: int, reading: Reading) -> tuple[int | None, str]:
        """What is not this process's, and how that is known."""
        if is_virtual():
            return 0, BY_CARD
        before = self._baseline.get(device)
        own = reading.usage and _own(reading.usage, before)
        if own:
            return max(reading.used_bytes - own, 0), BY_PROCESS
        if before is not None:
            return before.used_bytes, BY_BASELINE
        return None, BY_NOBODY


def _own(now: Usage, before: Usage | None) -> int | None:
    """Of this process; in a container it is the one that was not there before."""
    own = now.by_process.get(os.getpid())
    if own is None and before is not None:
        new = [now.by_process[pid] for pid in now.by_process.keys() - before.by_process]
        return new[0] if len(new) == 1 else None
    return own


def _outside(reading: Reading, others_bytes: int) -> int:
    return max(reading.used_bytes - others_bytes - reading.reserved_bytes, 0)


def _has_context(device: int) -> bool:
    has: Callable[[int], bool] = vars(torch._C)["_cuda_hasPrimaryContext"]
    return has(device)
