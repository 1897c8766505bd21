"""Recording: one event file, decoded anew by every pass, in bounded memory.

Station: the door of the way of the data. In comes a file that `open_recording` recognised, out come runs of
`Events`. Each format supplies a `Reader` that fills columns in the order of the file; what is common to all
(time order, hold-back, starting at a time, counting what was dropped) happens here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import MAX_SENSOR_SIDE, Events, Window
from spiketrack.recordings.ordering import TimeOrder

CHUNK_EVENTS = 1 << 20
TIME_LIMIT_US = 1 << 62  # |t| beyond it cannot be a time, and sums of two times stay within int64
_MAX_CHECKPOINTS = 4096


class Columns(NamedTuple):
    """Columns that a reader fills: t (N,) int64 us, x and y (N,) uint16, p (N,) uint8."""

    t: NDArray[np.int64]
    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    p: NDArray[np.uint8]

    @classmethod
    def allocate(cls, n: int) -> Columns:
        return cls(np.empty(n, np.int64), np.empty(n, np.uint16), np.empty(n, np.uint16), np.empty(n, np.uint8))

    def cut(self, first: int, last: int) -> Columns:
        """Events first .. last - 1, as views."""
        t, x, y, p = self
        return Columns(t[first:last], x[first:last], y[first:last], p[first:last])


@dataclass
class Tally:
    """What one pass dropped (invalid) and mended (repaired), by kind, and where each kind was first dropped."""

    invalid: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    first_invalid: dict[str, str] = field(default_factory=dict)

    def drop(self, kind: str, count: int, where: str) -> None:
        if count:
            self.invalid[kind] += count
            self.first_invalid.setdefault(kind, where)

    def copy(self) -> Tally:
        return Tally(self.invalid.copy(), self.repaired.copy(), self.first_invalid.copy())


class Reader(AbstractContextManager["Reader"], ABC):
    """One pass over a file, in the order of the file."""

    @abstractmethod
    def events_left(self) -> int:
        """An upper bound of the events still to come."""

    @abstractmethod
    def fill(self, columns: Columns, n: int) -> tuple[int, bool]:
        """Write on-sensor events to columns from index n on; returns the new n and whether the file has ended."""

    @abstractmethod
    def place(self) -> Any:
        """Where the next `fill` continues, such that a new reader started there yields the same events."""


@dataclass(frozen=True)
class _Checkpoint:
    place: Any
    order: TimeOrder
    tally: Tally

    @property
    def latest_us(self) -> int:
        return -TIME_LIMIT_US if self.order.latest is None else self.order.latest


class Recording(ABC):
    """One event file of a known format and sensor size. It holds no open file; every pass opens its own.

    path; format: "evt2", "evt3", "dat", "hdf5", "aedat4" or "nmnist"; width, height: pixels.
    invalid: events (or words) dropped by the latest pass, by kind: "off_sensor", "bad_polarity", "bad_time",
    "time_backwards" (more than REORDER_US earlier than the latest time before it), "before_time" and
    "before_address" (an event before the word that gives its time or its row), "unknown_word",
    "truncated_word" (the file ends inside a word).
    repaired: events kept but mended, by kind: "reordered" (up to REORDER_US earlier than the latest time before
    them; moved to their place).
    first_invalid: for each kind of `invalid`, where the first one is.
    The three are new objects at the start of each pass, so that they tell of the latest pass only.
    """

    def __init__(self, path: Path, format: str, width: int, height: int) -> None:
        for name, side in (("width", width), ("height", height)):
            if not 0 < side <= MAX_SENSOR_SIDE:
                raise RecordingError(f"{path}: a {name} of {side} pixels cannot be; expected 1 .. {MAX_SENSOR_SIDE}")
        self.path, self.format, self.width, self.height = path, format, width, height
        self._restart(Tally())
        self._checkpoints: list[_Checkpoint] = []

    def __repr__(self) -> str:
        return f"Recording({str(self.path)!r}, {self.format}, {self.width}x{self.height})"

    @abstractmethod
    def _reader(self, tally: Tally, place: Any) -> Reader:
        """A reader from `place` on, or from the start where place is None."""

    def _seek(self, start_us: int) -> Any:
        """A place before which no event is at or after start_us, where the format can tell; else None."""
        return None

    def chunks(self, start_us: int | None = None) -> Iterator[Events]:
        """All events with t >= start_us (all where None), in runs of 1 to CHUNK_EVENTS events.

        The runs follow each other in time: every event is on the sensor and none is earlier than one before it,
        also across runs. Memory is a few runs, whatever the length of the file. A second pass that starts late
        continues from where an earlier pass of this object came by, with the same events and counts.
        Raises RecordingError naming the file where it cannot be read.
        """
        if start_us is not None and abs(start_us) > TIME_LIMIT_US:
            raise RecordingError(f"{self.path}: start_us = {start_us} is no time in microseconds")
        checkpoint = self._checkpoint_before(start_us)
        order, tally = checkpoint.order.copy(), checkpoint.tally.copy()
        self._restart(tally)
        held = Columns.allocate(0)
        with self._reader(tally, checkpoint.place) as reader:
            ended = False
            while not ended:
                first = len(held.t)
                columns = Columns.allocate(min(CHUNK_EVENTS, first + reader.events_left()))
                for column, kept in zip(columns, held, strict=True):
                    column[:first] = kept
                n, ended = reader.fill(columns, first)
                n = order.arrange(columns, first, n, tally)
                settled = n if ended else order.settle(columns.t[:n], CHUNK_EVENTS // 2)
                held = columns.cut(settled, n)
                since = 0 if start_us is None else int(np.searchsorted(columns.t[:settled], start_us))
                if not ended:
                    self._remember(_Checkpoint(reader.place(), order.copy(), tally.copy()))
                if since < settled:
                    run = columns.cut(since, settled)
                    for column in run:
                        column.flags.writeable = False
                    yield Events.trusted(*run, self.width, self.height)

    def read(self, start_us: int, end_us: int) -> Window:
        """All events of [start_us, end_us) at once, for random access; memory is that of the window."""
        parts = [Events.empty(self.width, self.height)]
        for run in self.chunks(start_us):
            parts.append(run.between(start_us, end_us))
            if run.t[-1] >= end_us:
                break
        return Window.of(Events.concatenate(parts), start_us, end_us)

    def _restart(self, tally: Tally) -> None:
        self.invalid, self.repaired, self.first_invalid = tally.invalid, tally.repaired, tally.first_invalid

    def _checkpoint_before(self, start_us: int | None) -> _Checkpoint:
        """The last known state in which every event so far was earlier than start_us: none of them is needed."""
        if start_us is None:
            return _Checkpoint(None, TimeOrder(), Tally())
        place = self._seek(start_us)
        i = bisect_left(self._checkpoints, start_us, key=lambda checkpoint: checkpoint.latest_us)
        if place is None and i:
            return self._checkpoints[i - 1]
        return _Checkpoint(place, TimeOrder(), Tally())

    def _remember(self, checkpoint: _Checkpoint) -> None:
        known = self._checkpoints
        if checkpoint.latest_us > (known[-1].latest_us if known else -TIME_LIMIT_US):
            known.append(checkpoint)
            if len(known) > _MAX_CHECKPOINTS:
                del known[::2]
