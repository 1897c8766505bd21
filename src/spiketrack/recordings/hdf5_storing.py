"""Stores: what EventWriter puts into an HDF5 file, in the layout of eTraM or, with ECF, in Prophesee's own.

In come runs of events in order of time and the triggers beside them, out go datasets that grow with them and an index
by time that is written alongside; memory is that of a run and one stored chunk.
"""

from __future__ import annotations

from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import Events, Triggers
from spiketrack.recordings.ecf import ECF_FILTER
from spiketrack.recordings.ecf_encoding import MAX_SIDE, encode_ecf
from spiketrack.recordings.hdf5_layouts import MS_INDEX, PROPHESEE_PERIOD_US, SORTED_ATTRIBUTE

STORED_CHUNK = 1 << 14
_INDEX_CHUNK = 1 << 11
_MOST_PERIODS = 1 << 22
_COLUMNS = {"x": np.uint16, "y": np.uint16, "p": np.int16, "t": np.int64}
_TRIGGER_COLUMNS = {"t": np.int64, "channel": np.uint8, "value": np.uint8}
_EVENT = np.dtype({"names": ["x", "y", "p", "t"], "formats": ["<u2", "<u2", "<i2", "<i8"], "offsets": [0, 2, 4, 8]})
_TRIGGER = np.dtype(
    {"names": ["p", "t", "id"], "formats": ["<i2", "<i8", "<i2"], "offsets": [0, 8, 16], "itemsize": 24}
)
_INDEX = np.dtype([("id", "<u8"), ("ts", "<i8")])


class Store(Protocol):
    """Datasets of a file that is being written. Each call may raise OSError."""

    def append(self, events: Events) -> None: ...
    def append_triggers(self, triggers: Triggers) -> None: ...
    def finish(self) -> None: ...


def make_store(file: h5py.File, width: int, height: int, compression: str | None) -> Store:
    """compression: None, "gzip", "blosc" or "ecf". Raises RecordingError where it is missing or cannot hold it."""
    if compression == "ecf":
        return EcfStore(file, width, height)
    return ColumnStore(file, width, height, _filter(compression))


def _filter(compression: str | None) -> dict[str, Any]:
    if compression == "gzip":
        return {"compression": "gzip", "compression_opts": 4, "shuffle": True}
    if compression == "blosc":
        try:
            import hdf5plugin
        except ImportError:
            raise RecordingError(
                "compression 'blosc' needs a package that is not installed: pip install hdf5plugin"
            ) from None
        return dict(hdf5plugin.Blosc(cname="zstd", clevel=3, shuffle=hdf5plugin.Blosc.SHUFFLE))
    return {}


class ColumnStore:
    """`events/{x, y, p, t}`, `events/width`, `events/height`, `ms_index/{ms, row}`, `triggers/{t, channel, value}`."""

    def __init__(self, file: h5py.File, width: int, height: int, filters: dict[str, Any]) -> None:
        self._file, self._filters = file, filters
        group = file.create_group("events")
        group.attrs[SORTED_ATTRIBUTE] = True
        group["width"], group["height"] = width, height
        self._columns = {name: self._dataset(group, name, dtype) for name, dtype in _COLUMNS.items()}
        index = file.create_group(MS_INDEX)
        self._ms, self._row = (self._dataset(index, name, np.int64, _INDEX_CHUNK) for name in ("ms", "row"))
        self._rows, self._last_ms = 0, None
        self._triggers: dict[str, h5py.Dataset] | None = None

    def _dataset(self, group: h5py.Group, name: str, dtype: Any, chunk: int = STORED_CHUNK) -> h5py.Dataset:
        return group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(chunk,), **self._filters)

    def append(self, events: Events) -> None:
        for name, column in self._columns.items():
            _extend(column, getattr(events, name))
        ms = events.t // 1000
        starts = np.flatnonzero(ms[1:] != ms[:-1]) + 1
        if len(ms) and ms[0] != self._last_ms:
            starts = np.concatenate([[0], starts])
        _extend(self._ms, ms[starts])
        _extend(self._row, self._rows + starts)
        self._rows += len(ms)
        self._last_ms = ms[-1] if len(ms) else self._last_ms

    def append_triggers(self, triggers: Triggers) -> None:
        if self._triggers is None:
            group = self._file.create_group("triggers")
            self._triggers = {
                name: self._dataset(group, name, dtype, _INDEX_CHUNK) for name, dtype in _TRIGGER_COLUMNS.items()
            }
        for name, column in self._triggers.items():
            _extend(column, getattr(triggers, name))

    def finish(self) -> None:
        """Nothing is held back."""


