"""Which torch will train: its version, its CUDA, and NVIDIA's libraries beside it.

The interpreter may be another than memplan's own. It is asked in a process of its own
and imports nothing but the standard library: torch alone would take seconds.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from memplan.errors import VirtualDeviceError
from memplan.virtual.libraries import CUDA_MAJORS, LIBRARIES, Library

OLDEST_TORCH = (2, 11)
NEWEST_TORCH = (2, 14)
"""The newest version the device was tried with."""
MACHINES = ("x86_64", "aarch64")
CUDA_TORCH = "Install the CUDA build: pip install torch (on Linux, from PyPI)."
PROBE_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class RealLibrary:
    """A library of NVIDIA's that the device plays."""

    library: Library
    soname: str
    path: Path | None
    """None: part of the driver."""

    version: str | None
    """Of the wheel that brought it: `13.1.1.3`."""

    @property
    def identity(self) -> str:
        """What it is, wherever it lies."""
        size = self.path.stat().st_size if self.path else 0
        return f"{self.soname} {self.version} {size}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchBuild:
    """The CUDA build of torch of one interpreter."""

    interpreter: str
    python: str
    machine: str
    torch: str
    """As torch says it: `2.14.1+cu130`."""

    cuda: str
    """The CUDA version it was built for: `13.0`."""

    libraries: tuple[RealLibrary, ...]
    """In the order of `LIBRARIES`."""

    driver_header: Path | None
    """`cuda.h`, which names the functions of the driver."""

    @property
    def cuda_major(self) -> int:
        """12 or 13."""
        return int(self.cuda.split(".")[0])

    @property
    def runtime_version(self) -> int:
        """As cudaRuntimeGetVersion gives it: 13000."""
        major, minor = (int(part) for part in self.cuda.split(".")[:2])
        return 1000 * major + 10 * minor

    def real(self, name: str) -> RealLibrary:
        """The library with this name."""
        return next(real for real in self.libraries if real.library.name == name)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What was not tried with this build."""
        stated = []
        if _release(self.torch) > NEWEST_TORCH:
            stated.append(
                f"torch {self.torch} is newer than {_dotted(NEWEST_TORCH)}, the newest "
                "the virtual device was tried with"
            )
        if self.machine != "x86_64":
            stated.append(f"the virtual device was not tried on {self.machine}")
        return tuple(stated)


def find_torch(interpreter: str | None = None) -> TorchBuild:
    """The torch of `interpreter`, by default of the one that runs memplan.

    Raises:
        VirtualDeviceError: it has none, or one that cannot be rehearsed.
    """
    if not sys.platform.startswith("linux"):
        system = {"darwin": "macOS", "win32": "Windows"}.get(sys.platform, sys.platform)
        raise VirtualDeviceError(
            f"Rehearsing needs Linux, and this is {system}.",
            hint="Use Linux, a Linux container or WSL 2; "
            "memplan estimate works everywhere.",
        )
    interpreter = interpreter or sys.executable
    facts = _ask(interpreter)
    if facts.machine not in MACHINES or not facts.is_64_bit:
        raise VirtualDeviceError(
            f"Rehearsing needs 64-bit Linux on {' or '.join(MACHINES)}, "
            f"and this is {facts.machine}.",
            hint="There is no CUDA build of torch for it; use another machine.",
        )
    if facts.torch is None:
        raise VirtualDeviceError(f"{interpreter} has no torch.", hint=CUDA_TORCH)
    torch, cuda = _versions(Path(facts.torch), interpreter)
    cuda_major = int(cuda.split(".")[0])
    return TorchBuild(
        interpreter=interpreter,
        python=facts.python,
        machine=facts.machine,
        torch=torch,
        cuda=cuda,
        libraries=_libraries(cuda_major, facts, torch),
        driver_header=_driver_header(cuda_major, facts),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """What `probe.py` says of an interpreter."""

    python: str
    machine: str
    is_64_bit: bool
    torch: str | None
    """Its folder."""

    roots: list[str]
    """Folders of packages, in the order in which torch looks for libraries."""

    distributions: dict[str, list[str]]
    """Names of the metadata of NVIDIA's wheels, by folder of packages."""


