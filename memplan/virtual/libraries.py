"""Which libraries the virtual device plays, and where the real ones lie.

A library of the device carries the soname of the real one and is preloaded, so the real
one is never loaded. Names and versions come from the real one; the C is in `source/`.

What the C sources are told, as macros:

    VD_CUDA              12 or 13, the CUDA major version of the torch build
    VD_RUNTIME_VERSION   as cudaRuntimeGetVersion gives it: 13000
    VD_CUBLAS_VERSION    as cublasGetVersion gives it: 130101
    VD_CUDNN_VERSION     as cudnnGetVersion gives it: 92400
    VD_NCCL_VERSION      as ncclGetVersion gives it: 23007
    VD_CUSPARSE_VERSION, VD_CUSOLVER_VERSION, VD_CUFFT_VERSION, VD_CURAND_VERSION,
    VD_CUSPARSELT_VERSION
                         as the version function of each gives it: 12603
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE = Path(__file__).parent / "source"
CORE = "libcudart"
"""The library that holds the state of the device: the others are linked against it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """One library that the device plays."""

    name: str
    """Name of the file before `.so`."""

    stem: str
    """Its sources are `<stem>.c` and `<stem>_*.c`."""

    prefixes: tuple[str, ...]
    """What the names of its C interface begin with."""

    suffixes: "Mapping[int, str]"
    """What follows `.so.` in its soname, by CUDA major version."""

    folder: str | None
    """Its folder under `nvidia/` in the wheels, before CUDA 13 put the toolkit's in
    one. None: part of the driver, so in no wheel."""

    in_toolkit: bool = True
    """Whether CUDA 13 keeps it in `nvidia/cu13`."""

    version_macro: str | None = None
    version_weights: tuple[int, int, int] = (1000, 100, 1)
    """How its version number is made of major, minor and patch."""

    def soname(self, cuda_major: int) -> str:
        """`libcublas.so.13`."""
        return f"{self.name}.so.{self.suffixes[cuda_major]}"

    def folders(self, cuda_major: int) -> tuple[str, ...]:
        """Where under `nvidia/` the real one may lie, likeliest first."""
        if self.folder is None:
            return ()
        if self.in_toolkit and cuda_major >= 13:
            return (f"cu{cuda_major}", self.folder)
        return (self.folder,)

    def sources(self, folder: Path = SOURCE) -> tuple[Path, ...]:
        """The C files written for it; the device itself belongs to the core."""
        files = sorted(folder.glob("*.c"))
        if self.name == CORE:
            others = [lib.stem for lib in LIBRARIES if lib.name != CORE]
            return tuple(f for f in files if not any(_is_of(s, f) for s in others))
        return tuple(file for file in files if _is_of(self.stem, file))


def _is_of(stem: str, file: Path) -> bool:
    return file.stem == stem or file.stem.startswith(f"{stem}_")


LIBRARIES = (
    Library(
        name=CORE,
        stem="cudart",
        prefixes=("cuda", "__cuda"),
        suffixes={12: "12", 13: "13"},
        folder="cuda_runtime",
    ),
    Library(
        name="libcuda",
        stem="cuda",
        prefixes=("cu",),
        suffixes={12: "1", 13: "1"},
        folder=None,
    ),
    Library(
        name="libnvidia-ml",
        stem="nvml",
        prefixes=("nvml",),
        suffixes={12: "1", 13: "1"},
        folder=None,
    ),
    Library(
        name="libcublasLt",
        stem="cublaslt",
        prefixes=("cublasLt",),
        suffixes={12: "12", 13: "13"},
        folder="cublas",
    ),
    Library(
        name="libcublas",
        stem="cublas",
        prefixes=("cublas",),
        suffixes={12: "12", 13: "13"},
        folder="cublas",
        version_macro="VD_CUBLAS_VERSION",
        version_weights=(10000, 100, 1),
    ),
    Library(
        name="libcudnn",
        stem="cudnn",
        prefixes=("cudnn",),
        suffixes={12: "9", 13: "9"},
        folder="cudnn",
        in_toolkit=False,
        version_macro="VD_CUDNN_VERSION",
        version_weights=(10000, 100, 1),
    ),
    Library(
        name="libcusparse",
        stem="cusparse",
        prefixes=("cusparse",),
        suffixes={12: "12", 13: "12"},
        folder="cusparse",
        version_macro="VD_CUSPARSE_VERSION",
    ),
    Library(
        name="libcusolver",
        stem="cusolver",
        prefixes=("cusolver",),
        suffixes={12: "11", 13: "12"},
        folder="cusolver",
        version_macro="VD_CUSOLVER_VERSION",
    ),
    Library(
        name="libcufft",
        stem="cufft",
        prefixes=("cufft",),
        suffixes={12: "11", 13: "12"},
        folder="cufft",
        version_macro="VD_CUFFT_VERSION",
    ),
    Library(
        name="libcurand",
        stem="curand",
        prefixes=("curand",),
        suffixes={12: "10", 13: "10"},
        folder="curand",
        version_macro="VD_CURAND_VERSION",
    ),
    Library(
        name="libcusparseLt",
        stem="cusparselt",
        prefixes=("cusparseLt",),
        suffixes={12: "0", 13: "0"},
        folder="cusparselt",
        in_toolkit=False,
        version_macro="VD_CUSPARSELT_VERSION",
    ),
    Library(
        name="libcupti",
        stem="cupti",
        prefixes=("cupti",),
        suffixes={12: "12", 13: "13"},
        folder="cuda_cupti",
    ),
    Library(
        name="libcufile",
        stem="cufile",
        prefixes=("cuFile",),
        suffixes={12: "0", 13: "0"},
        folder="cufile",
    ),
    Library(
        name="libnccl",
        stem="nccl",
        prefixes=("nccl", "pnccl"),
        suffixes={12: "2", 13: "2"},
        folder="nccl",
        in_toolkit=False,
        version_macro="VD_NCCL_VERSION",
        version_weights=(10000, 100, 1),
    ),
)
"""In the order of preloading: a library after those it is linked against."""

CUDA_MAJORS = (12, 13)
