"""Files that are written whole or not at all.

    with whole_file(path, overwrite=False) as file:
        file.write(content)

What is written goes to a file beside the one that is meant, which takes its place when
everything is on the disk: a full disk, Ctrl-C or a kill leaves what was there before.
Only the standard library: a program that is watched imports this too.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links say."""


@contextmanager
def whole_file(path: Path, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """A file to write to, which becomes `path` at the end of the block.

    A device or a pipe has no contents to protect: it is written to as it is.

    Raises:
        OSError: it cannot be written; FileExistsError without `overwrite`.
    """
    if has_no_contents(path):
        with path.open("wb") as file:
            yield file
        return
    path = Path(os.path.realpath(path))  # of a symbolic link, the file it names
    part = path.parent / f".memplan-{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(part, path)
        else:
            _add(part, path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # it has moved, or was never made
            part.unlink()


def has_no_contents(path: Path) -> bool:
    """Whether a path is there and no file: a device, a pipe, a folder."""
    return path.exists() and not path.is_file()


def _add(part: Path, path: Path) -> None:
    """Give a file its name unless that is taken; of two who try at once, one fails."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if path.exists():
            taken = errno.EEXIST
            raise FileExistsError(taken, os.strerror(taken), str(path)) from None
        os.replace(part, path)


def _sync_folder(folder: Path) -> None:
    """Have the name on the disk too; the contents are, so failing here loses nothing.

    Only Unix opens folders.
    """
    if os.name != "posix":
        return
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
