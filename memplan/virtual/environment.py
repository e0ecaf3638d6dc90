"""The environment in which a program finds a virtual card.

Nothing here imports torch: it is the program's, in an interpreter of its own.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from memplan.hardware import Gpu, custom_gpu
from memplan.virtual.build import built
from memplan.virtual.card import COPY_LIMIT_BYTES, describe
from memplan.virtual.wheels import TorchBuild, find_torch

SMI = Path(__file__).parent / "smi.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class VirtualEnvironment:
    """What to add to the environment of a program, and what to say of it."""

    variables: Mapping[str, str]
    build: TorchBuild
    assumptions: tuple[str, ...]
    """What was not known of the card, or not tried with this torch: for the report."""

    warnings: tuple[str, ...]
    """What went otherwise than it should on this machine: for the user now."""


def virtual_environment(
    python: str | None,
    gpu: Gpu,
    *,
    num_devices: int = 1,
    total_bytes: int | None = None,
    context_bytes: int,
    nccl_bytes: int = 0,
    copy_limit_bytes: int = COPY_LIMIT_BYTES,
    addresses: str = "down",
    environ: Mapping[str, str] = os.environ,
    say: Callable[[str], None] = lambda line: None,
) -> VirtualEnvironment:
    """The variables with which programs of the interpreter `python` see virtual cards.

    `python` is None for the interpreter that runs memplan; `environ` is the environment
    that the variables will be added to. `CUDA_VISIBLE_DEVICES` acts as it always does.
    `say` is told what takes long.

    Raises:
        VirtualDeviceError: torch, the machine or the compiler cannot do it.
    """
    build = find_torch(python)
    if total_bytes is not None:
        gpu = custom_gpu(gpu, total_bytes)
    description = describe(
        gpu,
        num_devices=num_devices,
        context_bytes=context_bytes,
        nccl_bytes=nccl_bytes,
        driver_version=build.runtime_version,
        copy_limit_bytes=copy_limit_bytes,
        addresses=addresses,
    )
    kept = built(build, say=say)
    preloaded = [str(kept.folder / real.soname) for real in build.libraries]
    variables = {
        "LD_PRELOAD": _joined(*preloaded, environ.get("LD_PRELOAD")),
        "MEMPLAN_DEVICE": description.text,
        "MEMPLAN_CUDNN": str(build.real("libcudnn").path),
        "TRITON_LIBCUDA_PATH": str(kept.folder),
        "PATH": _joined(str(kept.folder / "bin"), environ.get("PATH", os.defpath)),
        "MEMPLAN_PYTHON": sys.executable,
        "MEMPLAN_SMI": str(SMI),
    }
    return VirtualEnvironment(
        variables=variables,
        build=build,
        assumptions=(*description.assumptions, *build.assumptions),
        warnings=kept.warnings,
    )


def _joined(*parts: str | None) -> str:
    return os.pathsep.join(part for part in parts if part)
