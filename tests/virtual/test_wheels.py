"""Which torch an interpreter has, told without importing it."""

import platform
import sys
from types import SimpleNamespace

import layout
import pytest

from memplan.errors import VirtualDeviceError
from memplan.virtual import wheels
from memplan.virtual.wheels import find_torch


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


@pytest.fixture
def python(tmp_path, site):
    return layout.write_interpreter(tmp_path / "python", site)


@pytest.fixture
def template(tmp_path):
    """Stands for a library where its content does not matter."""
    path = tmp_path / "template.so"
    path.write_bytes(b"not read")
    return path


def refused(python):
    with pytest.raises(VirtualDeviceError) as caught:
        find_torch(python)
    return caught.value


def test_versions_and_libraries_are_found_and_torch_is_not_imported(
    python, site, template
):
    layout.write_torch(site)
    layout.write_wheels(site, template)
    build = find_torch(python)
    assert (build.torch, build.cuda) == ("2.14.1+cu129", "12.9")
    assert (build.cuda_major, build.runtime_version) == (12, 12090)
    assert build.python == platform.python_version()
    assert build.real("libcudnn").version == "9.24.0.43"
    assert build.real("libcusolver").soname == "libcusolver.so.11"
    assert build.real("libnccl").path == site / "nvidia/nccl/lib/libnccl.so.2"
    assert build.real("libcuda").path is None
    assert build.driver_header == site / "nvidia/cuda_runtime/include/cuda.h"
    assert not build.assumptions


def test_a_version_is_of_the_wheel_of_the_same_cuda(python, site, template):
    layout.write_torch(site)
    layout.write_wheels(site, template)
    (site / "nvidia_cublas-13.1.1.3.dist-info").mkdir()
    (site / "nvidia_cudnn_cu13-9.99.0.1.dist-info").mkdir()
    build = find_torch(python)
    assert build.real("libcublas").version == "12.9.3.13"
    assert build.real("libcudnn").version == "9.24.0.43"


def test_no_torch(python):
    error = refused(python)
    assert error.message == f"{python} has no torch."
    assert "pip install torch" in error.hint


def test_a_torch_in_the_working_folder_is_not_the_interpreters(
    python, tmp_path, monkeypatch
):
    layout.write_torch(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "has no torch" in refused(python).message


@pytest.mark.parametrize(
    ("version", "cuda", "hip", "said"),
    [
        ("2.14.1+cpu", "None", "None", "is built without CUDA"),
        ("2.14.1+rocm7.0", "None", "'7.0'", "is a ROCm build"),
        ("2.10.0+cu128", "'12.8'", "None", "is too old"),
        ("2.11.0+cu118", "'11.8'", "None", "is built for CUDA 11.8"),
        ("3.0.0+cu140", "'14.0'", "None", "is built for CUDA 14.0"),
    ],
)
def test_a_torch_that_cannot_be_rehearsed(python, site, version, cuda, hip, said):
    layout.write_torch(site, version, cuda, hip)
    error = refused(python)
    assert f"torch {version} of {python} {said}" in error.message
    assert error.hint


def test_a_torch_newer_than_any_tried_is_allowed_and_said(python, site, template):
    layout.write_torch(site, "2.15.0+cu129")
    layout.write_wheels(site, template)
    (said,) = find_torch(python).assumptions
    assert "torch 2.15.0+cu129 is newer than 2.14" in said


def test_a_damaged_torch(python, site):
    layout.write_torch(site)
    (site / "torch" / "version.py").unlink()
    assert "is damaged" in refused(python).message


def test_libraries_that_are_missing_are_named(python, site, template):
    layout.write_torch(site)
    layout.write_wheels(site, template, without=("libnccl", "libcufft"))
    assert "lack libcufft.so.11, libnccl.so.2." in refused(python).message


def test_a_library_without_metadata_is_missing(python, site, template):
    layout.write_torch(site)
    layout.write_wheels(site, template)
    (site / "nvidia_cudnn_cu12-9.24.0.43.dist-info").rmdir()
    assert "lack libcudnn.so.9." in refused(python).message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\nexit 0\n", "it does not answer as one"),
        ("#!/bin/sh\necho '[]'\n", "it does not answer as one"),
        ("#!/bin/sh\necho bad option >&2; exit 2\n", "bad option"),
        ("no program at all\n", "Exec format error"),
    ],
)
def test_a_program_that_is_no_interpreter(tmp_path, text, said):
    program = tmp_path / "program"
    program.write_text(text)
    program.chmod(0o755)
    error = refused(str(program))
    assert error.message == f"{program} is not a Python interpreter: {said}."


def test_a_path_that_is_no_program(tmp_path):
    assert "No such file" in refused(str(tmp_path / "python")).message
    assert "Permission denied" in refused(str(tmp_path)).message


def test_an_interpreter_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "PROBE_TIMEOUT_S", 0.2)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 20\n")
    program.chmod(0o755)
    assert "it does not answer" in refused(str(program)).message


def test_what_a_sitecustomize_prints_does_not_matter(python, site, template):
    layout.write_torch(site)
    layout.write_wheels(site, template)
    # -S leaves the import of site to us
    noisy = site.parent / "noisy"
    noisy.write_text(f'#!/bin/sh\necho welcome\nexec {python} "$@"\n')
    noisy.chmod(0o755)
    assert find_torch(str(noisy)).torch == "2.14.1+cu129"


@pytest.mark.parametrize(
    ("name", "said"), [("darwin", "macOS"), ("win32", "Windows"), ("aix", "aix")]
)
def test_another_system(monkeypatch, name, said):
    monkeypatch.setattr(sys, "platform", name)
    error = refused(None)
    assert error.message == f"Rehearsing needs Linux, and this is {said}."
    assert "memplan estimate" in error.hint


def answer(monkeypatch, **facts):
    """Let every interpreter give these facts."""
    import json

    facts = {
        "python": "3.11.0",
        "machine": "x86_64",
        "is_64_bit": True,
        "torch": None,
        "roots": [],
        "distributions": {},
        **facts,
    }
    done = SimpleNamespace(stdout=json.dumps(facts), stderr="")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: done)


@pytest.mark.parametrize(
    "facts", [{"machine": "ppc64le"}, {"machine": "x86_64", "is_64_bit": False}]
)
def test_another_processor(monkeypatch, facts):
    answer(monkeypatch, **facts)
    error = refused(None)
    assert "64-bit Linux on x86_64 or aarch64" in error.message


def test_arm_is_allowed_and_said(monkeypatch, site, template):
    layout.write_torch(site)
    layout.write_wheels(site, template)
    answer(
        monkeypatch,
        machine="aarch64",
        torch=str(site / "torch"),
        roots=[str(site)],
        distributions={str(site): [path.name for path in site.glob("*.dist-info")]},
    )
    assert find_torch().assumptions == ("the virtual device was not tried on aarch64",)
