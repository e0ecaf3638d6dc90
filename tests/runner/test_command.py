"""Commands as users type them: found as by the shell, refused in one sentence."""

import os
import sys
from pathlib import Path

import pytest

from memplan.errors import CommandError
from memplan.runner.command import find_command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder, with a folder of commands that is all of PATH."""
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "python").symlink_to(sys.executable)
    (commands / "bash").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(commands))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    return tmp_path


def write_command(path, text):
    path.write_text(text)
    path.chmod(0o755)


def test_python_is_its_own_interpreter_and_stays_a_link(folder):
    command = find_command(["python", "train.py", "--lr", "1e-4"])
    python = str(folder / "commands" / "python")
    assert command.words == (python, "train.py", "--lr", "1e-4")
    assert command.interpreter == python


@pytest.mark.parametrize(
    "words",
    [
        ("python", "-m", "package.train"),
        ("python", "-c", "print()"),
        ("python", "-u", "train.py"),
        ("python", "-W", "error", "-X", "dev", "train.py"),
        ("bash", "-c", "python train.py"),
        (sys.executable, "train.py"),
    ],
)
def test_commands_that_can_start(folder, words):
    assert find_command(words).words[1:] == words[1:]


@pytest.mark.parametrize(
    "text",
    [
        "#!{python}\nimport torch\n",
        "#!/usr/bin/env python\n",
        "#!/usr/bin/env -S python -u\n",
        "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n",
    ],
)
def test_the_interpreter_of_a_script_is_that_of_its_shebang(folder, text):
    python = folder / "commands" / "python"
    write_command(folder / "commands" / "torchrun", text.format(python=python))
    assert find_command(["torchrun", "train.py"]).interpreter == str(python)


def test_the_interpreter_of_a_shell_script_is_the_one_on_path(folder):
    write_command(folder / "run.sh", "#!/bin/sh\npython train.py\n")
    python = str(folder / "commands" / "python")
    assert find_command(["./run.sh"]).interpreter == python
    assert find_command(["bash", "run.sh"]).interpreter == python


def test_a_binary_has_the_interpreter_on_path(folder):
    (folder / "commands" / "env").symlink_to("/usr/bin/env")
    command = find_command(["env", "A=1", "python", "train.py"])
    assert command.interpreter == str(folder / "commands" / "python")


@pytest.mark.parametrize(
    ("words", "num_processes"),
    [
        (("--nproc-per-node", "2", "train.py"), 2),
        (("--nproc_per_node=4", "train.py"), 4),
        (("--num_processes", "8", "train.py"), 8),
        (("--nproc-per-node", "gpu", "train.py"), 1),
        (("train.py", "--nproc-per-node"), 1),
        (("train.py",), 1),
    ],
)
def test_the_ranks_a_launcher_is_asked_for(folder, words, num_processes):
    write_command(folder / "commands" / "torchrun", "#!/usr/bin/env python\n")
    assert find_command(["torchrun", *words]).num_processes == num_processes


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        ((), "no command", "-- python train.py"),
        (("train.py",), "Python file", "-- python train.py"),
        (("gone.py",), "no file 'gone.py'", "folder"),
        (("python", "gone.py"), "no file 'gone.py'", "folder"),
        (("python", "-u", "gone.py"), "no file 'gone.py'", "folder"),
        (("bash", "gone.sh"), "no file 'gone.sh'", "folder"),
        (("./train.sh",), "not executable", "bash ./train.sh"),
        (("trainer",), "no command 'trainer'", "python"),
    ],
)
def test_what_cannot_start_is_said_in_a_sentence(folder, words, says, hint):
    (folder / "train.sh").write_text("python train.py\n")
    with pytest.raises(CommandError, match=says) as caught:
        find_command(words)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_no_python_at_all_is_said(folder, monkeypatch):
    only = folder / "only"
    only.mkdir()
    write_command(only / "run", "#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(only))
    with pytest.raises(CommandError, match="no Python behind run"):
        find_command(["run"])


def test_a_file_that_cannot_be_read_does_not_break_the_search(folder):
    secret = folder / "secret"
    write_command(secret, "#!/bin/sh\n")
    secret.chmod(0o111)
    assert Path(find_command(["./secret"]).interpreter).name == "python"
    assert os.access(secret, os.X_OK)
