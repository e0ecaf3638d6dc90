"""Which C compiler is taken, and what is said when it fails."""

import errno
import os
import sys

import pytest

from memplan.errors import VirtualDeviceError
from memplan.virtual import compiler
from memplan.virtual.compiler import Compiler, find_compiler


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A PATH with the programs that are written to it, and no CC."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)

    def write(name, text="exit 0"):
        program = folder / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        return str(program)

    return write


def test_cc_comes_before_gcc_and_clang(tools):
    tools("clang")
    assert find_compiler().command == ("clang",)
    tools("gcc")
    assert find_compiler().command == ("gcc",)
    tools("cc")
    assert find_compiler().command == ("cc",)


def test_the_users_choice_comes_first(tools, monkeypatch):
    tools("cc")
    tools("my-cc")
    monkeypatch.setenv("CC", "my-cc -m64")
    assert find_compiler().command == ("my-cc", "-m64")


def test_a_choice_that_is_not_there_is_an_error(tools, monkeypatch):
    tools("cc")
    monkeypatch.setenv("CC", "icc")
    with pytest.raises(VirtualDeviceError, match="CC names the C compiler 'icc'"):
        find_compiler()


def test_the_wheel_stands_in_for_a_missing_compiler(tools):
    pytest.importorskip("ziglang")
    found = find_compiler()
    assert found.command == (sys.executable, "-m", "ziglang", "cc")
    assert found.name == "ziglang"


def test_no_compiler_names_two_ways_to_one(tools, monkeypatch):
    monkeypatch.setattr(compiler, "find_spec", lambda name: None)
    with pytest.raises(VirtualDeviceError, match="no C compiler") as caught:
        find_compiler()
    assert "apt install gcc" in caught.value.hint
    assert 'pip install "memplan[virtual]"' in caught.value.hint


@pytest.mark.parametrize(
    ("printed", "quoted"),
    [
        (
            "a.c:1: note\na.c:2: error: no such type\n  int\n  ^~~",
            "error: no such type",
        ),
        ("cc: it ended.", "virtual device: cc: it ended."),
    ],
)
def test_a_failing_compiler_is_quoted(tools, tmp_path, printed, quoted):
    failing = Compiler((tools("cc", f"printf {printed!r} >&2; exit 1"),))
    with pytest.raises(VirtualDeviceError) as caught:
        failing.run(["a.c"], tmp_path)
    assert quoted in caught.value.message
    assert "\n" not in caught.value.message
    assert "CC=" in caught.value.hint


def test_a_compiler_that_says_nothing_is_quoted_by_its_exit_code(tools, tmp_path):
    with pytest.raises(VirtualDeviceError, match="virtual device: exit 3"):
        Compiler((tools("cc", "exit 3"),)).run([], tmp_path)


def test_a_compiler_that_does_not_end_is_stopped(tools, tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "TIMEOUT_S", 0.2)
    with pytest.raises(VirtualDeviceError, match=r"no end after 0\.2 s"):
        Compiler(("/bin/sleep",)).run(["20"], tmp_path)


def test_a_compiler_that_cannot_be_started(tmp_path):
    program = tmp_path / "cc"
    program.write_text("not a program")
    program.chmod(0o755)
    with pytest.raises(VirtualDeviceError, match="Exec format error"):
        Compiler((str(program),)).run([], tmp_path)


def test_a_full_disk_is_told_apart(tools, tmp_path):
    said = os.strerror(errno.ENOSPC)
    full = Compiler((tools("cc", f"echo 'fatal: {said}' >&2; echo stop >&2; exit 1"),))
    with pytest.raises(OSError, match=said):
        full.run([], tmp_path)


def test_a_compiler_does_not_run_on_the_virtual_card(tools, tmp_path, monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "libnothing.so")
    Compiler((tools("cc", 'test -z "$LD_PRELOAD"'),)).run([], tmp_path)
