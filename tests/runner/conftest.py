"""Code that runs on a virtual card, and says what it found as JSON."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from memplan.errors import VirtualDeviceError
from memplan.hardware import find_gpu
from memplan.units import MiB
from memplan.virtual import virtual_environment
from memplan.virtual.compiler import find_compiler
from memplan.virtual.wheels import find_torch


@pytest.fixture(scope="session")
def card_variables():
    """The environment of a virtual card."""
    try:
        find_compiler()
        find_torch()
    except VirtualDeviceError as error:
        pytest.skip(error.message)
    gpu = find_gpu("rtx-4090")
    return dict(virtual_environment(None, gpu, context_bytes=500 * MiB).variables)


@pytest.fixture(scope="session")
def on_card(card_variables, tmp_path_factory):
    """Runs code in a process of its own; gives what it handed to `say`."""
    folder = tmp_path_factory.mktemp("on_card")

    def run(*parts, variables=()):
        program, said = folder / "train.py", folder / "said.json"
        say = f"""
            import json
            def say(thing):
                json.dump(thing, open({str(said)!r}, "w"))
        """
        program.write_text("\n".join(map(textwrap.dedent, (say, *parts))))
        done = subprocess.run(
            [sys.executable, str(program)],
            env={**os.environ, **card_variables, **dict(variables)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(said.read_text())

    return run
