"""Layouts: where an HDF5 file keeps its events, its triggers, its sensor and its index.

Read are eTraM and RVT's `.dat.h5` (`events/{x, y, p, t}` with the scalars `events/width` and `events/height`), DSEC
(the same with `t_offset`, which is added to every time, and `ms_to_idx`; 640 x 480 where nothing else is said) and
Prophesee's own (`CD/events` of records, stored plain or with ECF; `CD/indexes`; `EXT_TRIGGER/events`; the size in the
attribute `geometry`). In comes a path, out goes an open, checked `EventFile`.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path

import h5py

from spiketrack.errors import RecordingError
from spiketrack.events import MAX_SENSOR_SIDE
from spiketrack.recordings.ecf import ECF_FILTER
from spiketrack.recordings.hdf5_checks import attribute, check_readable, filter_codes
from spiketrack.recordings.hdf5_rows import ColumnRows, EcfRows, RecordRows, Rows, Stored
from spiketrack.recordings.hdf5_triggers import COLUMN_FIELDS, RECORD_FIELDS, TriggerRows
from spiketrack.recordings.recording import TIME_LIMIT_US

SORTED_ATTRIBUTE = "spiketrack_sorted"
MS_INDEX = "ms_index"
PROPHESEE_PERIOD_US = 2_000
_CHUNK_CACHE_BYTES = 1 << 24
_DSEC_SENSOR = 640, 480


class EventFile(AbstractContextManager["EventFile"]):
    """An HDF5 file of events, open for reading.

    layout: "eTraM" (also RVT's), "DSEC", "Prophesee" or "Prophesee ECF". rows: the events. t_offset_us: to be added to
    every time of the events. is_sorted: EventWriter wrote the file and vouches for the order of its events.
    Raises RecordingError naming the file where it is broken or holds no events in such a layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open(_CHUNK_CACHE_BYTES)
        with self._structure():
            self._find()
            if self._largest_chunk > _CHUNK_CACHE_BYTES:  # else it would be decoded once for each block of its events
                self.__exit__()
                self._open(self._largest_chunk)
                self._find()

    @contextmanager
    def _structure(self) -> Generator[None]:
        """HDF5 is looked at here: what it raises is the file's fault, and the file is not used any more."""
        try:
            yield
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            self.file.close()
            if isinstance(error, RecordingError):
                raise
            raise RecordingError(f"{self.path}: broken HDF5 structure: {error}") from error
        except BaseException:
            self.file.close()
            raise

    def _open(self, cache_bytes: int) -> None:
        self._largest_chunk = 0
        try:
            self.file = h5py.File(self.path, "r", rdcc_nbytes=cache_bytes)
        except (OSError, RuntimeError) as error:
            raise RecordingError(f"{self.path}: cannot be opened as HDF5, perhaps cut short: {error}") from error

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _find(self) -> None:
        place = next((name for name in ("CD/events", "events") if name in self.file), None)
        found = self.file.get(place) if place else None
        if place is None or not isinstance(found, h5py.Group | h5py.Dataset):
            raise RecordingError(f"{self.path}: expected events/{{x, y, p, t}} or CD/events; {self._inside()}")
        self.t_offset_us = self._offset()
        self.rows = self._columns(place) if isinstance(found, h5py.Group) else self._records(place)
        self.layout = "DSEC" if self._has("t_offset") or self._has("ms_to_idx") else "eTraM"
        if place == "CD/events":
            self.layout = "Prophesee ECF" if isinstance(self.rows, EcfRows) else "Prophesee"
        self.is_sorted = bool(attribute(found, SORTED_ATTRIBUTE, self.path))

    def _inside(self) -> str:
        names = sorted(map(str, self.file))
        if names == ["data"] and getattr(self.file["data"], "ndim", 1) > 1:
            return "it holds frames of `data`, as RVT's event representations or Prophesee's tensors, not events"
        return f"the file holds {', '.join(names[:8]) or 'nothing'}"

    def _has(self, name: str) -> str | None:
        """Where DSEC's extra datasets are, at the root or beside the events."""
        return next((place for place in (name, f"events/{name}") if place in self.file), None)

    @cached_property
    def index(self) -> h5py.Dataset | None:
        """ms_to_idx or CD/indexes, where the file has one."""
        with self._structure():
            place = self._has("ms_to_idx") if self.layout == "DSEC" else "CD/indexes"
            found = self.file.get(place) if place else None
            return found if isinstance(found, h5py.Dataset) and found.ndim == 1 and len(found) else None

    @cached_property
    def ms_index(self) -> tuple[h5py.Dataset, h5py.Dataset] | None:
        """`ms` and `row` of EventWriter's index, where the file has them."""
        with self._structure():
            ms, row = (self.file.get(f"{MS_INDEX}/{name}") for name in ("ms", "row"))
            return (ms, row) if isinstance(ms, h5py.Dataset) and isinstance(row, h5py.Dataset) else None

    def _offset(self) -> int:
        place = self._has("t_offset")
        if place is None:
            return 0
        offset = _scalar(self.file, place, self.path)
        if abs(offset) > TIME_LIMIT_US // 2:
            raise RecordingError(f"{self.path}: {place} is {offset}, which cannot be microseconds")
        return offset

    def sensor(self) -> tuple[int | None, int | None]:
        """Width and height as the file says them, None where it does not."""
        with self._structure():
            sides: list[int | None] = [None, None]
            for i, name in enumerate(("events/width", "events/height")):
                if name in self.file:
                    sides[i] = _scalar(self.file, name, self.path)
            if None in sides and self._has("t_offset"):
                sides = [said or documented for said, documented in zip(sides, _DSEC_SENSOR, strict=True)]
            elif None in sides:
                geometry, text = (str(attribute(self.file, name, self.path)) for name in ("geometry", "format"))
                for i, name in enumerate(("width", "height")):
                    match = re.fullmatch(r"\s*(\d{1,6})\s*x\s*(\d{1,6})\s*", geometry)
                    named = re.search(rf"\b{name}=(\d{{1,6}})\b", text)
                    sides[i] = int(match[i + 1]) if match else int(named[1]) if named else sides[i]
            for name, side in zip(("width", "height"), sides, strict=True):
                if side is not None and not 1 <= side <= MAX_SENSOR_SIDE:
                    raise RecordingError(
                        f"{self.path}: events/{name} is {side}; expected 1 .. {MAX_SENSOR_SIDE} pixels"
                    )
            return sides[0], sides[1]

    def _column(self, place: str, name: str) -> Stored:
        column = self.file.get(f"{place}/{name}")
        if not isinstance(column, h5py.Dataset):
            raise RecordingError(f"{self.path}: no dataset {place}/{name}; {self._inside()}")
        if column.ndim != 1 or column.dtype.kind not in ("iub" if name == "p" else "iu"):
            raise RecordingError(
                f"{self.path}: {place}/{name} must be one-dimensional integers, got {column.dtype} of shape "
                f"{column.shape}"
            )
        return self._stored(column)

    def _columns(self, place: str) -> Rows:
        columns = {name: self._column(place, name) for name in "xypt"}
        lengths = {name: column.rows for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise RecordingError(f"{self.path}: the columns of {place}/ differ in length: {lengths}")
        return ColumnRows(columns)

    def _records(self, place: str) -> Rows:
        records = self.file[place]
        if records.ndim != 1 or not _are_integers(records, ("x", "y", "p", "t")):
            raise RecordingError(
                f"{self.path}: {place} must be one-dimensional records of integers x, y, p and t, got {records.dtype} "
                f"of shape {records.shape}"
            )
        filters = filter_codes(records)
        if ECF_FILTER not in filters:
            return RecordRows(self._stored(records))
        if filters != [ECF_FILTER]:
            raise RecordingError(f"{self.path}: {place} is stored with ECF and other filters, {filters}; expected ECF")
        return EcfRows(self._stored(records))

    @cached_property
    def triggers(self) -> TriggerRows | None:
        """The external triggers, where the file has any."""
        with self._structure():
            if "EXT_TRIGGER/events" in self.file:
                records = self.file["EXT_TRIGGER/events"]
                if (
                    not isinstance(records, h5py.Dataset)
                    or records.ndim != 1
                    or not _are_integers(records, RECORD_FIELDS)
                ):
                    raise RecordingError(
                        f"{self.path}: EXT_TRIGGER/events must be one-dimensional records of t, id and p"
                    )
                return TriggerRows(self._stored(records))
            if "triggers" not in self.file:
                return None
            t, channel, value = (self._column("triggers", name) for name in COLUMN_FIELDS)
            if len({t.rows, channel.rows, value.rows}) > 1:
                raise RecordingError(f"{self.path}: the columns of triggers/ differ in length")
            return TriggerRows((t, channel, value))

    def _stored(self, dataset: h5py.Dataset) -> Stored:
        check_readable(dataset, self.path)
        chunk_rows = dataset.chunks[0] if dataset.chunks else 0
        self._largest_chunk = max(self._largest_chunk, chunk_rows * dataset.dtype.itemsize)
        return Stored(dataset, self.path)


def _are_integers(records: h5py.Dataset, names: tuple[str, ...]) -> bool:
    fields = records.dtype.names or ()
    return all(name in fields and records.dtype[name].kind in "iu" for name in names)


def _scalar(file: h5py.File, name: str, path: Path) -> int:
    """One integer, also where stored as an array of one."""
    dataset = file.get(name)
    one = isinstance(dataset, h5py.Dataset) and dataset.shape in ((), (1,)) and dataset.dtype.kind in "iu"
    if not one:
        raise RecordingError(f"{path}: {name} must be one integer")
    check_readable(dataset, path)
    return int(Stored(dataset, path).row(0) if dataset.shape else dataset[()])
