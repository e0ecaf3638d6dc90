"""Where built libraries are kept, so that they are built once for a user.

A folder of the cache is named by the content of what made it. It appears whole or not
at all: it is made beside the others under a name of its own and then renamed. One lock
keeps twenty processes from building the same twenty times; a process that is killed
lets go of it, and what it had begun is removed by the next that builds.
"""

import atexit
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from memplan.errors import VirtualDeviceError

UNFINISHED = ".building-"
MANIFEST = "manifest.json"
NUM_KEPT = 4
"""Folders kept besides those used lately."""
KEPT_S = 24 * 3600
"""A folder used within this time is kept: a run that started from it may go on."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder of libraries, ready."""

    folder: Path
    warnings: tuple[str, ...] = ()


def cache_folder() -> Path:
    """`MEMPLAN_CACHE`, else `memplan` in the user's cache folder."""
    if chosen := os.environ.get("MEMPLAN_CACHE"):
        return Path(chosen).absolute() / "virtual"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "memplan" / "virtual"


def is_intact(folder: Path) -> bool:
    """Whether every file of `folder` is there as it was made."""
    try:
        sums = json.loads((folder / MANIFEST).read_bytes())
        return bool(sums) and all(_sum(folder / n) == s for n, s in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def keep(key: str, make: Callable[[Path], None]) -> Kept:
    """The folder of `key`, made with `make` where it is not in the cache.

    Where the cache cannot be written, the folder is a temporary one of this process.
    """
    cache = cache_folder()
    folder = cache / key
    if is_intact(folder):
        _mark_used(folder)
        return Kept(folder)
    try:
        _refuse_unusable(cache)
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _lock(cache) as is_ours_alone:
            if not is_intact(folder):
                # With the lock nobody else builds: what is unfinished is forsaken.
                _remove_unfinished(cache, older_than_s=0 if is_ours_alone else KEPT_S)
                _publish(_made(cache, make), folder)
                _remove_old(cache, folder)
        return Kept(folder)
    except OSError as error:
        why = error.strerror or str(error)
    return _temporary(cache, why, make)


def problem_of(cache: Path) -> str | None:
    """Why libraries cannot be kept in `cache`, as far as can be told beforehand."""
    try:
        _refuse_unusable(cache)
    except OSError as error:
        return error.strerror
    return None


def _temporary(cache: Path, why: str, make: Callable[[Path], None]) -> Kept:
    try:
        base = Path(tempfile.mkdtemp(prefix="memplan-"))
        atexit.register(shutil.rmtree, base, ignore_errors=True)
        _refuse_unusable(base)
        folder = _made(base, make)
    except OSError as error:
        raise VirtualDeviceError(
            f"The virtual device can be built neither in {cache} ({why}) nor in "
            f"{tempfile.gettempdir()} ({error.strerror or error}).",
            hint="Name a folder that can be written with MEMPLAN_CACHE=.",
        ) from error
    return Kept(
        folder,
        (
            f"the virtual device was built for this run alone: {cache} cannot be used "
            f"({why}); name another folder with MEMPLAN_CACHE",
        ),
    )


def _refuse_unusable(folder: Path) -> None:
    """Raise OSError where no library can be kept, or none be preloaded from."""
    if any(character in ": \t\n" for character in str(folder)):
        raise OSError(errno.EINVAL, "LD_PRELOAD takes no spaces and no colons")
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise OSError(errno.ENOTDIR, f"{there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, f"{there} cannot be written")
    if os.statvfs(there).f_flag & os.ST_NOEXEC:
        raise OSError(errno.EACCES, f"{there} is mounted noexec")


def _made(base: Path, make: Callable[[Path], None]) -> Path:
    """A new folder in `base`, under a name that marks it as unfinished."""
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=base))
    try:
        make(folder)
        files = [path for path in folder.rglob("*") if path.is_file()]
        sums = {str(path.relative_to(folder)): _sum(path) for path in sorted(files)}
        (folder / MANIFEST).write_text(json.dumps(sums), encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _publish(made: Path, folder: Path) -> None:
    """Give `made` its name, in place of a damaged folder or of nothing."""
    try:
        os.rename(made, folder)
    except OSError:
        if is_intact(folder):  # without locks another process may have been first
            shutil.rmtree(made, ignore_errors=True)
            return
        damaged = made.with_name(f"{made.name}-damaged")
        os.rename(folder, damaged)
        os.rename(made, folder)
        shutil.rmtree(damaged, ignore_errors=True)


@contextmanager
def _lock(cache: Path) -> Iterator[bool]:
    """Hold the cache until the block, or the process, has ended.

    False where its file system has no locks: there each builds, and the first wins.
    """
    with (cache / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True


def _remove_unfinished(cache: Path, older_than_s: float) -> None:
    for path in cache.glob(f"{UNFINISHED}*"):
        with suppress(FileNotFoundError):  # another process may be as tidy
            if time.time() - path.stat().st_mtime >= older_than_s:
                shutil.rmtree(path, ignore_errors=True)


def _remove_old(cache: Path, current: Path) -> None:
    """Keep the folders used last, and all that a run may still be using."""
    folders = [
        (path.stat().st_mtime, path)
        for path in cache.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path != current
    ]
    for used, path in sorted(folders, reverse=True)[NUM_KEPT - 1 :]:
        if time.time() - used > KEPT_S:
            shutil.rmtree(path, ignore_errors=True)


def _mark_used(folder: Path) -> None:
    with suppress(OSError):  # a cache made by another user, for reading only
        os.utime(folder)


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
