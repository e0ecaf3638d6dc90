"""The runtime and driver of the virtual device by themselves: no torch, no wheels.

They are compiled as strictly as the compiler can, and called through ctypes in a
process of their own.
"""

import os
import subprocess
import sys
import textwrap

from memplan.virtual.compiler import find_compiler
from memplan.virtual.libraries import LIBRARIES

STRICT = ("-std=c11", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror", "-shared")
MIB = 2**20
CARD = {
    "name": "Test card",
    "count": 1,
    "total_bytes": 8 * 2**30,
    "context_bytes": 500 * MIB,
    "compute_capability": 90,
    "num_sms": 132,
    "threads_per_sm": 2048,
    "blocks_per_sm": 32,
    "shared_per_sm": 233472,
    "shared_optin": 232448,
    "shared_reserved": 1024,
    "l2_bytes": 52428800,
    "clock_khz": 1980000,
    "memory_clock_khz": 2619000,
    "bus_bits": 5120,
    "copy_engines": 3,
}

PRELUDE = """
import ctypes, os, sys
from ctypes import byref, c_char, c_float, c_int, c_size_t, c_uint, c_ulonglong
from ctypes import c_void_p

cuda = ctypes.CDLL({cuda!r}, ctypes.RTLD_GLOBAL)
driver = ctypes.CDLL({driver!r})
MiB = 2**20

def malloc(size):
    pointer = c_void_p()
    error = cuda.cudaMalloc(byref(pointer), c_size_t(size))
    assert error == 0, error
    return pointer.value

def free(pointer):
    assert cuda.cudaFree(c_void_p(pointer)) == 0

def used():
    free, total = c_size_t(), c_size_t()
    assert cuda.cudaMemGetInfo(byref(free), byref(total)) == 0
    return total.value - free.value

def write(pointer, data):
    assert cuda.cudaMemcpy(c_void_p(pointer), bytes(data), c_size_t(len(data)), 1) == 0

def read(pointer, size):
    data = ctypes.create_string_buffer(b"?" * size, size)
    assert cuda.cudaMemcpy(data, c_void_p(pointer), c_size_t(size), 2) == 0
    return data.raw

def copy(to, start, size):
    assert cuda.cudaMemcpy(c_void_p(to), c_void_p(start), c_size_t(size), 3) == 0

def fill(pointer, byte, size):
    assert cuda.cudaMemset(c_void_p(pointer), byte, c_size_t(size)) == 0

def new(create, *arguments):
    handle = c_void_p()
    error = create(byref(handle), *arguments)
    assert error == 0, error
    return handle
"""


def compile_bare(folder, cuda_major):
    """Compile both in `folder`; their paths."""
    compiler = find_compiler()
    macros = [f"-DVD_CUDA={cuda_major}", f"-DVD_RUNTIME_VERSION={cuda_major}000"]
    paths = {}
    for name in ("libcudart", "libcuda"):
        library = next(lib for lib in LIBRARIES if lib.name == name)
        needed = list(paths.values())
        sources = map(str, library.sources())
        options = ["-pthread", "-Wl,-rpath,$ORIGIN", "-ldl"]
        paths[name] = str(folder / library.soname(cuda_major))
        output = ["-o", paths[name], f"-Wl,-soname,{library.soname(cuda_major)}"]
        compiler.run([*STRICT, *macros, *sources, *needed, *output, *options], folder)
    return paths


def describe(**changes):
    """The value of MEMPLAN_DEVICE for the card, with changes."""
    card = {key: value for key, value in (CARD | changes).items() if value is not None}
    return ";".join(f"{key}={value}" for key, value in card.items())


def run(paths, *codes, variables=(), fails=False, before=None, **changes):
    """What `codes` printed one after another, with what `PRELUDE` defines at hand."""
    prelude = PRELUDE.format(cuda=paths["libcudart"], driver=paths["libcuda"])
    environment = {**os.environ, "MEMPLAN_DEVICE": describe(**changes)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    environment |= dict(variables)
    done = subprocess.run(
        [sys.executable, "-c", prelude + "".join(map(textwrap.dedent, codes))],
        env={key: value for key, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=before,
    )
    if fails:
        return done
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
