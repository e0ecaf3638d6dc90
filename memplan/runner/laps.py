"""How long it is from one call to the next, by the card's own clock.

Nobody waits for the card: an event is put into its stream at each call, and read once
the card has passed it.
"""

from collections import deque

import torch

MOST_LAPS = 1000
"""After so many nothing more is timed: their median is known by then."""


class Laps:
    """Times of the current stream of the current device."""

    def __init__(self) -> None:
        self.laps_ms: list[float] = []
        self._events: deque[torch.cuda.Event] = deque()
        """Of which the first was passed, and the others may not have been yet."""

    @property
    def has_begun(self) -> bool:
        return bool(self._events)

    @property
    def is_full(self) -> bool:
        return len(self.laps_ms) + len(self._events) > MOST_LAPS

    def mark(self) -> None:
        """A lap ends, and the next begins."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append(event)
        while len(self._events) > 1 and self._is_over():
            self._read()

    def finish(self) -> None:
        """Wait for the last event: all laps are known then."""
        while len(self._events) > 1:
            self._events[1].synchronize()
            self._read()

    def _is_over(self) -> bool:
        return bool(self._events[1].query())  # type: ignore[no-untyped-call]

    def _read(self) -> None:
        first = self._events.popleft()
        self.laps_ms.append(first.elapsed_time(self._events[0]))
