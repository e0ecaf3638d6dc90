"""What a machine has of what rehearsing needs, told before anything is built."""

import shutil
import sys

import layout
import pytest

from memplan.virtual import check, compiler
from memplan.virtual.build import built


@pytest.fixture
def world(tmp_path, monkeypatch):
    """An interpreter with an imitation of torch, and a cache of its own."""
    if shutil.which("cc") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs cc and Linux")
    monkeypatch.setenv("MEMPLAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    layout.write_torch(tmp_path / "site")
    layout.write_wheels(tmp_path / "site", layout.compile_template(tmp_path))
    layout.write_interpreter(tmp_path / "python", tmp_path / "site")
    return tmp_path


def support_of(world):
    return check(str(world / "python"))


def without_compiler(monkeypatch):
    monkeypatch.setattr(compiler, "NAMES", ())
    monkeypatch.setattr(compiler, "find_spec", lambda name: None)


def test_all_is_there_and_nothing_was_built(world):
    support = support_of(world)
    assert not support.errors
    assert support.build.torch == "2.14.1+cu129"
    assert (support.compiler, support.cudnn) == ("cc", "9.24.0.43")
    assert support.has_cudnn_heuristics
    assert (support.is_built, support.cache_problem) == (False, None)
    assert not support.cache.exists()


def test_every_problem_is_told_at_once(tmp_path, monkeypatch):
    without_compiler(monkeypatch)
    support = check(str(tmp_path / "python"))
    assert [error.message.split()[-1] for error in support.errors] == [
        "directory.",
        "with.",
    ]
    assert (support.build, support.compiler, support.cudnn) == (None, None, None)
    assert not support.has_cudnn_heuristics


@pytest.mark.slow
def test_what_is_built_needs_no_compiler(world, monkeypatch):
    built(support_of(world).build)
    without_compiler(monkeypatch)
    support = support_of(world)
    assert support.is_built
    assert not support.errors
    assert support.compiler is None


def test_an_older_cudnn_needs_a_card(world):
    site = world / "site"
    name = "nvidia_cudnn_cu12-{}.dist-info"
    (site / name.format("9.24.0.43")).rename(site / name.format("9.7.1.26"))
    assert not support_of(world).has_cudnn_heuristics


def test_a_cache_that_cannot_be_used_is_told(world, monkeypatch):
    (world / "file").write_text("no folder")
    monkeypatch.setenv("MEMPLAN_CACHE", str(world / "file"))
    support = support_of(world)
    assert support.cache_problem == f"{world / 'file'} is not a folder"
    assert not support.errors
