"""The house keeps its shape: floors, packages, imports, public names."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import memplan

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "memplan"
FLOORS = {
    "errors": 1,
    "files": 1,
    "formulas": 1,
    "hardware": 1,
    "plan": 1,
    "report": 1,
    "units": 1,
    "untrusted": 1,
    "data": 2,
    "mme": 2,
    "models": 2,
    "recipes": 2,
    "runner": 2,
    "virtual": 2,
    "batching": 3,
    "campaign": 3,
    "captures": 3,
    "check": 3,
    "compare": 3,
    "comparing": 3,
    "diff": 3,
    "differing": 3,
    "estimate": 3,
    "estimating": 3,
    "fit": 3,
    "inputs": 3,
    "profile": 3,
    "recommend": 3,
    "recording": 3,
    "rehearse": 3,
    "running": 3,
    "searching": 3,
    "tricks": 3,
    "validation": 3,
    "worst_batch": 3,
    "views": 4,
    "cli": 5,
    "integrations": 5,
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    """The room of a module: its folder or file right under the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_imported(path):
    """The rooms that a module imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "memplan" and len(parts) > 1 and parts[1] != "profiles":
                yield parts[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_its_floor_and_below(path):
    if room(path) not in ("__init__", "__main__"):
        for other in rooms_imported(path):
            assert FLOORS[other] <= FLOORS[room(path)], other


SECOND_FLOOR = ("data", "virtual", "models", "runner", "recipes", "mme")


@pytest.mark.parametrize("name", SECOND_FLOOR)
def test_rooms_of_the_second_floor_stand_in_a_row(name):
    later = set(SECOND_FLOOR[SECOND_FLOOR.index(name) + 1 :])
    for path in (PACKAGE / name).rglob("*.py"):
        assert not later.intersection(rooms_imported(path)), path


def test_packages_are_those_of_the_tree():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = {
        ".".join(("memplan", *path.parent.relative_to(PACKAGE).parts))
        for path in PACKAGE.rglob("__init__.py")
    }
    packages = set(listed["tool"]["setuptools"]["packages"])
    assert packages == found | {"memplan.profiles"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_grows_beyond_reading(path):
    assert len(path.read_text().splitlines()) <= 600


HEAVY = ("torch", "transformers", "accelerate", "plotly", "numpy")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["estimate", "llama-2-7b", "--json"],
        ["estimate", "llama-2-7b"],
        ["gpus"],
        ["env"],
    ],
    ids=" ".join,
)
def test_the_closed_form_imports_nothing_heavy(words):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['memplan', *{words!r}]\n"
        "try:\n    runpy.run_module('memplan', run_name='__main__')\n"
        "except SystemExit as left:\n    assert not left.code, left.code\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_are_listed_and_there():
    assert sorted(memplan.__all__) == memplan.__all__
    assert all(hasattr(memplan, name) for name in memplan.__all__)
