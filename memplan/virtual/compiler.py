"""Which C compiler builds the libraries here, and what it said when it could not."""

import errno
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from memplan.errors import VirtualDeviceError

NAMES = ("cc", "gcc", "clang")
TIMEOUT_S = 300
ERRORS = ("error:", "undefined reference")
NO_ROOM = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


@dataclass(frozen=True, slots=True)
class Compiler:
    """A command that takes the arguments of `cc`."""

    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return "ziglang" if "ziglang" in self.command else " ".join(self.command)

    def run(self, arguments: list[str], folder: Path) -> None:
        """Compile in `folder`.

        Raises:
            OSError: there is no room for what it writes.
            VirtualDeviceError: it fails.
        """
        environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)}
        # zig keeps caches of its own, by default in the home folder.
        environment["ZIG_GLOBAL_CACHE_DIR"] = str(folder / "zig")
        environment["ZIG_LOCAL_CACHE_DIR"] = str(folder / "zig")
        environment.pop("LD_PRELOAD", None)
        try:
            done = subprocess.run(
                [*self.command, *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
            )
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error
        except subprocess.TimeoutExpired as error:
            raise self._failed(f"no end after {TIMEOUT_S} s") from error
        if done.returncode == 0:
            return
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        if any(text in line for line in lines for text in NO_ROOM):
            raise OSError(errno.ENOSPC, NO_ROOM[0], str(folder))
        # Compilers end with a drawing of the line or a count, linkers with a summary.
        errors = [line for line in lines if any(mark in line for mark in ERRORS)]
        said = (errors[:1] or lines[-1:] or [f"exit {done.returncode}"])[0]
        raise self._failed(said.strip().rstrip("."))

    def _failed(self, said: str) -> VirtualDeviceError:
        return VirtualDeviceError(
            f"The C compiler {self.name} could not build the virtual device: {said}.",
            hint="Choose another with CC=, or let pip install "
            '"memplan[virtual]" bring one.',
        )


def find_compiler() -> Compiler:
    """The compiler `CC` names, else that of the machine, else the ziglang wheel.

    Raises:
        VirtualDeviceError: there is none.
    """
    if chosen := shlex.split(os.environ.get("CC", "")):
        if shutil.which(chosen[0]) is None:
            raise VirtualDeviceError(
                f"CC names the C compiler {chosen[0]!r}, which is not there.",
                hint="Correct CC, or unset it.",
            )
        return Compiler(tuple(chosen))
    for name in NAMES:
        if shutil.which(name):
            return Compiler((name,))
    if find_spec("ziglang") is not None:
        return Compiler((sys.executable, "-m", "ziglang", "cc"))
    raise VirtualDeviceError(
        "There is no C compiler to build the virtual device with.",
        hint='apt install gcc, or pip install "memplan[virtual]".',
    )
