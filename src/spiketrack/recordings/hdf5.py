"""eTraM HDF5: read `events/{x, y, p, t}` with the scalars `events/width` and `events/height`.

In comes a file whose columns may be of any integer type, out go on-sensor events. Public files hold corrupt
coordinates (y = 33014 on 720 rows): they are dropped and counted, never wrapped.
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import MAX_SENSOR_SIDE, Events, Window
from spiketrack.recordings.recording import TIME_LIMIT_US, Columns, Reader, Recording, Tally
from spiketrack.recordings.writer import SORTED_ATTRIBUTE

MAX_STORED_CHUNK_BYTES = 1 << 30
_CHUNK_CACHE_BYTES = 1 << 24
_COARSE_ROWS = 1 << 14


def open_hdf5(path: Path, width: int | None, height: int | None) -> Recording:
    """Check the layout and sizes of an HDF5 file; see `spiketrack.recordings.open_recording`."""
    with _open(path) as file:
        try:
            _refuse_other_layouts(file, path)
            columns = _columns(file, path)
            said = {name: _scalar(file, name, path) for name in ("width", "height")}
            # written in order by EventWriter: no event is out of order or off the sensor of the file
            is_sorted = bool(columns["t"].parent.attrs.get(SORTED_ATTRIBUTE, False))
        except RecordingError:
            raise
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RecordingError(f"{path}: broken HDF5 structure: {error}") from error
    width, height = width or said["width"], height or said["height"]
    if width is None or height is None:
        raise RecordingError(f"{path}: no events/width and events/height in the file; give width and height")
    return Hdf5Recording(path, width, height, is_sorted)


class Hdf5Recording(Recording):
    """A recording in the eTraM layout. A pass that starts late bisects where EventWriter wrote the file."""

    def __init__(self, path: Path, width: int, height: int, is_sorted: bool) -> None:
        super().__init__(path, "hdf5", width, height)
        self._is_sorted = is_sorted
        self._coarse: NDArray[np.int64] | None = None  # for random access; 8 bytes for each _COARSE_ROWS events

    def _reader(self, tally: Tally, place: Any) -> Reader:
        return _Hdf5Reader(self, tally, place or 0)

    def _seek(self, start_us: int) -> int | None:
        if not self._is_sorted:
            return None
        with _open(self.path) as file:
            try:
                return bisect_left(_columns(file, self.path)["t"], start_us)
            except OSError as error:
                raise _unreadable(self.path, "in events/t", error) from error

    def read(self, start_us: int, end_us: int) -> Window:
        if not self._is_sorted:
            return super().read(start_us, end_us)
        self._restart(tally := Tally())
        with _Hdf5Reader(self, tally, 0) as reader:
            if self._coarse is None:
                self._coarse = reader.coarse_times()
            reader.rows_of(start_us, end_us, self._coarse)
            columns = Columns.allocate(reader.events_left())
            n, _ = reader.fill(columns, 0)
        events = Events.trusted(*columns.cut(0, n), self.width, self.height)
        return Window.of(events, start_us, end_us)


class _Hdf5Reader(Reader):
    """One pass; `place` is the row of the next event."""

    def __init__(self, recording: Recording, tally: Tally, row: int) -> None:
        self._recording, self._tally, self._row = recording, tally, row
        self._file = _open(recording.path)
        try:
            self._columns = _columns(self._file, recording.path)
        except BaseException:
            self._file.close()
            raise
        self._rows = len(self._columns["t"])
        self._stored = (self._columns["t"].chunks or (1,))[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rows_of(self, start_us: int, end_us: int, coarse: NDArray[np.int64]) -> None:
        """Restrict the pass to the window's rows of a sorted file. coarse: every _COARSE_ROWS-th time."""
        t = self._columns["t"]
        first = max(int(np.searchsorted(coarse, start_us)) - 1, 0) * _COARSE_ROWS
        last = min(int(np.searchsorted(coarse, end_us)) * _COARSE_ROWS, self._rows)
        try:
            times = t[first:last]
        except OSError as error:
            raise _unreadable(self._recording.path, "in events/t", error) from error
        self._row, self._rows = (first + int(row) for row in np.searchsorted(times, (start_us, end_us)))

    def coarse_times(self) -> NDArray[np.int64]:
        """Every _COARSE_ROWS-th time."""
        try:
            return np.asarray(self._columns["t"][::_COARSE_ROWS], np.int64)
        except OSError as error:
            raise _unreadable(self._recording.path, "in events/t", error) from error

    def events_left(self) -> int:
        return self._rows - self._row

    def place(self) -> int:
        return self._row

    def fill(self, columns: Columns, n: int) -> tuple[int, bool]:
        first, last = self._row, min(self._rows, self._row + len(columns.t) - n)
        if last < self._rows and last // self._stored * self._stored > first:
            last = last // self._stored * self._stored  # a stored chunk is decompressed once
        try:
            t, x, y, p = (self._columns[name][first:last] for name in "txyp")
        except OSError as error:
            raise _unreadable(self._recording.path, f"in events {first} .. {last - 1}", error) from error
        self._row = last
        end, keep = n + last - first, self._valid(t, x, y, p, first)
        if keep is not None:
            t, x, y, p, end = t[keep], x[keep], y[keep], p[keep], n + int(np.count_nonzero(keep))
        columns.t[n:end], columns.x[n:end], columns.y[n:end], columns.p[n:end] = t, x, y, p == 1
        return end, last == self._rows

    def _valid(self, t: NDArray, x: NDArray, y: NDArray, p: NDArray, first: int) -> NDArray[np.bool_] | None:
        """Which events are valid, None where all are; counts the others, each under one kind."""
        width, height = self._recording.width, self._recording.height
        checks = {
            "bad_time": (t < -TIME_LIMIT_US) | (t > TIME_LIMIT_US),
            "off_sensor": (x < 0) | (x >= width) | (y < 0) | (y >= height),
            "bad_polarity": (p != 0) & (p != 1) & (p != -1),
        }
        keep = None
        for kind, bad in checks.items():
            if bad.any():
                if keep is None:
                    keep = np.ones(len(t), np.bool_)
                bad &= keep
                keep &= ~bad
                if bad.any():
                    i = int(np.argmax(bad))
                    where = f"event {first + i}: t {t[i]}, x {x[i]}, y {y[i]}, p {p[i]}"
                    self._tally.drop(kind, int(np.count_nonzero(bad)), where)
        return keep


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES)
    except (OSError, RuntimeError) as error:
        raise RecordingError(f"{path}: cannot be opened as HDF5, perhaps cut short: {error}") from error


