"""EventWriter: stream events into an eTraM HDF5 file."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from spiketrack.errors import RecordingError
from spiketrack.events import MAX_SENSOR_SIDE, Events
from spiketrack.replacing import Replacement

if TYPE_CHECKING:
    import h5py

SORTED_ATTRIBUTE = "spiketrack_sorted"
STORED_CHUNK = 1 << 14
_PENDING_EVENTS = 1 << 16
_LAYOUT = {"x": np.uint16, "y": np.uint16, "p": np.int16, "t": np.int64}


class _UnfailingFile(io.FileIO):
    """A file that keeps the first error of writing instead of raising it, and writes no more after it.

    The HDF5 library crashes the process some time after a write of its own has failed, so it never sees one.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        rest = memoryview(data)
        n_bytes = len(rest)
        try:
            while len(rest) and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return n_bytes

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return self.tell() if self.error else super().truncate(size)
        except OSError as error:
            self.error = error
            return self.tell()


class EventWriter:
    """Write events to `path` in the eTraM layout, in bounded memory.

        with EventWriter("crossing_td.h5", 304, 240) as writer:
            for events in source:
                writer.append(events)

    `events/x` and `events/y` are u2, `events/p` i2 (0, 1), `events/t` i8 us, `events/width` and `events/height`
    scalars. Writes go to a temporary name beside `path`; on leaving the block without an exception the file is
    renamed to `path`, in place of an older one; otherwise it is removed and the older one stays. Raises
    RecordingError naming the file where it cannot be written, such as on a full disk.
    """

    def __init__(self, path: str | Path, width: int, height: int) -> None:
        self.path = Path(path)
        if not (0 < width <= MAX_SENSOR_SIDE and 0 < height <= MAX_SENSOR_SIDE):
            raise RecordingError(f"{path}: a sensor of {width} x {height} pixels cannot be")
        self.width, self.height = int(width), int(height)
        self._file: h5py.File | None = None
        self._disk: _UnfailingFile | None = None
        self._pending: list[Events] = []
        self._pending_events = 0
        self._last_us: int | None = None

    def __enter__(self) -> Self:
        import h5py

        if self._last_us is not None or self._file is not None:
            raise RecordingError(f"{self.path}: an EventWriter writes one file once; make a new one")
        self._replacement = Replacement(self.path)
        try:
            self._disk = _UnfailingFile(self._replacement.temporary, "x+")
            self._file = h5py.File(self._disk, "w")
            group = self._file.create_group("events")
            group.attrs[SORTED_ATTRIBUTE] = True
            group["width"], group["height"] = self.width, self.height
            for name, dtype in _LAYOUT.items():
                group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(STORED_CHUNK,))
        except OSError as error:
            self._abandon()
            raise self._failed(error) from error
        return self

    def append(self, events: Events) -> None:
        """Add events of the same sensor, none earlier than the last one written; keeps no view of them.

        Raises RecordingError where they do not fit or cannot be written.
        """
        if self._file is None:
            raise RecordingError(f"{self.path}: append outside of `with EventWriter(...)`")
        if (events.width, events.height) != (self.width, self.height):
            raise RecordingError(
                f"{self.path}: events of a sensor of {events.width} x {events.height} pixels do not fit into a "
                f"recording of {self.width} x {self.height}"
            )
        if not len(events):
            return
        if self._last_us is not None and events.t[0] < self._last_us:
            raise RecordingError(f"{self.path}: time runs backwards: {events.t[0]} us after {self._last_us} us")
        self._last_us = int(events.t[-1])
        if self._pending_events + len(events) < _PENDING_EVENTS:
            columns = (getattr(events, name).copy() for name in "txyp")
            self._pending.append(Events.trusted(*columns, self.width, self.height))
            self._pending_events += len(events)
        else:
            self._write([*self._pending, events])
            self._pending, self._pending_events = [], 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._file is not None:
                self._write(self._pending)
                self._file.close()
                self._raise_disk_error()
                self._replacement.commit()
        except OSError as failure:
            raise self._failed(failure) from failure
        finally:
            self._abandon()

    def _write(self, parts: list[Events]) -> None:
        if not parts or self._file is None:
            return
        events = Events.concatenate(parts)
        for name in _LAYOUT:
            column = self._file["events"][name]
            first = len(column)
            column.resize(first + len(events), axis=0)
            column[first:] = getattr(events, name)
        self._raise_disk_error()

    def _abandon(self) -> None:
        """Close and remove the temporary file where it still is; after a commit there is nothing to remove."""
        file, self._file, self._pending = self._file, None, []
        if file is not None:
            file.close()
        with suppress(OSError):
            if self._disk is not None:
                self._disk.close()
        with suppress(OSError):
            self._replacement.discard()

    def _raise_disk_error(self) -> None:
        if self._disk is not None and self._disk.error is not None:
            raise self._failed(self._disk.error) from self._disk.error

    def _failed(self, error: OSError) -> RecordingError:
        return RecordingError(f"{self.path}: cannot be written: {error.strerror or error}")