def _ask(interpreter: str) -> _Facts:
    """Run `probe.py` there.

    Raises:
        VirtualDeviceError: it is no Python.
    """
    probe = (Path(__file__).parent / "probe.py").read_text(encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    try:
        done = subprocess.run(
            [interpreter, "-c", probe],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
        )
        # A sitecustomize of the user's may print before.
        return _Facts(**json.loads(done.stdout.splitlines()[-1]))
    except OSError as error:
        raise _no_interpreter(interpreter, error.strerror or str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise _no_interpreter(interpreter, "it does not answer") from error
    except (ValueError, IndexError, TypeError) as error:
        said = done.stderr.strip().splitlines() or ["it does not answer as one"]
        raise _no_interpreter(interpreter, said[-1].rstrip(".")) from error


def _no_interpreter(name: str, why: str) -> VirtualDeviceError:
    return VirtualDeviceError(
        f"{name} is not a Python interpreter: {why}.",
        hint="Name the python of the environment that will train.",
    )


def _versions(folder: Path, interpreter: str) -> tuple[str, str]:
    """Version and CUDA version of the torch in `folder`."""
    try:
        text = (folder / "version.py").read_text(encoding="utf-8")
    except OSError as error:
        raise VirtualDeviceError(
            f"The torch of {interpreter} is damaged: {error.strerror}.", hint=CUDA_TORCH
        ) from error
    values = dict(re.findall(r"^(\w+)\s*(?::[^=\n]*)?=\s*'([^'\n]*)'", text, re.M))
    torch = values.get("__version__", "of unknown version")
    if "cuda" not in values:
        kind = "a ROCm build" if "hip" in values else "built without CUDA"
        raise VirtualDeviceError(
            f"torch {torch} of {interpreter} is {kind}.", hint=CUDA_TORCH
        )
    if _release(torch) < OLDEST_TORCH:
        raise VirtualDeviceError(
            f"torch {torch} of {interpreter} is too old: rehearsing needs "
            f"{_dotted(OLDEST_TORCH)} or newer.",
            hint=f'pip install "torch>={_dotted(OLDEST_TORCH)}".',
        )
    cuda = values["cuda"]
    if not re.fullmatch(r"\d+\.\d+(\.\d+)*", cuda) or (
        int(cuda.split(".")[0]) not in CUDA_MAJORS
    ):
        raise VirtualDeviceError(
            f"torch {torch} of {interpreter} is built for CUDA {cuda}; the virtual "
            f"device plays CUDA {' and '.join(map(str, CUDA_MAJORS))}.",
            hint="Install a build for one of these.",
        )
    return torch, cuda


def _libraries(cuda_major: int, facts: _Facts, torch: str) -> tuple[RealLibrary, ...]:
    """The real libraries.

    Raises:
        VirtualDeviceError: some are not there.
    """
    found = [_real(library, cuda_major, facts) for library in LIBRARIES]
    missing = [
        real.soname
        for real in found
        if real.library.folder and not (real.path and real.version)
    ]
    if missing:
        raise VirtualDeviceError(
            f"NVIDIA's wheels beside torch {torch} lack {', '.join(missing)}.",
            hint="The virtual device needs torch as pip installs it, "
            "with the nvidia-* packages it requires.",
        )
    return tuple(found)


def _real(library: Library, cuda_major: int, facts: _Facts) -> RealLibrary:
    """The first library of that name on the path, with the version of its wheel."""
    soname = library.soname(cuda_major)
    for root in facts.roots:
        for folder in library.folders(cuda_major):
            path = Path(root, "nvidia", folder, "lib", soname)
            if path.is_file():
                version = _version_of(library, cuda_major, facts.distributions[root])
                return RealLibrary(
                    library=library, soname=soname, path=path, version=version
                )
    return RealLibrary(library=library, soname=soname, path=None, version=None)


def _version_of(
    library: Library, cuda_major: int, distributions: list[str]
) -> str | None:
    """From the name of the metadata folder: `nvidia_cudnn_cu13-9.24.0.43.dist-info`.

    Since CUDA 13 the wheels of the toolkit are named without the `_cu13`.
    """
    stem = f"nvidia_{library.folder}"
    versions = dict(
        name.removesuffix(".dist-info").split("-", 1) for name in distributions
    )
    plain = versions.get(stem) if cuda_major >= 13 else None
    return versions.get(f"{stem}_cu{cuda_major}", plain)


def _driver_header(cuda_major: int, facts: _Facts) -> Path | None:
    """`cuda.h` of the runtime's wheel, else of triton's."""
    places = [
        *(f"nvidia/{name}/include" for name in (f"cu{cuda_major}", "cuda_runtime")),
        "triton/backends/nvidia/include",
    ]
    headers = (Path(r, place, "cuda.h") for place in places for r in facts.roots)
    return next((path for path in headers if path.is_file()), None)


def _release(version: str) -> tuple[int, int]:
    """Major and minor: (2, 14)."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _dotted(release: tuple[int, int]) -> str:
    return ".".join(map(str, release))
