"""The libraries of a device, built with a real compiler from sources that are quick.

The environment with torch is a small imitation, so these tests need no torch.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import layout
import pytest

from memplan.errors import VirtualDeviceError
from memplan.virtual import build, compiler
from memplan.virtual.build import built, key_of
from memplan.virtual.libraries import LIBRARIES
from memplan.virtual.wheels import find_torch

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or not sys.platform.startswith("linux"),
    reason="needs cc and Linux",
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return layout.compile_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def world(tmp_path, template, monkeypatch):
    """A folder with `python`, `site`, `source` and, once built, `cache`."""
    monkeypatch.setenv("MEMPLAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    site = tmp_path / "site"
    layout.write_torch(site)
    layout.write_wheels(site, template)
    layout.write_sources(tmp_path / "source")
    layout.write_interpreter(tmp_path / "python", site)
    return tmp_path


def torch_of(world):
    return find_torch(str(world / "python"))


def build_in(world):
    return built(torch_of(world), world / "source")


def kept_in(world):
    """Names in the cache."""
    folders = (world / "cache" / "virtual").iterdir()
    return [path.name for path in folders if path.name != ".lock"]


def test_every_library_is_there_under_its_soname(world):
    kept = build_in(world)
    assert not kept.warnings
    found = {path.name for path in kept.folder.glob("*.so.*")}
    assert found == {library.soname(12) for library in LIBRARIES}
    assert not (kept.folder / "work").exists()


def test_it_is_said_when_it_takes_a_while_and_only_then(world):
    said = []
    for _ in range(2):
        built(torch_of(world), world / "source", say=said.append)
    [line] = said
    assert line.startswith("Building the virtual card for torch ")


# In a process of its own: a library that is loaded once is not loaded again.
CALLS = """
    import ctypes, sys
    core = ctypes.CDLL(sys.argv[1] + "/libcudart.so.12", ctypes.RTLD_GLOBAL)
    nccl = ctypes.CDLL(sys.argv[1] + "/libnccl.so.2")
    number = ctypes.c_int()
    core.cudaRuntimeGetVersion(ctypes.byref(number))
    print(number.value)
    nccl.ncclGetVersion(ctypes.byref(number))
    print(number.value)
    print(core.cudaMalloc(None, 1), hasattr(core, "unrelated"), hasattr(core, "helper"))
    print(ctypes.CDLL(sys.argv[1] + "/libcuda.so.1").cuMemAlloc_v2(None, 1))
    size = ctypes.c_size_t(7)
    fft = ctypes.CDLL(sys.argv[1] + "/libcufft.so.11")
    print(fft.cufftGetSize(1, ctypes.byref(size)), size.value)
