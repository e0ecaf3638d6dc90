"""The comparison that is made between a card and the virtual device.

This needs no card: it compares lists by hand, and two rehearsals with each other.
"""

import sys
from pathlib import Path

import pytest
from allocator_events import events_of, first_difference, requests_of

from memplan import rehearse_program

PROGRAMS = Path(__file__).parent / "programs"


def test_equal_events_do_not_differ():
    assert first_difference(["a1", "S2", "f1"], ["a1", "S2", "f1"]) is None


def test_frees_in_a_row_may_come_in_any_order():
    assert first_difference(["a1", "a2", "f1", "f2"], ["a1", "a2", "f2", "f1"]) is None


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (["a1", "a3", "f1"], "event 1: a2 here, a3 there"),
        (["a1", "a2"], "event 2: f1 here, nothing there"),
        (["a1", "a2", "f1", "f2"], "event 3: nothing here, f2 there"),
        (["a2", "a1", "f1"], "event 0: a1 here, a2 there"),
        (["a1", "f1", "a2"], "event 1: a2 here, f1 there"),
    ],
)
def test_the_first_event_that_differs_is_named(there, said):
    assert first_difference(["a1", "a2", "f1"], there) == said


def test_segments_can_be_left_out():
    assert requests_of(["S2", "a1", "f1", "X2", "M3", "O4"]) == ["a1", "f1"]


@pytest.mark.slow
@pytest.mark.usefixtures("card_variables")
def test_two_rehearsals_do_the_same_and_a_smaller_batch_does_not(tmp_path):
    program = PROGRAMS / "encoder.py"
    smaller = tmp_path / "smaller.py"
    text = program.read_text()
    assert "BATCH = 256, 197, 8" in text
    smaller.write_text(text.replace("BATCH = 256, 197, 8", "BATCH = 256, 197, 7"))
    first, second, other = (tmp_path / f"{name}.pickle" for name in "abc")
    for file, script in ((first, program), (second, program), (other, smaller)):
        rehearse_program([sys.executable, str(script)], gpu="rtx-4090", snapshot=file)
    assert len(events_of(first)) > 1000
    assert first_difference(events_of(first), events_of(second)) is None
    difference = first_difference(
        requests_of(events_of(first)), requests_of(events_of(other))
    )
    inputs = 197 * 256 * 4
    assert difference.endswith(f"a{8 * inputs} here, a{7 * inputs} there")
