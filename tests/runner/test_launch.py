"""Real processes: started, waited for, interrupted, ended with all they started."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from memplan.runner.launch import Program, launch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def python(code, **settings):
    """A program of that code."""
    command = (sys.executable, "-c", textwrap.dedent(code))
    return Program(command=command, environment={}, **settings)


def alive(pid):
    """Whether that process runs; a zombie does not."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except OSError:
        return False


def wait_until(holds, seconds=20):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_captures_come_back_in_the_order_of_ranks():
    program = python(
        """
        import os
        def write(rank):
            import json
            folder = json.loads(os.environ["MEMPLAN_RUNNER"])["folder"]
            with open(f"{folder}/capture-{rank + 7}.json", "w") as file:
                json.dump({"rank": 1 - rank}, file)
        write(0), write(1)
        """
    )
    outcome = launch(program)
    assert [capture["rank"] for capture in outcome.captures] == [0, 1]
    assert outcome.exit_code == 0


def test_the_runner_is_told_what_to_do(tmp_path):
    code = """
        import json, os, sys
        asked = json.loads(os.environ["MEMPLAN_RUNNER"])
        with open(asked["folder"] + "/capture-1.json", "w") as file:
            json.dump({"rank": 0, "asked": asked, "path": sys.path}, file)
    """
    program = python(
        code,
        steps=5,
        timed_steps=7,
        rank=3,
        world_size=64,
        has_nccl=False,
        snapshot=tmp_path / "s.pickle",
    )
    [capture] = launch(program).captures
    asked = capture["asked"]
    assert (asked["steps"], asked["rank"], asked["world_size"]) == (5, 3, 64)
    assert (asked["timed_steps"], asked["has_nccl"]) == (7, False)
    assert asked["snapshot"] == str(tmp_path / "s.pickle")
    assert not Path(asked["folder"]).exists()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sys; sys.exit(7)", 7),
        ("raise RuntimeError('mine')", 1),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import os; os.abort()", 134),
    ],
)
def test_the_exit_code_is_the_programs_own(code, expected):
    assert launch(python(code, is_quiet=True)).exit_code == expected


def test_a_command_that_cannot_be_executed_leaves_with_126_or_127(tmp_path):
    text = tmp_path / "text"
    text.write_text("no program")
    program = Program(command=(str(text),), environment={}, is_quiet=True)
    assert launch(program).exit_code == 126
    gone = Program(command=(str(tmp_path / "no"),), environment={}, is_quiet=True)
    assert launch(gone).exit_code == 127


def test_output_goes_to_stderr_as_it_is(capfd):
    launch(python("import sys; print('one'); print('two', file=sys.stderr)"))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert sorted(captured.err.splitlines()) == ["one", "two"]


def test_two_runs_have_the_same_addresses_and_hashes():
    code = """
        import json, os
        folder = json.loads(os.environ["MEMPLAN_RUNNER"])["folder"]
        with open(folder + "/capture-1.json", "w") as file:
            json.dump({"rank": 0, "seen": [id(object()), hash("text")]}, file)
    """
    first, second = launch(python(code)), launch(python(code))
    if not first.is_repeatable:
        pytest.skip("this system forbids fixed addresses")
    assert first.captures == second.captures


def test_what_the_program_leaves_running_is_ended(tmp_path):
    pids = tmp_path / "pids"
    code = f"""
        import subprocess, sys
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        ours = subprocess.Popen(sleep)
        theirs = subprocess.Popen(sleep, start_new_session=True)
        open({str(pids)!r}, "w").write(f"{{ours.pid}} {{theirs.pid}}")
    """
    assert launch(python(code)).exit_code == 0
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


PARENT = """
    import sys
    from memplan.runner.launch import Program, launch
    if launch(Program(command=tuple(sys.argv[1:]), environment={})).is_interrupted:
        raise KeyboardInterrupt
"""
FAMILY = """
    import os, signal, subprocess, sys, time
    {first}
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    others = [subprocess.Popen(sleep, start_new_session=new) for new in (False, True)]
    pids = [os.getpid(), *(other.pid for other in others)]
    folder = __import__("json").loads(os.environ["MEMPLAN_RUNNER"])["folder"]
    part = {file!r} + ".part"
    open(part, "w").write(" ".join([folder, *map(str, pids)]))
    os.rename(part, {file!r})
    time.sleep(600)
"""


@pytest.fixture
def family(tmp_path):
    """Start a parent whose program starts two processes; its folder and pids."""
    started = []

    def start(first="pass"):
        file = tmp_path / "pids"
        code = textwrap.dedent(FAMILY.format(first=first, file=str(file)))
        parent = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PARENT), sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(parent)
        wait_until(file.exists)
        folder, *pids = file.read_text().split()
        return parent, Path(folder), [int(pid) for pid in pids]

    yield start
    for parent in started:
        parent.kill()
        parent.communicate()


def test_ctrl_c_is_passed_on_and_leaves_nothing(family):
    parent, folder, pids = family()
    parent.send_signal(signal.SIGINT)
    _, err = parent.communicate(timeout=30)
    assert err.count(b"KeyboardInterrupt") >= 2  # the program's own, and the parent's
    assert not folder.exists()
    assert not any(map(alive, pids))


def test_a_program_deaf_to_ctrl_c_is_killed_on_the_second(family):
    parent, folder, pids = family("signal.signal(signal.SIGINT, signal.SIG_IGN)")
    parent.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert alive(pids[0])
    parent.send_signal(signal.SIGINT)
    parent.communicate(timeout=4)
    assert not folder.exists()
    assert not any(map(alive, pids))


def test_killing_the_parent_leaves_no_orphan_and_no_folder(family):
    parent, folder, pids = family()
    parent.kill()
    parent.communicate()
    wait_until(lambda: not any(map(alive, pids)) and not folder.exists())


def test_the_environment_of_the_caller_is_left_alone():
    before = dict(os.environ)
    launch(python("pass"))
    assert dict(os.environ) == before
