"""Folders that look like an environment with torch and NVIDIA's wheels, but small."""

import shutil
import subprocess
import sys
from pathlib import Path

from memplan.virtual.libraries import LIBRARIES

VERSIONS = {
    "cuda_runtime": "12.9.79",
    "cublas": "12.9.3.13",
    "cudnn": "9.24.0.43",
    "cusparse": "12.5.10.65",
    "cusolver": "11.7.5.82",
    "cufft": "11.4.1.4",
    "curand": "10.3.10.19",
    "cusparselt": "0.8.1",
    "cuda_cupti": "12.9.79",
    "cufile": "1.14.1.1",
    "nccl": "2.30.7",
}
"""By the folder of a CUDA 12 wheel."""

FAKE_CORE = """
#include "device.h"
#include <string.h>
void vd_fill(void *to, int byte, size_t bytes) { memset(to, byte, bytes); }
void vd_compute_on(void *stream) { (void)stream; }
long vd_default(const char *function, int compute) { return function && compute < 0; }
int cudaRuntimeGetVersion(int *version) { *version = VD_RUNTIME_VERSION; return 0; }
"""
FAKE_NCCL = """
int ncclGetVersion(int *version) { *version = VD_NCCL_VERSION; return 0; }
"""


def write_torch(site, version="2.14.1+cu129", cuda="'12.9'", hip="None"):
    """A package `torch` that nothing can import, but everything can find."""
    folder = site / "torch"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('torch was imported')\n")
    (folder / "version.py").write_text(
        f"from typing import Optional\n__version__ = {version!r}\ndebug = False\n"
        f"cuda: Optional[str] = {cuda}\nhip: Optional[str] = {hip}\n"
    )


def write_wheels(site, template, without=()):
    """NVIDIA's CUDA 12 wheels, each library a copy of the shared object `template`."""
    for library in LIBRARIES:
        if library.folder is None or library.name in without:
            continue
        folder = site / "nvidia" / library.folder / "lib"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(template, folder / library.soname(12))
        version = VERSIONS[library.folder]
        name = f"nvidia_{library.folder}_cu12-{version}.dist-info"
        (site / name).mkdir(exist_ok=True)
    include = site / "nvidia" / "cuda_runtime" / "include"
    include.mkdir(parents=True, exist_ok=True)
    (include / "cuda.h").write_text(
        "#define cuMemAlloc cuMemAlloc_v2\n"
        "CUresult CUDAAPI cuInit(unsigned int Flags);\n"
        "CUresult CUDAAPI cuMemAlloc(CUdeviceptr *dptr, size_t bytesize);\n"
    )


def compile_template(folder):
    """A shared object with a few functions of each library, all of one version."""
    source = folder / "template.c"
    names = [
        *("cudaRuntimeGetVersion", "cudaMalloc", "__cudaInitModule", "cublasSgemm_v2"),
        *("cudnnCreate", "ncclGetVersion", "cufftGetSize", "unrelated"),
    ]
    source.write_text("".join(f"int {n}(void) {{ return 7; }}\n" for n in names))
    (folder / "template.map").write_text("libreal.so.1 { global: *; };\n")
    library = folder / "template.so"
    command = ["cc", "-shared", "-fPIC", source, "-o", library]
    script = f"-Wl,--version-script={folder / 'template.map'}"
    subprocess.run([*command, script], check=True)
    return library


def write_sources(folder):
    """Sources of a device that knows its version alone; quick to build."""
    source = Path(sys.modules["memplan.virtual"].__file__).parent / "source"
    folder.mkdir()
    shutil.copy(source / "device.h", folder)
    (folder / "cudart.c").write_text(FAKE_CORE)
    (folder / "nccl.c").write_text(FAKE_NCCL)
    return folder


def write_interpreter(path, site):
    """An interpreter that finds `site` first, and no other site-packages."""
    path.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} -S "$@"\n')
    path.chmod(0o755)
    return str(path)
