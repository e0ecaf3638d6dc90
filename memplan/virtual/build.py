"""Build the libraries of the virtual device for one build of torch.

Each library is made of the C written for it and of a default for every other function
that the real one exports. Defaults are weak symbols: the linker takes the written
function where there is one.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from memplan.virtual.cache import Kept, cache_folder, is_intact, keep
from memplan.virtual.compiler import Compiler, find_compiler
from memplan.virtual.defaults import classify
from memplan.virtual.exports import Exports, driver_functions, exports_of
from memplan.virtual.libraries import CORE, SOURCE, Library
from memplan.virtual.wheels import RealLibrary, TorchBuild

FLAGS = ("-std=c11", "-O2", "-fPIC", "-Wall", "-fno-sanitize=undefined")
"""The last one for zig, which adds the sanitizer of its own accord."""

SHARED_PREFIXES = ("vd_",)
"""What the libraries of the device ask of each other, beside NVIDIA's interface."""

NVIDIA_SMI = """#!/bin/sh
# The interpreter that runs memplan, apart from what the program has on its paths.
exec "$MEMPLAN_PYTHON" -I "$MEMPLAN_SMI" "$@"
"""


def built(build: TorchBuild, source: Path = SOURCE) -> Kept:
    """The folder of the libraries for `build`, built where they are not yet.

    Raises:
        VirtualDeviceError: there is no compiler, or it fails.
    """

    def make(folder: Path) -> None:
        _build(build, find_compiler(), source, folder)

    return keep(key_of(build, source), make)


def is_built(build: TorchBuild) -> bool:
    """Whether the libraries for `build` are in the cache."""
    return is_intact(cache_folder() / key_of(build))


def key_of(build: TorchBuild, source: Path = SOURCE) -> str:
    """A name for what the libraries are made of, the same wherever that lies.

    The compiler has no part in it: any builds the same device.
    """
    content = hashlib.sha256(f"{build.cuda} {build.machine}".encode())
    for real in build.libraries:
        content.update(real.identity.encode())
    if build.driver_header:
        content.update(build.driver_header.read_bytes())
    generator = (Path(__file__).parent / f"{name}.py" for name in GENERATOR)
    for path in [*generator, *sorted(source.glob("*.[ch]"))]:
        content.update(path.name.encode() + path.read_bytes())
    return content.hexdigest()[:24]


GENERATOR = ("build", "defaults", "exports", "libraries")
"""The modules that decide what is generated and how it is compiled."""


def _build(build: TorchBuild, compiler: Compiler, source: Path, folder: Path) -> None:
    """Build every library into `folder`."""
    work = folder / "work"
    work.mkdir()

    def make(real: RealLibrary, linked: Iterable[Path] = ()) -> None:
        _build_library(build, real, compiler, source, work, list(linked))
        os.rename(work / real.soname, folder / real.soname)

    core = build.real(CORE)
    make(core)
    others = [real for real in build.libraries if real is not core]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # list: an exception is raised where its result is asked for
        list(pool.map(lambda real: make(real, [folder / core.soname]), others))
    _write_nvidia_smi(folder / "bin")
    shutil.rmtree(work)


def _build_library(
    build: TorchBuild,
    real: RealLibrary,
    compiler: Compiler,
    source: Path,
    work: Path,
    linked: list[Path],
) -> None:
    """Compile and link one library as `work`/its soname."""
    library, exports = real.library, _exports(build, real)
    defaults = work / f"{library.stem}.defaults.c"
    defaults.write_text(_defaults(library.name, exports.functions), encoding="utf-8")
    script = work / f"{library.stem}.map"
    script.write_text(_version_script(library, exports.version), encoding="utf-8")
    arguments = [*FLAGS, *_macros(build), f"-I{source}", "-shared", "-pthread"]
    arguments += ["-o", str(work / real.soname)]
    arguments += [str(path) for path in library.sources(source)]
    arguments += [str(defaults), *map(str, linked), "-ldl", "-lm"]
    arguments += [
        f"-Wl,-soname,{real.soname}",
        f"-Wl,--version-script={script}",
        "-Wl,-rpath,$ORIGIN",
    ]
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
    return "\n".join(
        [
            f"/* Generated: what of {library} is not written by hand. */",
            "long vd_default(const char *function, int compute);",
            "#define DEFAULT(function, compute) \\",
            "  __attribute__((weak)) long function(void) \\",
            "  { return vd_default(#function, compute); }",
            *(f"DEFAULT({name}, {int(classify(library, name))})" for name in functions),
            "",
        ]
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
