"""Make the libraries of the virtual device: generate, compile, link.

Each library is made of the C written for it and of a default for every other function
that the real one exports. Defaults are weak symbols: the linker takes the written
function where there is one.
"""

import os
import shutil
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from memplan.virtual.compiler import Compiler, find_compiler
from memplan.virtual.defaults import Default, Kind, classify
from memplan.virtual.exports import Exports, driver_functions, exports_of
from memplan.virtual.libraries import CORE, Library
from memplan.virtual.wheels import RealLibrary, TorchBuild

FLAGS = ("-std=c11", "-fPIC", "-Wall", "-fno-sanitize=undefined")
"""The last one for zig, which adds the sanitizer of its own accord."""

SHARED_PREFIXES = ("vd_", "_ZN3c10")  # blocks.c answers a function of PyTorch
"""What the libraries of the device ask of each other, beside NVIDIA's interface."""

NVIDIA_SMI = """#!/bin/sh
# The interpreter that runs memplan, apart from what the program has on its paths.
exec "$MEMPLAN_PYTHON" -I "$MEMPLAN_SMI" "$@"
"""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a library is linked from."""

    real: RealLibrary
    sources: list[Path]
    version_script: Path

    @property
    def objects(self) -> list[str]:
        """Beside the version script, named after library and source."""
        folder, stem = self.version_script.parent, self.real.library.stem
        return [str(folder / f"{stem}.{path.stem}.o") for path in self.sources]


def generate(build: TorchBuild, source: Path, folder: Path) -> None:
    """Make every library of `build`, and `bin/nvidia-smi`, in `folder`.

    Raises:
        VirtualDeviceError: there is no compiler, or it fails.
    """
    compiler = find_compiler()
    work = folder / "work"
    work.mkdir()
    parts = [_write_parts(build, real, source, work) for real in build.libraries]
    flags = [*FLAGS, *_macros(build), f"-I{source}"]

    def compile_(item: tuple[Path, str]) -> None:
        path, compiled = item
        # Thousands of defaults of one line each: optimizing them takes seconds.
        level = "-O0" if path.parent == work else "-O2"
        compiler.run([*flags, level, "-c", str(path), "-o", compiled], work)

    def link(part: _Parts) -> None:
        needed = [] if part.real.library.name == CORE else [folder / core.soname]
        _link(compiler, part, needed, folder, work)

    core = build.real(CORE)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # list: an exception is raised where its result is asked for
        items = [i for p in parts for i in zip(p.sources, p.objects, strict=True)]
        list(pool.map(compile_, items))
        link(next(part for part in parts if part.real is core))
        list(pool.map(link, (part for part in parts if part.real is not core)))
    _write_nvidia_smi(folder / "bin")
    shutil.rmtree(work)


def _write_parts(
    build: TorchBuild, real: RealLibrary, source: Path, work: Path
) -> _Parts:
    """Generate what is not written by hand."""
    library, exports = real.library, _exports(build, real)
    defaults = work / f"{library.stem}_defaults.c"
    defaults.write_text(_defaults(library.name, exports.functions), encoding="utf-8")
    script = work / f"{library.stem}.map"
    script.write_text(_version_script(library, exports.version), encoding="utf-8")
    return _Parts(real, [*library.sources(source), defaults], script)


def _link(
    compiler: Compiler, part: _Parts, needed: list[Path], folder: Path, work: Path
) -> None:
    """Link one library as `folder`/its soname."""
    soname = part.real.soname
    # With all flags: zig builds its runtime, sanitizer included, as it links.
    arguments = [*FLAGS, "-O2", "-shared", "-pthread", "-o", str(folder / soname)]
    arguments += part.objects
    arguments += [*map(str, needed), "-ldl", "-lm", f"-Wl,-soname,{soname}"]
    arguments += [f"-Wl,--version-script={part.version_script}", "-Wl,-rpath,$ORIGIN"]
    arguments += ["-Wl,-z,defs"]  # fail here, not in the program
    compiler.run(arguments, work)


def _exports(build: TorchBuild, real: RealLibrary) -> Exports:
    """What the real library exports; of the driver, what its header declares."""
    if real.path is not None:
        return exports_of(real.path, real.library.prefixes)
    if real.library.name == "libcuda" and build.driver_header is not None:
        header = build.driver_header.read_text(encoding="utf-8", errors="replace")
        return Exports(driver_functions(header), None)
    return Exports((), None)


def _defaults(library: str, functions: Iterable[str]) -> str:
    """C for the functions that nobody wrote by hand."""
    title = f"/* Generated: what of {library} is not written by hand. */"
    definitions = (_default(name, classify(library, name)) for name in functions)
    return "\n".join([title, DEFAULTS, *definitions, ""])


DEFAULTS = """#include <stdlib.h>

long vd_default(const char *function, int compute);
void vd_compute_on(void *stream);
void vd_fill(void *to, int byte, size_t bytes); /* on the host or the device */

/* Longer than any handle that a program may look into. */
#define OBJECT_BYTES 1024
#define WEAK __attribute__((weak))
#define COMPUTE(function) \\
  WEAK long function(void) { return vd_default(#function, 1); }
#define LAUNCH(function) \\
  WEAK long function(void **handle) { \\
    vd_compute_on(*handle); \\
    return vd_default(#function, 1); \\
  }
#define UNSUPPORTED(function) \\
  WEAK long function(void) { return vd_default(#function, 0); }
#define CREATE(function) \\
  WEAK long function(void **object) { \\
    *object = calloc(1, OBJECT_BYTES); \\
    return vd_default(#function, 1); \\
  }
#define DESTROY(function) \\
  WEAK long function(void *object) { \\
    free(object); \\
    return vd_default(#function, 1); \\
  }
"""


def _default(function: str, default: Default) -> str:
    """One definition.

    Arguments are declared as pointers up to the last that is answered: whole numbers
    take the places of pointers in the calling conventions of x86-64 and aarch64, and
    floating ones take none.
    """
    if not default.zeros:
        return f"{default.kind.name}({function})"
    last = max(position for position, _ in default.zeros)
    parameters = ", ".join(f"void *a{number}" for number in range(1, last + 1))
    answers = "".join(
        f"  if (a{position})\n    vd_fill(a{position}, 0, {num_bytes});\n"
        for position, num_bytes in default.zeros
    )
    compute = int(default.kind is Kind.COMPUTE)
    return (
        f"WEAK long {function}({parameters})\n{{\n{answers}"
        f'  return vd_default("{function}", {compute});\n}}'
    )


def _version_script(library: Library, version: str | None) -> str:
    """Export the interface alone, bound to the version node of the real library."""
    names = "".join(f" {p}*;" for p in (*library.prefixes, *SHARED_PREFIXES))
    return f"{version or ''} {{ global:{names} local: *; }};\n"


def _macros(build: TorchBuild) -> list[str]:
    """What the sources are told: see `libraries.py`."""
    macros = [
        f"-DVD_CUDA={build.cuda_major}",
        f"-DVD_RUNTIME_VERSION={build.runtime_version}",
    ]
    for real in build.libraries:
        if real.library.version_macro and real.version:
            numbers = [int(part) for part in real.version.split(".")[:3]]
            weighted = zip(numbers, real.library.version_weights, strict=False)
            number = sum(part * weight for part, weight in weighted)
            macros.append(f"-D{real.library.version_macro}={number}")
    return macros


def _write_nvidia_smi(folder: Path) -> None:
    folder.mkdir()
    script = folder / "nvidia-smi"
    script.write_text(NVIDIA_SMI, encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
