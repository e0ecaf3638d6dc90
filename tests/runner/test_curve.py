"""A step as a curve: few points, and the peak among them."""

import pytest

pytest.importorskip("torch")

from memplan.runner.curve import MOST_POINTS, curve_of
from memplan.runner.history import History
from memplan.runner.phases import Stretch


def history(sizes):
    """Blocks that come, and go where the size is negative; one number an event."""
    addresses = {}
    trace = []
    for serial, size in enumerate(sizes, start=1):
        address = addresses.setdefault(abs(size), len(addresses) + 1)
        trace.append(
            {
                "action": "alloc" if size > 0 else "free_completed",
                "addr": address,
                "size": abs(size),
                "user_metadata": str(serial),
                "time_us": 1000 + 10 * serial,
            }
        )
    return History({"segments": [], "device_traces": [trace]}, 0)


def stretch(name, begins, ends):
    return Stretch(name, begins=begins, ends=ends)


def test_a_short_step_is_told_event_by_event():
    phases = [stretch("forward", 2, 4), stretch("backward", 4, 6)]
    sizes = [5, 20, 30, -30, -20, -5]
    curve = curve_of(history(sizes), 7, phases, has_times=True)
    assert curve == {
        "requested_bytes": [5, 25, 55, 25, 5],
        "times_us": [0, 0, 10, 20, 30],
        "phases": [
            {"step": 7, "phase": "forward", "begins": 0, "ends": 3},
            {"step": 7, "phase": "backward", "begins": 3, "ends": 5},
        ],
    }


def test_a_virtual_card_has_no_times():
    phases = [stretch("forward", 1, 3)]
    curve = curve_of(history([5, -5]), 1, phases, has_times=False)
    assert curve["times_us"] is None


def test_nothing_happened_where_nothing_was_allocated():
    assert curve_of(history([5, -5]), 1, [stretch("x", 9, 9)], has_times=False) is None


def test_of_many_events_the_highest_stays():
    sizes = []
    for number in range(1, 9001):
        sizes += [number, -number]
    peak = 10_000_000
    sizes[12_345:12_345] = [peak, -peak]
    phases = [stretch("forward", 1, 9000), stretch("backward", 9000, 99_999)]
    curve = curve_of(history(sizes), 3, phases, has_times=True)
    values = curve["requested_bytes"]
    assert len(values) == len(curve["times_us"]) <= MOST_POINTS
    assert max(values) >= peak
    assert curve["times_us"] == sorted(curve["times_us"])
    first, second = curve["phases"]
    assert first["ends"] == second["begins"]
    assert second["ends"] == len(values)
    assert values.index(max(values)) >= second["begins"]
