"""A wheel holds the package and its data, and works where it is installed."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """memplan's wheel, built from a copy of the tree."""
    import shutil

    source = tmp_path_factory.mktemp("source")
    for name in ("memplan", "profiles"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source],
        check=True,
        timeout=300,
    )
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_what_is_not_python(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    for file in (ROOT / "profiles").rglob("*.toml"):
        assert f"memplan/profiles/{file.relative_to(ROOT / 'profiles')}" in packed
    assert "memplan/py.typed" in packed
    for file in (ROOT / "memplan" / "virtual" / "source").iterdir():
        assert f"memplan/virtual/source/{file.name}" in packed
    assert "memplan/runner/bootstrap/sitecustomize.py" in packed
    for file in (ROOT / "memplan" / "views" / "page" / "templates").iterdir():
        assert f"memplan/views/page/templates/{file.name}" in packed
    assert not any(name.startswith("tests/") for name in packed)


@pytest.mark.slow
def test_the_installed_wheel_answers(wheel, tmp_path):
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-deps"),
            *("--target", str(tmp_path), str(wheel)),
        ],
        check=True,
        timeout=300,
    )
    code = (
        "import memplan; print(memplan.__file__);"
        "plan = memplan.TrainingPlan(model='llama-2-7b', gpu='b200');"
        "print(memplan.estimate(plan).fits)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    where, fits = done.stdout.split()
    assert Path(where).is_relative_to(tmp_path)
    assert fits == "True"
