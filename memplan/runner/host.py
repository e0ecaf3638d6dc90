"""What the process takes of the host's memory."""

from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
PEAK = "VmHWM:"


def host_memory() -> dict[str, int | None]:
    """In the words of a capture, at most so far."""
    return {"peak_resident_bytes": _peak_resident(), "pinned_bytes": _pinned()}


def _peak_resident() -> int:
    """Of this program: what `getrusage` says includes who started it."""
    for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(PEAK):
            return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _pinned() -> int | None:
    """Page-locked by PyTorch, in use or kept to be used again."""
    if not hasattr(torch.cuda, "host_memory_stats"):
        return None
    return int(torch.cuda.host_memory_stats().get("allocated_bytes.peak", 0))
