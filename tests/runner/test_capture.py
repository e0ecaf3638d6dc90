"""However a process ends, what it has seen is written: whole, or not at all."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

ROOT = Path(__file__).parent.parent.parent
BEGINS = """
    import ctypes, os, signal, sys, time, types
    from pathlib import Path

    # Of PyTorch nothing but the name of its error is needed here.
    sys.modules["torch"] = types.SimpleNamespace(OutOfMemoryError=MemoryError)
    from memplan.runner.capture import Capture

    seen = {"steps": 0}
    def content(ended):
        slow = seen.get("slow", 0)
        if slow:
            print("writing", flush=True)
            end = time.monotonic() + slow
            while time.monotonic() < end:
                time.sleep(0.01)
        return dict(seen)

    capture = Capture(Path(sys.argv[1]), content)
    capture.install()
"""


class Process:
    """A process that is watched, and what it left."""

    def __init__(self, folder, code):
        program = textwrap.dedent(BEGINS) + textwrap.dedent(code)
        self.folder = folder
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "LOCAL_WORLD_SIZE": "2"},
            text=True,
        )

    def wait_for(self, word):
        assert self.popen.stdout.readline().strip() == word

    def wait_until_asleep(self):
        """Its main thread has done nothing for half a second."""
        times, last = 0, None
        while times < 5:
            time.sleep(0.1)
            stat = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/stat")
            state, *numbers = stat.read_text().rpartition(")")[2].split()
            now = (numbers[10], numbers[11])  # its own time, in user and system mode
            times = times + 1 if state == "S" and now == last else 0
            last = now

    def end(self, number=None):
        """Signal it, wait for its end; the exit code and the only capture, if any."""
        if number is not None:
            self.popen.send_signal(number)
        self.popen.communicate(timeout=60)
        files = [*self.folder.glob("capture-*")]
        assert len(files) <= 1
        captures = [json.loads(file.read_text()) for file in files]
        return self.popen.returncode, next(iter(captures), None)


@pytest.fixture
def start(tmp_path):
    started = []

    def run(code):
        started.append(Process(tmp_path, code))
        return started[-1]

    yield run
    for process in started:
        process.popen.kill()
        process.popen.communicate()


@pytest.mark.parametrize(
    ("code", "exit_code", "ended", "error"),
    [
        ("pass", 0, "finished", None),
        ("sys.exit(7)", 7, "finished", None),
        ("raise LookupError('mine')", 1, "crashed", "LookupError: mine"),
        ("raise KeyboardInterrupt", -2, "interrupted", None),
        ("capture.write('stopped'); raise LookupError", 1, "stopped", None),
    ],
)
def test_the_first_ending_counts(start, code, exit_code, ended, error):
    left, seen = start(code).end()
    assert left == exit_code
    assert (seen["ended"], seen["error"]) == (ended, error)
    assert seen["local_world_size"] == 2


def test_ctrl_c_leaves_what_was_seen(start):
    process = start("seen['steps'] = 3; print('ready', flush=True); time.sleep(60)")
    process.wait_for("ready")
    _, seen = process.end(signal.SIGINT)
    assert (seen["ended"], seen["steps"]) == ("interrupted", 3)


def test_a_second_ctrl_c_does_not_cut_the_writing_off(start):
    code = "seen['slow'] = 1; print('ready', flush=True); time.sleep(60)"
    process = start(code)
    process.wait_for("ready")
    process.popen.send_signal(signal.SIGINT)
    process.wait_for("writing")
    _, seen = process.end(signal.SIGINT)
    assert seen["ended"] == "interrupted"


def test_a_process_that_is_told_to_end_writes_first(start):
    process = start("print('ready', flush=True); time.sleep(60)")
    process.wait_for("ready")
    exit_code, seen = process.end(signal.SIGTERM)
    assert exit_code == -signal.SIGTERM
    assert seen["ended"] == "interrupted"


DEAF = """
    libc = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    print("ready", flush=True)
    libc.pthread_mutex_lock(mutex)  # never comes back, as a collective without peers
"""


def test_one_that_waits_in_c_for_ever_is_not_lost(start):
    process = start(DEAF)
    process.wait_for("ready")
    process.wait_until_asleep()
    exit_code, seen = process.end(signal.SIGTERM)
    assert exit_code == 128 + signal.SIGTERM
    assert seen["ended"] == "interrupted"


def test_what_is_being_written_is_written_before_the_end(start):
    process = start("seen['slow'] = 1; capture.write('stopped'); time.sleep(60)")
    process.wait_for("writing")
    exit_code, seen = process.end(signal.SIGTERM)
    assert exit_code == -signal.SIGTERM
    assert seen["ended"] == "stopped"


def test_a_handler_of_the_programs_own_is_left_alone(start):
    code = """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
        print("ready", flush=True)
        time.sleep(60)
    """
    process = start(code)
    process.wait_for("ready")
    exit_code, seen = process.end(signal.SIGTERM)
    assert (exit_code, seen["ended"]) == (5, "finished")


def test_what_was_kept_is_there_after_a_kill_and_replaced_by_any_other_end(start):
    kept = "seen['steps'] = 3; capture.keep(); seen['steps'] = 4\n"
    process = start(kept + "print('ready', flush=True); time.sleep(60)")
    process.wait_for("ready")
    _, seen = process.end(signal.SIGKILL)
    assert (seen["ended"], seen["steps"]) == ("died", 3)
    (process.folder / f"capture-{process.popen.pid}.json").unlink()
    _, seen = start(kept).end()
    assert (seen["ended"], seen["steps"]) == ("finished", 4)


@pytest.mark.parametrize("is_at_once", [True, False])
def test_the_end_of_a_forked_worker_is_not_ours(start, is_at_once):
    code = f"""
        def work():
            time.sleep(1)
            os._exit(0)

        pid = os.fork()
        if not pid:
            work()
        time.sleep(0 if {is_at_once} else 0.3)
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        time.sleep(2.5)  # longer than a deaf main thread is waited for
    """
    exit_code, seen = start(code).end()
    assert (exit_code, seen["ended"]) == (0, "finished")
