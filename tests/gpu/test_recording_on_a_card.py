"""Recording from within, on a card: a user's own loop, and a Trainer's callback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from memplan import from_json

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

PROGRAM = Path(__file__).parent / "programs" / "own_loop.py"


@pytest.fixture(scope="module")
def recorded(card):
    pytest.importorskip("transformers", reason="the callback is of its Trainer")
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    texts = json.loads(done.stdout.splitlines()[-1])
    return {name: from_json(text) for name, text in texts.items()}


@pytest.mark.parametrize("name", ["loop", "trainer"])
def test_what_is_recorded_is_in_order_and_adds_up(card, recorded, name):
    report = recorded[name]
    peak = report.peak
    assert report.source == card
    assert (
        0
        < peak.requested_bytes
        <= peak.allocated_bytes
        <= peak.reserved_bytes
        <= peak.device_bytes
        <= report.device.total_bytes
    )
    assert report.components.total == peak.allocated_bytes
    assert report.unattributed_bytes < 0.01 * peak.allocated_bytes


@pytest.mark.parametrize("name", ["loop", "trainer"])
def test_steps_of_a_recording_are_timed_on_a_card_alone(card, recorded, name):
    timing = recorded[name].timing
    assert (timing is not None) == (card == "measured")
    assert timing is None or 0 < timing.low_ms <= timing.median_ms <= timing.high_ms
