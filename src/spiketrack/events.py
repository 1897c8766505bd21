"""Events: the record that every recording is decoded into.

Station: the first record on the way of the data. In come the columns of a decoder, out go time-ordered,
sensor-checked events that every representation may trust without looking again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

MAX_SENSOR_SIDE = 65_536


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Events:
    """Events of one sensor, sorted by time.

    t: (N,) int64, microseconds, never decreasing. x, y: (N,) uint16, pixels, 0 <= x < width, 0 <= y < height,
    origin at the top left. p: (N,) uint8, 1 for ON (brighter), 0 for OFF. width, height: the sensor in pixels.

    Construction checks all of this and raises ValueError naming the first event that breaks it; use
    `Events.repaired` to drop and count bad events instead. The columns are read-only views where NumPy allows
    it, and slicing never copies.
    """

    t: NDArray[np.int64]
    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    p: NDArray[np.uint8]
    width: int
    height: int

    def __post_init__(self) -> None:
        _check_sensor(self.width, self.height)
        dtypes = {"t": np.int64, "x": np.uint16, "y": np.uint16, "p": np.uint8}
        for name, dtype in dtypes.items():
            column = np.asarray(getattr(self, name))
            if column.ndim != 1:
                raise ValueError(f"events: {name} must be one-dimensional, got shape {column.shape}")
            if column.dtype != dtype:
                raise ValueError(
                    f"events: {name} must be {np.dtype(dtype)}, got {column.dtype}; Events.repaired converts and checks"
                )
            view = column.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        lengths = {name: len(getattr(self, name)) for name in dtypes}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"events: columns differ in length: {lengths}")
        self._raise_at_first(self.x >= self.width, "x", f"outside a sensor {self.width} wide")
        self._raise_at_first(self.y >= self.height, "y", f"outside a sensor {self.height} high")
        self._raise_at_first(self.p > 1, "p", "not a polarity (0 or 1)")
        if len(self.t) > 1:
            backward = np.flatnonzero(self.t[1:] < self.t[:-1])
            if len(backward):
                i = int(backward[0]) + 1
                raise ValueError(
                    f"events: time runs backwards at event {i}: {self.t[i]} us after {self.t[i - 1]} us; "
                    "Events.repaired sorts and counts"
                )

    def _raise_at_first(self, bad: NDArray[np.bool_], name: str, what: str) -> None:
        if bad.any():
            i = int(np.argmax(bad))
            raise ValueError(f"events: {name} = {getattr(self, name)[i]} at event {i} is {what}")

    @classmethod
    def trusted(
        cls,
        t: NDArray[np.int64],
        x: NDArray[np.uint16],
        y: NDArray[np.uint16],
        p: NDArray[np.uint8],
        width: int,
        height: int,
    ) -> Self:
        """Build without checking, for code that has just established every property itself."""
        events = object.__new__(cls)
        for name, value in (("t", t), ("x", x), ("y", y), ("p", p), ("width", width), ("height", height)):
            object.__setattr__(events, name, value)
        return events

    @classmethod
    def empty(cls, width: int, height: int) -> Self:
        """No events; same dtypes as a full record."""
        return cls(
            np.empty(0, np.int64),
            np.empty(0, np.uint16),
            np.empty(0, np.uint16),
            np.empty(0, np.uint8),
            width,
            height,
        )

    @classmethod
    def repaired(
        cls, t: NDArray, x: NDArray, y: NDArray, p: NDArray, width: int, height: int
    ) -> tuple[Self, Counter[str]]:
        """Build from columns of any integer dtype; drop what is outside the sensor, sort what is out of order.

        Returns the events and the counted repairs: "off_sensor" and "bad_polarity" events were dropped, of
        "reordered" events the time was earlier than that of the event before them in the input (a stable sort
        moved them, none is lost). Counts of zero are absent.
        """
        _check_sensor(width, height)
        columns = [np.asarray(column) for column in (t, x, y, p)]
        if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
            raise ValueError(f"events: columns differ in shape: {[column.shape for column in columns]}")
        for name, column in zip("txyp", columns, strict=True):
            if column.dtype.kind not in "iub":
                raise ValueError(f"events: {name} must be integers, got {column.dtype}")
        t, x, y, p = columns
        repairs: Counter[str] = Counter()
        on_sensor = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        polar = (p == 0) | (p == 1)
        repairs["off_sensor"] = int(len(t) - np.count_nonzero(on_sensor))
        repairs["bad_polarity"] = int(np.count_nonzero(on_sensor & ~polar))
        keep = on_sensor & polar
        if not keep.all():
            t, x, y, p = t[keep], x[keep], y[keep], p[keep]
        t = t.astype(np.int64, copy=False)
        repairs["reordered"] = int(np.count_nonzero(t[1:] < t[:-1]))
        if repairs["reordered"]:
            order = np.argsort(t, kind="stable")
            t, x, y, p = t[order], x[order], y[order], p[order]
        events = cls(t, x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), width, height)
        return events, +repairs

    def __len__(self) -> int:
        return len(self.t)

    def __repr__(self) -> str:
        span = f", {self.t[0]} .. {self.t[-1]} us" if len(self) else ""
        return f"{type(self).__name__}({len(self)} events on {self.width}x{self.height}{span})"

    def __getitem__(self, index: slice) -> Events:
        """A contiguous run of events as views; only slices with a positive step keep the order, others raise."""
        if not isinstance(index, slice) or (index.step or 1) < 1:
            raise TypeError("events: index with a slice of positive step, for example events[10:20]")
        return Events.trusted(self.t[index], self.x[index], self.y[index], self.p[index], self.width, self.height)

    def between(self, start_us: int, end_us: int) -> Events:
        """The events with start_us <= t < end_us, as views."""
        first, last = np.searchsorted(self.t, (start_us, end_us))
        return self[first:last]

    @staticmethod
    def concatenate(parts: list[Events]) -> Events:
        """Join runs that follow each other in time; copies once. Raises ValueError where they do not follow."""
        if not parts:
            raise ValueError("events: nothing to concatenate; use Events.empty(width, height)")
        if len({(part.width, part.height) for part in parts}) > 1:
            raise ValueError("events: runs of different sensors cannot be joined")
        full = [part for part in parts if len(part)] or parts[:1]
        for before, after in pairwise(full):
            if after.t[0] < before.t[-1]:
                raise ValueError(f"events: a run starts at {after.t[0]} us, before {before.t[-1]} us")
        if len(full) == 1:
            return full[0]
        columns = [np.concatenate([getattr(part, name) for part in full]) for name in "txyp"]
        return Events.trusted(*columns, full[0].width, full[0].height)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Window(Events):
    """The events of one half-open time window [start_us, end_us), together with the window itself.

    An empty window knows its bounds too, so that bins always come from the window, never from its events.
    """

    start_us: int
    end_us: int

    def __post_init__(self) -> None:
        Events.__post_init__(self)
        if self.end_us <= self.start_us:
            raise ValueError(f"window: it must end after it starts, got [{self.start_us}, {self.end_us}) us")
        if len(self.t) and (self.t[0] < self.start_us or self.t[-1] >= self.end_us):
            raise ValueError(f"window: events {self.t[0]} .. {self.t[-1]} us leave [{self.start_us}, {self.end_us}) us")

    @classmethod
    def of(cls, events: Events, start_us: int, end_us: int) -> Window:
        """Cut the window out of events, as views."""
        if end_us <= start_us:
            raise ValueError(f"window: it must end after it starts, got [{start_us}, {end_us}) us")
        cut = events.between(start_us, end_us)
        window = Window.trusted(cut.t, cut.x, cut.y, cut.p, cut.width, cut.height)
        object.__setattr__(window, "start_us", start_us)
        object.__setattr__(window, "end_us", end_us)
        return window


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Triggers:
    """Signals on the external inputs of a camera, in the order of the file.

    t: (N,) int64, microseconds. channel: (N,) uint8, the input's number (0 .. 31). value: (N,) uint8, 1 for a rising
    edge, 0 for a falling one. They belong to no pixel, so they travel beside `Events`, never among them.
    """

    t: NDArray[np.int64]
    channel: NDArray[np.uint8]
    value: NDArray[np.uint8]

    def __post_init__(self) -> None:
        for name, dtype in {"t": np.int64, "channel": np.uint8, "value": np.uint8}.items():
            column = np.asarray(getattr(self, name))
            if not np.can_cast(column.dtype, dtype, "same_kind"):
                raise ValueError(f"triggers: {name} must be {np.dtype(dtype)}, got {column.dtype}")
            view = column.astype(dtype).view()
            if view.ndim != 1 or len(view) != len(self.t):
                raise ValueError(f"triggers: {name} must be one-dimensional, of the same length as t")
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        if len(self.value) and self.value.max() > 1:
            raise ValueError(f"triggers: a value is 0 or 1, got {self.value.max()}")

    def __len__(self) -> int:
        return len(self.t)

    def __repr__(self) -> str:
        return f"Triggers({len(self)})"

    @classmethod
    def empty(cls) -> Self:
        return cls(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.uint8))

    def between(self, start_us: int, end_us: int) -> Triggers:
        """Those with start_us <= t < end_us."""
        inside = (self.t >= start_us) & (self.t < end_us)
        return Triggers(self.t[inside], self.channel[inside], self.value[inside])

    @staticmethod
    def concatenate(parts: list[Triggers]) -> Triggers:
        """One after the other; an empty list gives an empty record."""
        parts = [Triggers.empty(), *parts]
        return Triggers(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("t", "channel", "value"))
        )


NO_TRIGGERS = Triggers.empty()


def _check_sensor(width: int, height: int) -> None:
    if not (0 < width <= MAX_SENSOR_SIDE and 0 < height <= MAX_SENSOR_SIDE):
        raise ValueError(f"events: a sensor of {width} x {height} pixels cannot be; sides are 1 .. {MAX_SENSOR_SIDE}")