"""


def test_written_functions_are_taken_and_the_others_return_0(world):
    kept = build_in(world)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CALLS), kept.folder],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "12090",
        "23007",
        "0 False False",
        "0",
        "0 0",
    ]


def test_symbols_have_the_version_of_the_real_library(world):
    from elftools.elf.elffile import ELFFile

    with (build_in(world).folder / "libcudart.so.12").open("rb") as file:
        section = ELFFile(file).get_section_by_name(".gnu.version_d")
        names = [next(names).name for _, names in section.iter_versions()]
    assert names == ["libcudart.so.12", "libreal.so.1"]


def test_nvidia_smi_runs_with_the_interpreter_that_runs_memplan(world, tmp_path):
    smi = tmp_path / "smi.py"
    smi.write_text("import sys; print('smi', *sys.argv[1:], sys.flags.isolated)")
    done = subprocess.run(
        ["nvidia-smi", "-L"],
        env={
            "PATH": f"{build_in(world).folder / 'bin'}:{os.environ['PATH']}",
            "MEMPLAN_PYTHON": sys.executable,
            "MEMPLAN_SMI": str(smi),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "smi -L 1\n"


def test_the_key_does_not_depend_on_where_things_lie(world, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("site", "source"):
        shutil.copytree(world / name, elsewhere / name)
    layout.write_interpreter(elsewhere / "python", elsewhere / "site")
    assert key_of(torch_of(world), world / "source") == key_of(
        torch_of(elsewhere), elsewhere / "source"
    )


@pytest.mark.parametrize("change", ["source", "version", "size", "header", "generator"])
def test_the_key_changes_with_what_the_libraries_are_made_of(
    world, change, monkeypatch
):
    before = key_of(torch_of(world), world / "source")
    site = world / "site"
    match change:
        case "source":
            with (world / "source" / "cudart.c").open("a") as file:
                file.write("\n")
        case "version":
            name = "nvidia_cudnn_cu12-{}.dist-info"
            (site / name.format("9.24.0.43")).rename(site / name.format("9.25.0.1"))
        case "size":
            with (site / "nvidia/nccl/lib/libnccl.so.2").open("ab") as file:
                file.write(b"\0")
        case "header":
            with (site / "nvidia/cuda_runtime/include/cuda.h").open("a") as file:
                file.write("\n")
        case "generator":
            monkeypatch.setattr(build, "GENERATOR", (*build.GENERATOR, "card"))
    assert key_of(torch_of(world), world / "source") != before


def test_a_truncated_library_is_built_anew(world):
    library = build_in(world).folder / "libcublas.so.12"
    size = library.stat().st_size
    os.truncate(library, size // 2)
    assert build_in(world).folder / "libcublas.so.12" == library
    assert library.stat().st_size == size
    ctypes.CDLL(library.with_name("libcudart.so.12"))


def test_a_failing_compiler_is_told_and_leaves_nothing(world):
    (world / "source" / "nccl.c").write_text("int broken(\n")
    with pytest.raises(VirtualDeviceError, match=r"cc could not build .*error: "):
        build_in(world)
    assert kept_in(world) == []


def test_a_call_of_what_nobody_defines_is_told(world):
    (world / "source" / "nccl.c").write_text(
        "int vd_absent(void);\nint ncclGetVersion(void) { return vd_absent(); }\n"
    )
    with pytest.raises(VirtualDeviceError, match="vd_absent"):
        build_in(world)


def test_no_compiler_is_told_before_anything_is_left(world, monkeypatch):
    monkeypatch.setattr(compiler, "NAMES", ())
    monkeypatch.setattr(compiler, "find_spec", lambda name: None)
    with pytest.raises(VirtualDeviceError, match="no C compiler"):
        build_in(world)
    assert kept_in(world) == []


def test_once_built_no_compiler_is_needed(world, monkeypatch):
    before = build_in(world)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build_in(world) == before


@pytest.mark.slow
def test_the_wheel_compiles_too(world, monkeypatch):
    pytest.importorskip("ziglang")
    monkeypatch.setattr(compiler, "NAMES", ())
    test_written_functions_are_taken_and_the_others_return_0(world)


BUILD = """
    import sys
    from pathlib import Path
    from memplan.virtual.build import built
    from memplan.virtual.wheels import find_torch
    print(built(find_torch(sys.argv[1]), Path(sys.argv[2])).folder)
"""


def start(world, **variables):
    """Build in a process of its own, which leads a group."""
    command = [sys.executable, "-c", textwrap.dedent(BUILD)]
    return subprocess.Popen(
        [*command, str(world / "python"), str(world / "source")],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_build_that_is_killed_as_it_compiles_does_no_harm(world):
    slow = world / "slow-cc"
    slow.write_text(f'#!/bin/sh\ntouch {world}/compiling\nsleep 60\nexec cc "$@"\n')
    slow.chmod(0o755)
    process = start(world, CC=str(slow))
    deadline = time.monotonic() + 30
    while not (world / "compiling").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    process.stdout.close()
    (left,) = kept_in(world)
    assert left.startswith(".building-")
    kept = build_in(world)
    os.killpg(process.pid, signal.SIGKILL)  # the compilers it had started
    assert kept_in(world) == [kept.folder.name]
    assert not kept.warnings


@pytest.mark.slow
def test_twenty_processes_build_once_and_all_succeed(world):
    count = world / "count-cc"
    count.write_text(f'#!/bin/sh\necho >> {world}/calls\nexec cc "$@"\n')
    count.chmod(0o755)
    processes = [start(world, CC=str(count)) for _ in range(20)]
    folders = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 20
    (folder,) = folders
    assert kept_in(world) == [os.path.basename(folder)]
    # One source and one file of defaults to compile, and one link, at the most.
    calls = (world / "calls").read_text().count("\n")
    assert calls <= 3 * len(LIBRARIES)
