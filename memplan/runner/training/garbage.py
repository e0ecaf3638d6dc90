"""When Python looks for cyclic garbage: not among libraries, and between steps."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """What is imported inside stays, and is never searched for garbage.

    Libraries make half a million objects. To go through them takes a fifth of the time
    of importing them, and as long again after every step.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextmanager
def collecting_between_steps() -> Iterator[None]:
    """Python's cyclic garbage goes between steps, never at a chance point in one.

    Cycles can hold tensors; when they are found would otherwise decide the peak. Large
    training programs do the same for the sake of speed.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    gc.collect()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
