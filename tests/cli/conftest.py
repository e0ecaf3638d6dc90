"""A terminal of fixed width, and the command line in process and as a process."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from settled_bands import settle
from typer.testing import CliRunner


@dataclass
class Outcome:
    """What a command printed and how it left."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def memplan(monkeypatch):
    """Run the command line in this process, 80 columns wide and without colour.

    Bands are settled, so that what is printed changes with formulas alone.
    """
    settle(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*words):
        from memplan.cli.app import app
        from memplan.errors import MemplanError

        result = CliRunner().invoke(app, list(words))
        if isinstance(result.exception, MemplanError):
            error = result.exception
            message = f"error: {error.message}\nhint: {error.hint}\n"
            return Outcome(error.exit_code, result.stdout, message)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def process(tmp_path):
    """Run the command line as a process of its own, piped."""

    def run(*words, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "memplan", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
            timeout=120,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run