def _unreadable(path: Path, where: str, error: Exception) -> RecordingError:
    return RecordingError(
        f"{path}: reading failed {where}: {error} (a broken file, or a compression that needs `pip install hdf5plugin`)"
    )


def _refuse_other_layouts(file: h5py.File, path: Path) -> None:
    if "CD/events" in file:
        raise RecordingError(f"{path}: this is Prophesee HDF5 (/CD/events), which cannot be read; expected eTraM HDF5")
    if any(name in file for name in ("t_offset", "ms_to_idx", "events/t_offset", "events/ms_to_idx")):
        raise RecordingError(
            f"{path}: this is DSEC HDF5 (t_offset, ms_to_idx), which cannot be read; expected eTraM HDF5"
        )


def _columns(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """The four columns; raises RecordingError where one is missing, of the wrong kind, or of another length."""
    columns = {}
    for name in "xypt":
        column = file.get(f"events/{name}")
        if not isinstance(column, h5py.Dataset):
            inside = ", ".join(sorted(map(str, file))[:8]) or "nothing"
            raise RecordingError(f"{path}: no dataset events/{name}; expected eTraM HDF5, the file holds {inside}")
        kinds = "iub" if name == "p" else "iu"
        if column.ndim != 1 or column.dtype.kind not in kinds:
            raise RecordingError(
                f"{path}: events/{name} must be one-dimensional integers, got {column.dtype} of shape {column.shape}"
            )
        if column.chunks and column.chunks[0] * column.dtype.itemsize > MAX_STORED_CHUNK_BYTES:
            raise RecordingError(
                f"{path}: events/{name} is stored in chunks of {column.chunks[0]:,}, too large to read"
            )
        columns[name] = column
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise RecordingError(f"{path}: the columns of events/ differ in length: {lengths}")
    return columns


def _scalar(file: h5py.File, name: str, path: Path) -> int | None:
    """events/width or events/height, also where stored as an array of one; None where missing."""
    dataset = file.get(f"events/{name}")
    if dataset is None:
        return None
    if not isinstance(dataset, h5py.Dataset) or dataset.size != 1 or dataset.dtype.kind not in "iu":
        raise RecordingError(f"{path}: events/{name} must be one integer")
    side = int(np.asarray(dataset[()]).reshape(()))
    if not 1 <= side <= MAX_SENSOR_SIDE:
        raise RecordingError(f"{path}: events/{name} is {side}; expected 1 .. {MAX_SENSOR_SIDE} pixels")
    return side