class EcfStore:
    """`CD/events` with ECF, `CD/indexes`, `EXT_TRIGGER/events` and its indexes, as Prophesee's tools write them."""

    def __init__(self, file: h5py.File, width: int, height: int) -> None:
        if max(width, height) > MAX_SIDE:
            raise RecordingError(f"ECF holds sensors of at most {MAX_SIDE} x {MAX_SIDE} pixels, not {width} x {height}")
        file.attrs["version"], file.attrs["format"] = "1.0", f"ECF;height={height};width={width}"
        file.attrs["geometry"] = f"{width}x{height}"
        self._events = _ecf_dataset(file.create_group("CD"))
        self._index = _PeriodIndex(file["CD"])
        self._triggers = _records(file.create_group("EXT_TRIGGER"), "events", _TRIGGER)
        self._trigger_index = _PeriodIndex(file["EXT_TRIGGER"])
        self._rest = Events.empty(width, height)

    def append(self, events: Events) -> None:
        self._index.add(events.t)
        events = Events.concatenate([self._rest, events])
        whole = len(events) // STORED_CHUNK * STORED_CHUNK
        for first in range(0, whole, STORED_CHUNK):
            self._write_chunk(events[first : first + STORED_CHUNK])
        rest = (getattr(events, name)[whole:].copy() for name in "txyp")
        self._rest = Events.trusted(*rest, events.width, events.height)

    def append_triggers(self, triggers: Triggers) -> None:
        self._trigger_index.add(triggers.t)
        records: NDArray = np.zeros(len(triggers), _TRIGGER)
        records["t"], records["id"], records["p"] = triggers.t, triggers.channel, triggers.value
        _extend(self._triggers, records)

    def finish(self) -> None:
        if len(self._rest):
            self._write_chunk(self._rest)
        self._index.finish()
        self._trigger_index.finish()

    def _write_chunk(self, events: Events) -> None:
        first = len(self._events)
        self._events.resize(first + len(events), axis=0)
        coded = encode_ecf(events.t, events.x, events.y, events.p)
        self._events.id.write_direct_chunk((first,), coded.tobytes())


class _PeriodIndex:
    """Prophesee's `indexes`: entry k holds the row and the time of the first event of the last period that has one
    before the first event of period k, counted from the first event of the file; one more entry holds the last period.
    """

    def __init__(self, group: h5py.Group) -> None:
        self._index = _records(group, "indexes", _INDEX)
        self._name, self._rows = group.name, 0
        self._start: int | None = None
        self._last = (-1, 0, -1)  # period, row and time of its first event

    def add(self, t: NDArray[np.int64]) -> None:
        if not len(t):
            return
        if self._start is None:
            self._start = int(t[0])
            self._index.attrs["offset"] = str(-self._start)
        since = np.maximum(t - self._start, max(self._last[2], 0))
        periods = np.maximum.accumulate(since) // PROPHESEE_PERIOD_US
        starts = np.flatnonzero(np.diff(periods, prepend=self._last[0]))
        firsts = np.array(
            [self._last, *zip(periods[starts], self._rows + starts, since[starts], strict=True)], np.int64
        )
        counts = np.diff(firsts[:, 0])
        if counts.sum() > _MOST_PERIODS:
            raise RecordingError(
                f"ECF: {len(t)} rows of {self._name} span {counts.sum() * PROPHESEE_PERIOD_US / 3.6e9:.1f} hours, "
                "too long for Prophesee's index with its entry for every 2 ms; choose another compression"
            )
        entries: NDArray = np.empty(int(counts.sum()), _INDEX)
        entries["id"], entries["ts"] = np.repeat(firsts[:-1, 1], counts), np.repeat(firsts[:-1, 2], counts)
        _extend(self._index, entries)
        self._rows += len(t)
        self._last = tuple(firsts[-1].tolist())

    def finish(self) -> None:
        if self._start is not None:
            _extend(self._index, np.array([self._last[1:]], _INDEX))


def _extend(dataset: h5py.Dataset, values: NDArray) -> None:
    first = len(dataset)
    if len(values):
        dataset.resize(first + len(values), axis=0)
        dataset[first:] = values


def _records(group: h5py.Group, name: str, dtype: np.dtype) -> h5py.Dataset:
    return group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(STORED_CHUNK,))


def _ecf_dataset(group: h5py.Group) -> h5py.Dataset:
    """h5py's own interface does not take a filter that HDF5 cannot run; the chunks are encoded here."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((STORED_CHUNK,))
    settings.set_filter(ECF_FILTER, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((0,), (h5py.h5s.UNLIMITED,))
    return h5py.Dataset(h5py.h5d.create(group.id, b"events", h5py.h5t.py_create(_EVENT), space, settings))
