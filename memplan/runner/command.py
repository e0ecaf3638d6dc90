"""What a command of the user's starts: is it there, and which Python is behind it?

    python train.py ...      python -m package.train ...     ./train.py, with a shebang
    torchrun ...             accelerate launch ...           bash run.sh

The interpreter has to be known before anything starts, as its PyTorch decides whether
the run can be rehearsed. A command found on PATH is the one that the shell would take.
"""

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memplan.errors import CommandError

_PYTHON = re.compile(r"python(\d+(\.\d+)?)?t?$")
_SHELLS = ("bash", "dash", "ksh", "sh", "zsh")
_PYTHON_FLAGS_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
_PROCESSES = re.compile(
    r"--(nproc[-_]per[-_]node|num[-_]processes|num[-_]gpus)(?:=(\d+))?$"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command that can be started."""

    words: tuple[str, ...]
    interpreter: str
    num_processes: int
    """How many ranks its words ask a launcher for on this machine; 1 if they do not."""


def find_command(words: Sequence[str]) -> Command:
    """Look a command up as the shell would.

    Raises:
        CommandError: there is nothing to run, or no Python behind it.
    """
    if not words:
        raise CommandError(
            "There is no command after `--`.",
            hint="memplan rehearse --gpu rtx-4090 -- python train.py",
        )
    program = _find_program(words[0])
    _check_script(program, words)
    return Command(
        words=(str(program), *words[1:]),
        interpreter=_interpreter_of(program),
        num_processes=_num_processes(words),
    )


def _find_program(word: str) -> Path:
    """The file that a first word names."""
    found = shutil.which(word)
    if found is not None:
        # Not resolved: a virtual environment's python is a link that must stay one.
        return Path(os.path.abspath(found))
    path = Path(word)
    if path.suffix == ".py":
        _check_file(path)
        raise CommandError(
            f"{word} is a Python file, not a command.",
            hint=f"Write -- python {word}",
        )
    if path.is_file():
        raise CommandError(
            f"{word} is not executable.", hint=f"chmod +x {word}, or -- bash {word}"
        )
    raise CommandError(
        f"There is no command {word!r}.",
        hint="Write it as you would type it, such as -- python train.py",
    )


def _check_script(program: Path, words: Sequence[str]) -> None:
    """`python FILE` and `bash FILE` with a file that is not there."""
    if _PYTHON.match(program.name):
        script = _python_script(words[1:])
    elif program.name in _SHELLS:
        script = next(iter(words[1:]), None)
    else:
        return
    if script is not None and not script.startswith("-"):
        _check_file(Path(script))


def _python_script(words: Sequence[str]) -> str | None:
    """The file among Python's own arguments; None with -c, -m or none at all."""
    ahead = iter(words)
    for word in ahead:
        if word in _PYTHON_FLAGS_WITH_VALUE:
            next(ahead, None)
        elif not word.startswith("-"):
            return word
        elif word == "-" or word[1:2] in ("c", "m"):
            return None
    return None


def _check_file(path: Path) -> None:
    if not path.exists():
        raise CommandError(
            f"There is no file {str(path)!r}.",
            hint="Paths are taken from the folder you are in.",
        )


def _interpreter_of(program: Path) -> str:
    """The Python behind a program: itself, its shebang's, else the one on PATH."""
    if _PYTHON.match(program.name):
        return str(program)
    words = _shebang(program)
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-")]
    if words and _PYTHON.match(Path(words[0]).name):
        found = shutil.which(words[0])
        if found is not None:
            return found
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found is not None:
            return found
    raise CommandError(
        f"There is no Python behind {program.name}.",
        hint="Activate the environment that will train, then try again.",
    )


def _shebang(program: Path) -> list[str]:
    """The words after `#!`.

    A path too long for the kernel is written by pip as a shell script whose second line
    is `'''exec' "/long/path/python" "$0" "$@"`.
    """
    try:
        with program.open("rb") as file:
            lines = [file.readline(4096) for _ in range(2)]
    except OSError:
        return []
    first, second = (line.decode("utf-8", errors="replace") for line in lines)
    if not first.startswith("#!"):
        return []
    if second.startswith("'''exec'"):
        return shlex.split(second.removeprefix("'''exec'"))[:1]
    return first.removeprefix("#!").split()


def _num_processes(words: Sequence[str]) -> int:
    """The ranks that torchrun or accelerate is told to start."""
    for index, word in enumerate(words):
        match = _PROCESSES.match(word)
        if match is None:
            continue
        value = match[2] or next(iter(words[index + 1 : index + 2]), "")
        if value.isdecimal() and int(value):
            return int(value)
    return 1
