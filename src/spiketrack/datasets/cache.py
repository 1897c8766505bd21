"""Cache: recordings that training reads again and again stay in memory, up to a budget.

Station: between a recording and the samples that are cut from it. Samples come in random order, so what is in the
cache stays there: throwing out the oldest would throw out just what is needed next.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spiketrack.events import Events, Window
from spiketrack.recordings import Recording

EVENT_BYTES = 13  # t 8, x 2, y 2, p 1


class EventCache:
    """Whole recordings in memory. One that no longer fits into the budget is read from its file each time."""

    def __init__(self, budget_bytes: int) -> None:
        self._free = budget_bytes
        self._kept: dict[Path, Events | None] = {}

    def read(self, recording: Recording, start_us: int, end_us: int) -> Window:
        """What `recording.read` gives: the events of [start_us, end_us), as views where they are in memory."""
        if recording.path not in self._kept:
            self._kept[recording.path] = self._load(recording) if self._free > 0 else None
        events = self._kept[recording.path]
        return recording.read(start_us, end_us) if events is None else Window.of(events, start_us, end_us)

    def _load(self, recording: Recording) -> Events | None:
        """All events of a recording, None where they do not fit."""
        if recording.path.stat().st_size > self._free:  # no need to read it to know
            return None
        parts, size = [Events.empty(recording.width, recording.height)], 0
        for events in recording.chunks():
            size += EVENT_BYTES * len(events)
            if size > self._free:
                return None
            t, x, y, p = map(np.array, (events.t, events.x, events.y, events.p))
            parts.append(Events.trusted(t, x, y, p, recording.width, recording.height))
        self._free -= size
        return Events.concatenate(parts)
