"""Who else uses a card: its processes and what they hold, as the driver tells.

NVML is asked where its Python binding is installed (nvidia-ml-py), else nvidia-smi. In
a container the driver may name processes by other numbers, or none at all.
"""

import shutil
import subprocess
import warnings
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch

MIB = 2**20
TIMEOUT_S = 10
NAME = "GPU-"


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one card, at one moment."""

    used_bytes: int
    """By everybody, without what the driver keeps for itself."""
    by_process: dict[int, int] = field(default_factory=dict)


def usage_of(device: int) -> Usage | None:
    """What the driver says of a card; None where nobody can be asked."""
    uuid = f"{NAME}{torch.cuda.get_device_properties(device).uuid}"
    usage = _ask_nvml(uuid)
    return _ask_smi(uuid) if usage is None else usage


def _ask_nvml(uuid: str) -> Usage | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nvml: Any = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        card = nvml.nvmlDeviceGetHandleByUUID(uuid)
        memory = nvml.nvmlDeviceGetMemoryInfo(card, version=nvml.nvmlMemory_v2)
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(card)
        held = {p.pid: p.usedGpuMemory for p in processes if p.usedGpuMemory}
        return Usage(memory.used, held)
    except (nvml.NVMLError, AttributeError):
        return None
    finally:
        nvml.nvmlShutdown()


def _ask_smi(uuid: str) -> Usage | None:
    used = _query(uuid, "--query-gpu=memory.used")
    if len(used) != 1 or not used[0][0].isdecimal():
        return None
    rows = _query(uuid, "--query-compute-apps=pid,used_memory")
    held = {
        int(row[0]): int(row[1]) * MIB
        for row in rows
        if len(row) == 2 and row[0].isdecimal() and row[1].isdecimal()
    }
    return Usage(int(used[0][0]) * MIB, held)


def _query(uuid: str, what: str) -> list[list[str]]:
    """The rows of an answer; none if there is no answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, f"--id={uuid}", what, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [[part.strip() for part in line.split(",")] for line in lines]
