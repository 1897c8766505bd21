"""Filter: what all filters share: one recording's state, runs of events in, fewer events out, everything counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from spiketrack.events import Events, Window
from spiketrack.filters import kernels

E = TypeVar("E", bound=Events)


class Filter(ABC):
    """A filter of one recording; make a new one for the next recording, or to start anew at another time.

    State is carried from run to run: however a recording is cut into runs, the same events stay.
    width, height: the sensor in pixels. removed: events taken out so far. memory_us: how far back events can decide
    over a present one; a pass that starts late decides alike from memory_us after its start on.
    """

    memory_us: int = 0

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.removed = 0
        self._latest_us: int | None = None

    @abstractmethod
    def _decide(self, events: Events, keep: NDArray[np.bool_]) -> int:
        """Write to keep (N,) whether each event stays, carry the state on, return how many stay."""

    def apply(self, events: E) -> E:
        """The events that stay, of the same type; a Window keeps its bounds. The very argument where all stay.

        Raises ValueError for events of another sensor, and where a run starts before the last one ended.
        """
        n = len(events)
        if (events.width, events.height) != (self.width, self.height):
            raise ValueError(
                f"filter: made for a sensor of {self.width} x {self.height}, "
                f"got events of {events.width} x {events.height}"
            )
        if not n:
            return events
        if self._latest_us is not None and events.t[0] < self._latest_us:
            raise ValueError(
                f"filter: a run starts at {events.t[0]} us, after events of {self._latest_us} us; runs must follow "
                "each other (filter before cutting windows that overlap), and each recording needs a filter of its own"
            )
        self._latest_us = int(events.t[-1])
        keep = np.empty(n, np.bool_)
        count = self._decide(events, keep)
        self.removed += n - count
        return events if count == n else _kept(events, keep, count)


def _kept(events: E, keep: NDArray[np.bool_], count: int) -> E:
    t, p = np.empty(count + 1, np.int64), np.empty(count + 1, np.uint8)
    x, y = np.empty(count + 1, np.uint16), np.empty(count + 1, np.uint16)
    kernels.take(events.t, events.x, events.y, events.p, keep, t, x, y, p)
    for column in (t, x, y, p):
        column.flags.writeable = False
    kept = Events.trusted(t[:count], x[:count], y[:count], p[:count], events.width, events.height)
    # E is Events or Window: the only two records of events
    return Window.of(kept, events.start_us, events.end_us) if isinstance(events, Window) else kept  # ty: ignore
