"""Recording: one event file, decoded anew by every pass, in bounded memory.

Station: the door of the way of the data. In comes a file that `open_recording` recognised, out come runs of
`Events`. Each format supplies a `Reader` that yields blocks in the order of the file; what is common to all
(time order, starting at a time, counting what was dropped, the index) happens here.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from sys import getrefcount
from threading import Lock
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import MAX_SENSOR_SIDE, NO_TRIGGERS, Events, Triggers, Window
from spiketrack.recordings.index import Checkpoint, Index
from spiketrack.recordings.ordering import TimeOrder

_log = logging.getLogger(__name__)
_POOL_EVENTS = 1 << 15
_MOST_PLACE = 1 << 48  # bytes, rows or words that no file has
_UNUSED = 3  # references to an array: the tuple that holds it, the loop's variable, the argument of getrefcount
TIME_LIMIT_US = 1 << 62  # |t| beyond it cannot be a time, and sums of two times stay within int64
Policy = Literal["drop", "keep", "fail"]


@dataclass(frozen=True)
class ReadOptions:
    """How to read a recording.

    on_invalid: what to do with events that cannot be right. "drop" them; "keep" those that still have a pixel and a
    polarity, with the latest time before them where their own cannot be (an event off the sensor or without a time
    has nothing to keep and is dropped all the same); "fail" with a RecordingError at the first. All are counted.
    threads: how many pieces of a RAW, DAT or ECF file are decoded at a time; the events do not depend on it.
    index: use the sidecar index of the file, and write it where a pass went on for long.
    """

    on_invalid: Policy = "drop"
    threads: int = 1
    index: bool = True

    def __post_init__(self) -> None:
        if self.on_invalid not in get_args(Policy):
            raise RecordingError(f"on_invalid must be one of {', '.join(get_args(Policy))}, got {self.on_invalid!r}")
        if not 1 <= self.threads <= 64:
            raise RecordingError(f"threads must be 1 .. 64, got {self.threads}")


DEFAULT_OPTIONS = ReadOptions()


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

    def select(self, index: NDArray) -> Columns:
        """Copies of the events that a mask or a list of indices names, in its order."""
        t, x, y, p = self
        return Columns(t[index], x[index], y[index], p[index])

    def followed_by(self, other: Columns) -> Columns:
        """Both, copied."""
        t, x, y, p = (np.concatenate(pair) for pair in zip(self, other, strict=True))
        return Columns(t, x, y, p)


def largest_pixel(runs: Iterable[Columns | Events]) -> tuple[int, int] | None:
    """The largest x and the largest y of all events; None where there is none."""
    largest = None
    for run in runs:
        if len(run.x):
            x, y = largest or (0, 0)
            largest = max(x, int(run.x.max())), max(y, int(run.y.max()))
    return largest


class ColumnPool:
    """Memory for columns that is used again once nobody holds a view of it: fresh pages cost more than decoding.

    Safe between threads. A consumer that keeps its events keeps their memory, and gets other memory next time.
    """

    _MOST = 32

    def __init__(self) -> None:
        self._pool: list[Columns] = []
        self._lock = Lock()

    def take(self, most: int, least: int) -> Columns:
        """Columns of `least` to `most` events, with any content; only views of them may be handed on."""
        with self._lock:
            for columns in self._pool:
                if len(columns.t) >= least and all(getrefcount(column) == _UNUSED for column in columns):
                    return columns.cut(0, most)
            columns = Columns.allocate(-(-least // _POOL_EVENTS) * _POOL_EVENTS)
            self._pool = [*self._pool[1 - self._MOST :], columns]
            return columns.cut(0, most)


class Block(NamedTuple):
    """What a reader yields: some events and triggers of the file.

    columns: on-sensor events in the order of the file, fresh and owned by the receiver. place: where a new reader
    continues, made of integers. rises: whether their times are known never to fall; None where it was not checked.
    """

    columns: Columns
    place: Any
    triggers: Triggers = NO_TRIGGERS
    rises: bool | None = None


@dataclass
class Tally:
    """What one pass dropped (invalid) and mended (repaired), by kind, and where each kind was first dropped."""

    path: Path | None = None
    policy: Policy = "drop"
    invalid: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    first_invalid: dict[str, str] = field(default_factory=dict)

    @property
    def keep(self) -> bool:
        return self.policy == "keep"

    def drop(self, kind: str, count: int, where: str) -> None:
        """Count invalid events, the first of them at `where`. Raises RecordingError where the policy is to fail."""
        if count:
            self.invalid[kind] += count
            self.first_invalid.setdefault(kind, where)
            if self.policy == "fail":
                raise RecordingError(
                    f"{self.path}: invalid: {kind}, first at {where}; --on-invalid drop goes on without"
                )


class Reader(AbstractContextManager["Reader"], ABC):
    """One pass over a file, in the order of the file."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """All events still to come, a few 100,000 at a time at most; blocks may be empty."""


class Recording(ABC):
    """Events of one sensor, from a file of a known format, to be passed over as often as one likes.

    path; format: such as "evt3" or "hdf5"; width, height: pixels.
    invalid: events (or words, lines, packets) that cannot be right, met by the latest pass, by kind: "off_sensor",
    "bad_polarity", "bad_time", "time_backwards" (more than REORDER_US earlier than the latest time before it),
    "time_ahead" (that much later than the many that follow it), "before_time" and "before_address" (an event before
    the word that gives its time or its row), "unknown_word", "truncated_word" (the file ends inside a word),
    "bad_clock" (a reading of the clock that those around it contradict), "bad_line" (text), "bad_coordinate" (an
    array's x or y is no whole number), "truncated_array", "bad_trigger", "broken_packet" (AEDAT4).
    repaired: events kept but mended, by kind: "reordered" (up to REORDER_US earlier than the latest time before
    them; moved to their place).
    first_invalid: for each kind of `invalid`, where the first one is.
    The three are new objects at the start of each pass, so that they tell of the latest pass only.
    """

    invalid: Counter[str]
    repaired: Counter[str]
    first_invalid: dict[str, str]

    def __init__(self, path: Path, format: str, width: int, height: int) -> None:
        for name, side in (("width", width), ("height", height)):
            if not 0 < side <= MAX_SENSOR_SIDE:
                raise RecordingError(f"{path}: a {name} of {side} pixels cannot be; expected 1 .. {MAX_SENSOR_SIDE}")
        self.path, self.format, self.width, self.height = path, format, width, height
        self.invalid, self.repaired, self.first_invalid = Counter(), Counter(), {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {self.format}, {self.width}x{self.height})"

    @abstractmethod
    def chunks_with_triggers(self, start_us: int | None = None) -> Iterator[tuple[Events, Triggers]]:
        """As `chunks`, with the triggers that the file holds about where it holds these events.

        Runs may be without events where there are triggers. Triggers come in the order of the file.
        """

    def chunks(self, start_us: int | None = None) -> Iterator[Events]:
        """All events with t >= start_us (all where None), in runs of at least 1 and at most a few 100,000 events.

        The runs follow each other in time: every event is on the sensor and none is earlier than one before it,
        also across runs. Memory is a few runs, whatever the length of the file. A second pass that starts late
        continues from where an earlier pass came by, with the same events and counts; see `ReadOptions.index`.
        Raises RecordingError naming the file where it cannot be read.
        """
        return (events for events, _ in self.chunks_with_triggers(start_us) if len(events))

    def read(self, start_us: int, end_us: int) -> Window:
        """All events of [start_us, end_us) at once, for random access; memory is that of the window."""
        parts = [Events.empty(self.width, self.height)]
        for run in self.chunks(start_us):
            parts.append(run.between(start_us, end_us))
            if run.t[-1] >= end_us:
                break
        return Window.of(Events.concatenate(parts), start_us, end_us)


class FileRecording(Recording):
    """What all formats share: order, starting late, counting. It holds no open file, each pass opens its own."""

    _PLACE_NUMBERS: ClassVar[int] = 1  # integers that a place is made of

    def __init__(
        self, path: Path, format: str, width: int, height: int, options: ReadOptions = DEFAULT_OPTIONS
    ) -> None:
        super().__init__(path, format, width, height)
        self.options = options
        self._index: Index | None = None
        self._told: set[str] = set()

    @abstractmethod
    def _reader(self, tally: Tally, place: Any) -> Reader:
        """A reader from `place` on, or from the start where place is None."""

    def _seek(self, start_us: int) -> Any:
        """A place before which no event is at or after start_us, where the format can tell; else None."""
        return None

    def chunks_with_triggers(self, start_us: int | None = None) -> Iterator[tuple[Events, Triggers]]:
        if start_us is not None and abs(start_us) > TIME_LIMIT_US:
            raise RecordingError(f"{self.path}: start_us = {start_us} is no time in microseconds")
        checkpoint = self._checkpoint_before(start_us)
        tally = Tally(self.path, self.options.on_invalid, *checkpoint.counters())
        self._restart(tally)
        order = TimeOrder(tally, checkpoint.order)
        earliest = -TIME_LIMIT_US if start_us is None else start_us
        waiting = NO_TRIGGERS
        noted: Checkpoint | None = None
        try:
            with self._reader(tally, checkpoint.place) as reader:
                for block in reader.blocks():
                    handed_out = order.push(block.columns, block.rises)
                    if len(block.columns.t):
                        noted = self._remember(noted, block.place, order, tally)
                    yield from self._runs(handed_out, waiting, earliest)
                    if handed_out or not len(waiting):
                        waiting = block.triggers
                    elif len(block.triggers):
                        waiting = Triggers.concatenate([waiting, block.triggers])
            yield from self._runs(order.rest() or [Columns.allocate(0)], waiting, earliest)
        finally:
            self._say_what_was_invalid(tally)
            if self._index is not None:
                self._index.save()

    def _runs(self, handed_out: list[Columns], triggers: Triggers, earliest: int) -> Iterator[tuple[Events, Triggers]]:
        for columns in handed_out:
            if len(columns.t) and columns.t[0] < earliest:
                columns = columns.cut(int(np.searchsorted(columns.t, earliest)), len(columns.t))
            if len(triggers):
                triggers = triggers.between(earliest, TIME_LIMIT_US)
            for column in columns:
                column.flags.writeable = False
            if len(columns.t) or len(triggers):
                yield Events.trusted(*columns, self.width, self.height), triggers
            triggers = NO_TRIGGERS

    def _say_what_was_invalid(self, tally: Tally) -> None:
        """A warning for each kind, once for each Recording however often it is read."""
        for kind in tally.invalid.keys() - self._told:
            self._told.add(kind)
            what = "kept where it could be" if tally.keep else "dropped"
            where = tally.first_invalid[kind]
            _log.warning("%s: %d x %s %s, first at %s", self.path, tally.invalid[kind], kind, what, where)

    def _restart(self, tally: Tally) -> None:
        self.invalid, self.repaired, self.first_invalid = tally.invalid, tally.repaired, tally.first_invalid

    def _checkpoint_before(self, start_us: int | None) -> Checkpoint:
        """The last known state in which every event so far was earlier than start_us: none of them is needed."""
        if self._index is None:
            self._index = Index(self.path, self._index_key(), self._is_place if self.options.index else None)
        if start_us is None:
            return Checkpoint.start()
        place = self._seek(start_us)
        if place is not None:
            return Checkpoint.start()._replace(place=place)
        return self._index.before(start_us)

    def _index_key(self) -> dict[str, Any]:
        """What the index depends on beside the file itself."""
        return {
            "format": self.format,
            "width": self.width,
            "height": self.height,
            "on_invalid": self.options.on_invalid,
        }

    def _remember(self, noted: Checkpoint | None, place: Any, order: TimeOrder, tally: Tally) -> Checkpoint | None:
        """Keep the state noted behind the block before, where this block does not reach back behind it, and note this.

        Where it does, both are judged together, which a pass that starts between them could not do.
        """
        if self._index is None:
            return None
        if noted is not None and order.orderly:
            self._index.add(noted)
        if not self._index.wants(order.state):
            return None
        latest = order.state.latest
        counts = dict(tally.invalid), dict(tally.repaired), dict(tally.first_invalid)
        return Checkpoint(place, order.state._replace(floor=latest), *counts)

    def _is_place(self, place: Any) -> bool:
        """Whether a reader could continue at this place, which comes from a file."""
        numbers = place if isinstance(place, tuple) else (place,)
        return len(numbers) == self._PLACE_NUMBERS and all(type(n) is int and 0 <= n <= _MOST_PLACE for n in numbers)
