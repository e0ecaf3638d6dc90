"""Models are held against sums: their blocks are fresh ones."""

import pytest

from memplan.estimating import slack


@pytest.fixture(autouse=True)
def fresh_blocks(monkeypatch):
    """What history makes of blocks is in no sum."""
    monkeypatch.setattr(slack, "_can_be_played", lambda *_: False)
