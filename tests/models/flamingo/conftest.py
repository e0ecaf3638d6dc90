"""What Flamingo's tests share."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def small_tensors(one_thread):
    """Of every test here."""
