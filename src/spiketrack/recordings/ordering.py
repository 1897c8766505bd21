"""Time order: what becomes of events that a file holds out of order.

Cameras write small backward steps, of 1 to 11 us in real files. They are data and are moved to their place;
an event further back than the tolerance is taken for corrupt. In come columns in the order of the file, out go
columns sorted by time, and the counts.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from spiketrack.recordings.recording import Columns, Tally

REORDER_US = 1_000


class TimeOrder:
    """The state of sorting, handed from block to block.

    latest: the latest time seen, us; None before the first event. floor: the latest time already handed out.
    seen: how many events were judged, to name an event by its index.
    """

    def __init__(self) -> None:
        self.latest: int | None = None
        self.floor: int | None = None
        self.seen = 0

    def copy(self) -> TimeOrder:
        return copy(self)

    def arrange(self, columns: Columns, first: int, n: int, tally: Tally) -> int:
        """Sort columns[:n] in place, stably; [:first] is sorted already, [first:n] came in the order of the file.

        Events more than REORDER_US earlier than the latest time before them, or earlier than what was handed out,
        are dropped and counted as "time_backwards"; other late ones are counted as "reordered". Returns the
        number of events kept.
        """
        t = columns.t[first:n]
        seen, self.seen = self.seen, self.seen + len(t)
        if not len(t):
            return n
        latest = self.latest if self.latest is not None else int(t[0])
        if t[0] >= latest and not (t[1:] < t[:-1]).any():
            self.latest = int(t[-1])
            return n
        running = np.maximum(np.maximum.accumulate(t), latest)
        self.latest = int(running[-1])
        earliest = running - REORDER_US
        if self.floor is not None:
            np.maximum(earliest, self.floor, out=earliest)
        lost = t < earliest
        if lost.any():
            i = int(np.argmax(lost))
            tally.drop(
                "time_backwards",
                int(np.count_nonzero(lost)),
                f"decoded event {seen + i}: {t[i]} us after {running[i]} us",
            )
            keep = ~lost
            kept = first + int(np.count_nonzero(keep))
            for column in columns:
                column[first:kept] = column[first:n][keep]
            t, running, n = columns.t[first:kept], running[keep], kept
        late = np.flatnonzero(t < running)
        if len(late):
            tally.repaired["reordered"] += len(late)
            self._sort(columns, int(t[late].min()), first + int(late[-1]) + 1, first + int(late[0]))
        return n

    @staticmethod
    def _sort(columns: Columns, earliest: int, last: int, sorted_to: int) -> None:
        """Sort the part that late events disturb: from the first event after `earliest` to the last late one."""
        start = int(np.searchsorted(columns.t[:sorted_to], earliest, side="right"))
        order = np.argsort(columns.t[start:last], kind="stable")
        for column in columns:
            column[start:last] = column[start:last][order]

    def settle(self, t: NDArray[np.int64], most_held: int) -> int:
        """How many of the sorted times t no later event can precede; hands them out.

        At most `most_held` events stay behind: memory is bounded also where a file says that all of it happened
        within one millisecond, and an event that comes too late for that is then "time_backwards".
        """
        if not len(t) or self.latest is None:
            return 0
        settled = max(int(np.searchsorted(t, self.latest - REORDER_US, side="right")), len(t) - most_held)
        if settled:
            self.floor = int(t[settled - 1])
        return settled
