"""Order and signals of all tests."""

import signal

import pytest


def pytest_configure():
    """Hear Ctrl-C, and let what tests start hear it.

    A shell starts what it runs in the background deaf to it, and that is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def one_thread():
    """PyTorch computes with one thread: small tensors are not worth a second."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files that have slow tests come after those that have none."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path in slow)
