"""Stands between memplan and the program it runs, so that nothing outlives either.

Started as a script by `launch.py`, with the path of its request, a JSON file. A program
starts processes of its own (torchrun's ranks in sessions of their own, the workers of a
DataLoader), and a signal to its process group reaches only some of them. This process
adopts every orphan among them (PR_SET_CHILD_SUBREAPER), and the kernel tells it when
memplan dies (PR_SET_PDEATHSIG), so it can end them all.

    SIGINT     passed on to the program
    SIGTERM    end everything at once: memplan asks for it, or has died

It leaves with the program's exit code, or 128 + n for signal n, as a shell does.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
ADDR_NO_RANDOMIZE = 0x0040000  # linux/personality.h
QUERY = 0xFFFFFFFF
RANDOMIZED = "addresses-are-randomized"
"""A file of this name in the folder of the request: addresses differ between runs."""


class _StopError(Exception):
    """SIGTERM has come."""


def main(request: Path) -> int:
    """Run the program of a request to its end."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    signal.signal(signal.SIGTERM, _stop)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if not _fix_addresses(libc):
        (request.parent / RANDOMIZED).touch()
    try:
        if os.getppid() != asked["parent"]:  # it died before the kernel was asked
            raise _StopError
        return _run(asked["command"], asked["environment"])
    except _StopError:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return 128 + signal.SIGTERM
    finally:
        _end_descendants()
        if os.getppid() != asked["parent"]:
            shutil.rmtree(request.parent, ignore_errors=True)


def _stop(number: int, frame: FrameType | None) -> None:
    raise _StopError


def _fix_addresses(libc: Any) -> bool:
    """Programs started from here on get the same addresses in every run.

    PyTorch frees in the order of host addresses here and there (autocast's cache is a
    hash table of pointers), which moves what its allocator reserves. Containers may
    forbid the call.
    """
    persona = libc.personality(QUERY)
    return persona != -1 and int(libc.personality(persona | ADDR_NO_RANDOMIZE)) != -1


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Start the program, in a session of its own, and wait for it."""
    try:
        program = subprocess.Popen(
            command, env={**os.environ, **environment}, start_new_session=True
        )
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 126 if isinstance(error, PermissionError) else 127

    def pass_on(number: int, frame: FrameType | None) -> None:
        if program.returncode is None:
            os.killpg(program.pid, number)

    signal.signal(signal.SIGINT, pass_on)
    code = program.wait()
    return code if code >= 0 else 128 - code


def _end_descendants() -> None:
    """Kill what is left of the program, and what it leaves behind in dying."""
    while True:
        for pid in _descendants():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            os.wait()
        except ChildProcessError:
            return


def _descendants() -> list[int]:
    """Every process below this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        parent = int(stat.rpartition(")")[2].split()[1])  # after "(name) state"
        children.setdefault(parent, []).append(int(entry.name))
    found, ahead = [], [os.getpid()]
    while ahead:
        below = children.get(ahead.pop(), [])
        found += below
        ahead += below
    return found


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
