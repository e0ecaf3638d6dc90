"""Peaks of our own, while the program's own counters read as they would without us.

The allocator keeps one set of peaks. Both the runner (at each change of phase) and the
program may begin them anew, so at every beginning both keep what was reached so far: a
peak since some moment is the highest of what was kept since then and of the allocator's
own.
"""

from dataclasses import dataclass
from typing import Any

import torch

from memplan.runner.patches import Patches

KINDS = ("requested", "allocated", "active", "reserved")


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one device: the peaks since the reading before, and what is held now."""

    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_active_bytes: int
    peak_reserved_bytes: int
    end_requested_bytes: int
    end_allocated_bytes: int
    end_active_bytes: int
    end_reserved_bytes: int

    def and_then(self, later: "Reading") -> "Reading":
        """Both stretches as one."""
        return Reading(
            max(self.peak_requested_bytes, later.peak_requested_bytes),
            max(self.peak_allocated_bytes, later.peak_allocated_bytes),
            max(self.peak_active_bytes, later.peak_active_bytes),
            max(self.peak_reserved_bytes, later.peak_reserved_bytes),
            later.end_requested_bytes,
            later.end_allocated_bytes,
            later.end_active_bytes,
            later.end_reserved_bytes,
        )


NOTHING = Reading(0, 0, 0, 0, 0, 0, 0, 0)
"""Of a device that was not used."""

Peaks = dict[tuple[str, ...], int]
"""Peaks by their place in the allocator's nested statistics."""


class Counters:
    """Reads the allocator of every device of this process."""

    def __init__(self) -> None:
        self._patches = Patches()
        self._is_attached = False
        self._ours: dict[int, Peaks] = {}
        self._theirs: dict[int, Peaks] = {}

    def attach(self) -> None:
        """Stand between the program and the allocator's peaks."""
        self._is_attached = True
        self._ours.clear()
        self._patches.restore()
        self._read = torch._C._cuda_memoryStats
        self._restart = torch._C._cuda_resetPeakMemoryStats
        for name in ("_cuda_memoryStats", "_accelerator_getDeviceStats"):
            self._patches.replace(torch._C, name, self._read_for_program)
        for name in ("_cuda_resetPeakMemoryStats", "_accelerator_resetPeakStats"):
            self._patches.replace(torch._C, name, self._restart_for_program)

    def detach(self) -> None:
        """Leave, as soon as the allocator's peaks are what the program takes them for.

        They are once it begins them anew: until then it is told the higher ones that
        the allocator knew before they were begun for us.
        """
        self._is_attached = False
        if not self._theirs:
            self._patches.restore()

    def take(self) -> dict[int, Reading]:
        """Peaks since the last call, for each device in use; they begin anew."""
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return {}
        readings = {}
        for device in range(torch.cuda.device_count()):
            stats = self._read(device)
            if not stats.get("reserved_bytes", {}).get("all", {}).get("peak"):
                continue
            _keep(stats, self._theirs.setdefault(device, {}))
            readings[device] = _reading(stats, self._ours.pop(device, {}))
            self._restart(device)
        return readings

    def peak_allocated_bytes(self, device: int) -> int:
        """Since the allocator's peaks were begun last, by whomever: nothing changes."""
        peak: int = self._read(device)["allocated_bytes"]["all"]["peak"]
        return peak

    def _read_for_program(self, device: int) -> dict[str, Any]:
        stats: dict[str, Any] = self._read(device)
        kept = self._theirs.get(device, {})
        for place, values in _peaks(stats):
            values["peak"] = max(values["peak"], kept.get(place, 0))
        return stats

    def _restart_for_program(self, device: int) -> None:
        _keep(self._read(device), self._ours.setdefault(device, {}))
        self._theirs.pop(device, None)
        self._restart(device)
        if not self._is_attached:
            self.detach()


def _peaks(
    stats: dict[str, Any], place: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], dict[str, int]]]:
    """Every set of values that has a peak, with its place."""
    found = []
    for name, values in stats.items():
        if not isinstance(values, dict):
            continue
        if "peak" in values:
            found.append(((*place, name), values))
        else:
            found += _peaks(values, (*place, name))
    return found


def _keep(stats: dict[str, Any], kept: Peaks) -> None:
    for place, values in _peaks(stats):
        kept[place] = max(values["peak"], kept.get(place, 0))


def _reading(stats: dict[str, Any], kept: Peaks) -> Reading:
    values = [stats[f"{kind}_bytes"]["all"] for kind in KINDS]
    return Reading(
        *(
            max(some["peak"], kept.get((f"{kind}_bytes", "all"), 0))
            for kind, some in zip(KINDS, values, strict=True)
        ),
        *(some["current"] for some in values),
    )


COUNTERS = Counters()
"""The allocator has one set of peaks, so a process has one of these."""
