"""External triggers of an HDF5 file: Prophesee's `EXT_TRIGGER/events` and EventWriter's `triggers/{t, channel, value}`.

In come checked datasets, out go `Triggers` in the order of the file, as far as the events beside them have come.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spiketrack.events import Triggers
from spiketrack.recordings.hdf5_rows import Lost, Stored
from spiketrack.recordings.ordering import REORDER_US
from spiketrack.recordings.recording import TIME_LIMIT_US, Tally

RECORD_FIELDS = ("t", "id", "p")
COLUMN_FIELDS = ("t", "channel", "value")
_STRETCH = 1 << 16


class TriggerRows:
    """Stored triggers: one dataset with RECORD_FIELDS, or one for each of COLUMN_FIELDS, of one length."""

    def __init__(self, stored: Stored | tuple[Stored, Stored, Stored]) -> None:
        self._parts = stored if isinstance(stored, tuple) else (stored,)
        self.rows = self._parts[0].rows

    def next_written(self, row: int) -> int:
        before = -1
        while row != before:
            before, row = row, max(part.next_written(row) for part in self._parts)
        return row

    def read(self, first: int) -> tuple[list[NDArray], list[Lost]]:
        """t, channel and value of a stretch of rows from `first` on, and which of them mean nothing."""
        lost: list[Lost] = []
        last = min(first + _STRETCH, self.rows)
        parts = [part.read(first, last, lost) for part in self._parts]
        return (parts if len(parts) > 1 else [parts[0][name] for name in RECORD_FIELDS]), lost

    def first_from(self, start_us: int) -> int:
        """The first trigger later than REORDER_US before start_us, of times as the file holds them."""
        row = self.next_written(0)
        while row < self.rows:
            times = self.read(row)[0][0]
            due = times >= start_us - REORDER_US
            if due.any():
                return row + int(np.argmax(due))
            row = self.next_written(row + len(times))
        return self.rows


class TriggerReader:
    """One pass over the triggers. row: that of the next one."""

    def __init__(self, triggers: TriggerRows | None, tally: Tally, row: int) -> None:
        self._triggers, self._tally, self.row = triggers, tally, row
        self._read = Triggers.empty()
        self._read_rows = np.empty(0, np.int64)  # where each of _read stands in the file
        self._read_to = row

    @property
    def ended(self) -> bool:
        return self._triggers is None or self.row >= self._triggers.rows

    def until(self, last_us: int) -> Triggers:
        """The triggers before the first one later than last_us, at most a stretch of them; counts the bad ones."""
        if self._triggers is None or self.ended:
            return Triggers.empty()
        if self.row >= self._read_to:
            self._read_on(self._triggers)
        skip = int(np.searchsorted(self._read_rows, self.row))
        later = self._read.t[skip:] > last_us
        n = int(np.argmax(later)) if later.any() else len(later)
        due = slice(skip, skip + n)
        self.row = int(self._read_rows[skip + n]) if n < len(later) else self._read_to
        return Triggers(self._read.t[due], self._read.channel[due], self._read.value[due])

    def _read_on(self, triggers: TriggerRows) -> None:
        """Read the next stretch and keep what is valid of it."""
        first = triggers.next_written(self.row)
        if first > self.row:
            self._tally.drop("missing_chunk", first - self.row, f"trigger {self.row}: never written")
        (t, channel, value), lost = triggers.read(first)
        gone = np.zeros(len(t), np.bool_)
        for part in lost:
            rows = slice(part.first - first, part.last - first)
            self._tally.drop(part.kind, int(np.count_nonzero(~gone[rows])), f"trigger {part.first}: {part.why}")
            gone[rows] = True
        bad = np.zeros(len(t), np.bool_)
        for low, values, high in ((-TIME_LIMIT_US, t, TIME_LIMIT_US), (0, channel, 255), (0, value, 1)):
            bad |= (values < low) | (values > high)
        bad &= ~gone
        if bad.any():
            i = int(np.argmax(bad))
            where = f"trigger {first + i}: t {t[i]}, channel {channel[i]}, value {value[i]}"
            self._tally.drop("bad_trigger", int(np.count_nonzero(bad)), where)
        bad |= gone
        good = np.flatnonzero(~bad)
        self._read = Triggers(t[good].astype(np.int64), channel[good].astype(np.uint8), value[good].astype(np.uint8))
        self._read_rows, self._read_to = first + good, first + len(t)
