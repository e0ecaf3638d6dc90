"""Order and signals of all tests, and code that runs on a virtual card."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress

import pytest

from memplan.errors import VirtualDeviceError
from memplan.hardware import find_gpu
from memplan.units import MiB
from memplan.virtual import virtual_environment
from memplan.virtual.compiler import find_compiler
from memplan.virtual.wheels import find_torch


def pytest_configure():
    """Hear Ctrl-C, and let what tests start hear it.

    A shell starts what it runs in the background deaf to it, and that is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


with suppress(ImportError):  # tests on a card have no laws, nor need for hypothesis
    from hypothesis import settings

    # The same examples everywhere, however slow: a law that fails, fails for all.
    settings.register_profile("memplan", deadline=None, derandomize=True, database=None)
    settings.load_profile("memplan")

LONGEST = ("test_programs.py", "test_profile_runs.py", "test_rehearse_runs.py")
"""Files that take minutes, the longest first."""


@pytest.fixture(scope="module")
def one_thread():
    """PyTorch computes with one thread: small tensors are not worth a second."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files that have slow tests come after those that have none.

    Of those the longest begin: else one worker is at them when the others have ended.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    longest = {name: len(LONGEST) - place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (item.path in slow, -longest.get(item.path.name, 0)))


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
