"""The tests that need a card, some of them, on a virtual one that stands in for it.

That they pass there says nothing of any card: it says that they run. One that nobody
can run would be wrong by the day a card is at hand.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
SOME = (
    "test_on_a_card.py::test_figures_are_in_order_and_add_up[decoder]",
    "test_on_a_card.py::test_a_rehearsal_says_the_same[decoder]",
    "test_on_a_card.py::test_a_rehearsal_finds_the_same_components[decoder]",
    "test_on_a_card.py::test_steps_are_timed_on_a_card_and_nowhere_else",
    "test_events_on_a_card.py::test_the_program_asks_the_same_of_both_allocators"
    "[decoder]",
    "test_recording_on_a_card.py",
)


def run(tests, environment):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", *(str(FOLDER / t) for t in tests)],
        env=environment,
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.slow
def test_tests_for_a_card_run_on_a_virtual_one_where_that_is_asked(card_variables):
    environment = {
        **os.environ,
        **card_variables,
        "MEMPLAN_TESTS_ON_VIRTUAL_CARD": "1",
    }
    done = run(SOME, environment)
    assert done.returncode == 0, done.stdout
    assert "SKIPPED" not in done.stdout


@pytest.mark.slow
def test_a_virtual_card_is_taken_for_none_where_it_is_not_asked(card_variables):
    done = run(SOME[:1], {**os.environ, **card_variables})
    assert done.returncode == 0, done.stdout
    assert "this card is a virtual one" in done.stdout
