"""Two runs of one program, compared by what their allocators were asked, in order.

    difference = first_difference(events_of(here), events_of(there))

Sizes and order count, addresses do not. Frees that follow each other may come in any
order: PyTorch empties some tables, autocast's among them, in the order of host
addresses.
"""

from itertools import groupby, zip_longest

from memplan.captures.snapshot import read_snapshot

LETTERS = {
    "alloc": "a",
    "free_completed": "f",
    "segment_alloc": "S",
    "segment_free": "X",
    "segment_map": "M",
    "segment_unmap": "U",
    "oom": "O",
}
"""Of the events of torch's history; others say the same twice."""
REQUESTS = ("a", "f")
"""What the program asks; segments are what the allocator makes of it."""


def events_of(file, device=0):
    """`a1024`, `f1024`, `S2097152`, ... of a snapshot's history."""
    trace = read_snapshot(file)["device_traces"][device]
    return [
        f"{LETTERS[event['action']]}{event['size']}"
        for event in trace
        if event["action"] in LETTERS
    ]


def requests_of(events):
    """Allocations and frees alone."""
    return [event for event in events if event.startswith(REQUESTS)]


def first_difference(here, there):
    """None, or which event is the first that differs, and how."""
    rows = zip_longest(_in_order(here), _in_order(there), fillvalue="nothing")
    for number, (one, other) in enumerate(rows):
        if one != other:
            return f"event {number}: {one} here, {other} there"
    return None


def _in_order(events):
    """Frees in a row sorted."""
    for is_free, row in groupby(events, key=lambda event: event.startswith("f")):
        in_a_row = list(row)
        yield from sorted(in_a_row) if is_free else in_a_row
