"""Where results go when they go to no file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from memplan.errors import MemplanError


@contextmanager
def writing(file: IO[str]) -> Iterator[None]:
    """While a result is printed: a reader who has left changes no verdict.

    Raises:
        MemplanError: the disk is full.
    """
    try:
        yield
        file.flush()
    except OSError as error:
        # What is left in the buffer would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        if not isinstance(error, BrokenPipeError):
            raise MemplanError(
                f"The result cannot be written: {error.strerror}.",
                hint="Write it somewhere else with --output.",
            ) from error
