"""The memory of a test's body: from where its fixtures are ready to where it returns.

What fixtures hold is counted, what they took in being made is not.
"""

import gc
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memplan.hardware import Gpu
from memplan.integrations.gpu_limit import BODY, Limit, broken_by, limit_of
from memplan.integrations.pytest import MARKER, why_unlimited
from memplan.runner.marks import phase

ALL_STEPS = 10**9
"""No program is stopped: the test ends by itself."""

FindCard = Callable[[], Gpu]


class Measured:
    """A plugin: tests with the marker are measured in this process."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Without a card a test is told so, and runs as any other."""
        if item.get_closest_marker(MARKER) is not None and not _has_card():
            item.stash[why_unlimited] = "there is no CUDA device to measure on"

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        mark = item.get_closest_marker(MARKER)
        if mark is None or why_unlimited in item.stash:
            return (yield)
        with watching():
            return (yield from limited(limit_of(mark), _card_in_use))


def limited(limit: Limit, find_card: FindCard) -> Generator[None, object, object]:
    """What a wrapper around a test's body does: it fails where the limit is broken.

    The process is being watched. Errors of the body go their way, but for one of the
    allocator: that is a limit broken.
    """
    from memplan.runner.capture import FINISHED, OUT_OF_MEMORY, ending_of

    result: object = None
    shortage: Exception | None = None
    try:
        with phase(BODY):
            result = yield
    except Exception as error:
        if ending_of(error) != OUT_OF_MEMORY:
            raise
        shortage = error
    ended = FINISHED if shortage is None else OUT_OF_MEMORY
    if why := why_broken(limit, ended, find_card):
        pytest.fail(why, pytrace=False)
    if shortage is not None:  # of another allocator than the card's
        raise shortage
    return result


def why_broken(limit: Limit, ended: str, find_card: FindCard) -> str:
    """How a body that ended so broke its limit; empty where it kept to it."""
    from memplan.runner.watch import Watch

    watch = Watch.current
    assert watch is not None, "nobody watches this process"
    return broken_by(limit, watch.content(ended, about=BODY), find_card())


@contextmanager
def watching() -> Iterator[None]:
    """PyTorch is watched, and left as it was. What other tests left over is let go."""
    import torch

    from memplan.runner.settings import Settings
    from memplan.runner.watch import Watch

    gc.collect()
    torch.cuda.empty_cache()
    watch = Watch(Settings(folder=Path(), steps=ALL_STEPS))
    watch.attach()
    try:
        yield
    finally:
        watch.detach()


def _has_card() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _card_in_use() -> Gpu:
    import torch

    from memplan.running.card_at_hand import card_in_use

    return card_in_use(torch.cuda.current_device()).gpu
