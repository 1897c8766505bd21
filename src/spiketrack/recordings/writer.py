"""EventWriter: stream events and triggers into an HDF5 file that appears only when it is complete."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiketrack.errors import RecordingError
from spiketrack.events import MAX_SENSOR_SIDE, Events, Triggers
from spiketrack.recordings.writing import Writer

if TYPE_CHECKING:
    import h5py

    from spiketrack.recordings.hdf5_storing import Store

_PENDING = 1 << 16
_COMPRESSIONS = (None, "gzip", "blosc", "ecf")


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


class EventWriter(Writer):
    """Write events to `path` in the eTraM layout, in bounded memory.

        with EventWriter("crossing_td.h5", 304, 240) as writer:
            for events in source:
                writer.append(events)

    `events/x` and `events/y` are u2, `events/p` i2 (0, 1), `events/t` i8 us, `events/width` and `events/height`
    scalars. `ms_index/ms` and `ms_index/row`, i8, hold each millisecond with an event and the row of its first;
    `triggers/t` (i8), `triggers/channel` and `triggers/value` (u1) the external triggers, where there are any.
    compression: None; "gzip"; "blosc" (Zstandard; needs hdf5plugin, here and where the file is read); or "ecf", which
    is Prophesee's own layout with its codec, read by its tools too: `CD/events`, `CD/indexes`, `EXT_TRIGGER/events`.

    Writes go to a temporary name beside `path`; on leaving the block without an exception the file is renamed to
    `path`, in place of an older one; otherwise it is removed and the older one stays. Raises RecordingError naming the
    file where it cannot be written, such as on a full disk.
    """

    _MADE_BY = "EventWriter"

    def __init__(self, path: str | Path, width: int, height: int, compression: str | None = None) -> None:
        if not (0 < width <= MAX_SENSOR_SIDE and 0 < height <= MAX_SENSOR_SIDE):
            raise RecordingError(f"{path}: a sensor of {width} x {height} pixels cannot be")
        if compression not in _COMPRESSIONS:
            known = ", ".join(repr(name) for name in _COMPRESSIONS)
            raise RecordingError(f"{path}: compression must be one of {known}, got {compression!r}")
        super().__init__(Path(path), width, height, MAX_SENSOR_SIDE)
        self.compression = compression
        self._disk: _UnfailingFile | None = None
        self._store: Store | None = None
        self._pending: list[Events] = []
        self._pending_triggers: list[Triggers] = []
        self._pending_events = self._n_pending_triggers = 0

    def _open(self, temporary: Path) -> h5py.File:
        import h5py

        from spiketrack.recordings.hdf5_storing import make_store

        self._disk = _UnfailingFile(temporary, "x+")
        self._file = h5py.File(self._disk, "w")
        try:
            self._store = make_store(self._file, self.width, self.height, self.compression)
        except RecordingError as error:
            self._abandon()
            raise RecordingError(f"{self.path}: {error}") from error.__cause__
        return self._file

    def _encode(self, events: Events, triggers: Triggers) -> None:
        """Triggers are stored in the order they come; no view of either is kept."""
        if len(triggers):
            self._append_triggers(triggers)
        if not len(events):
            return
        self._last_us = int(events.t[-1])
        if self._pending_events + len(events) < _PENDING:
            columns = (getattr(events, name).copy() for name in "txyp")
            self._pending.append(Events.trusted(*columns, self.width, self.height))
            self._pending_events += len(events)
        else:
            self._write_events([*self._pending, events])
            self._pending, self._pending_events = [], 0

    def _append_triggers(self, triggers: Triggers) -> None:
        self._pending_triggers.append(Triggers(*(getattr(triggers, name).copy() for name in ("t", "channel", "value"))))
        self._n_pending_triggers += len(triggers)
        if self._n_pending_triggers >= _PENDING:
            self._write_triggers()

    def _finish(self) -> None:
        self._write_events(self._pending)
        self._write_triggers()
        if self._store is not None:
            self._store.finish()

    def _close(self) -> None:
        super()._close()
        self._raise_disk_error()

    def _write_events(self, parts: list[Events]) -> None:
        if parts and self._store is not None:
            self._store_or_fail(self._store.append, Events.concatenate(parts))

    def _write_triggers(self) -> None:
        triggers = Triggers.concatenate(self._pending_triggers)
        self._pending_triggers, self._n_pending_triggers = [], 0
        if len(triggers) and self._store is not None:
            self._store_or_fail(self._store.append_triggers, triggers)

    def _store_or_fail(self, append: Callable[..., None], records: Events | Triggers) -> None:
        try:
            append(records)
        except RecordingError as error:
            raise RecordingError(f"{self.path}: {error}") from error
        self._raise_disk_error()

    def _abandon(self) -> None:
        file, self._file, self._store, self._pending = self._file, None, None, []
        if file is not None:
            file.close()
        with suppress(OSError):
            if self._disk is not None:
                self._disk.close()
        super()._abandon()

    def _raise_disk_error(self) -> None:
        if self._disk is not None and self._disk.error is not None:
            raise self._failed(self._disk.error) from self._disk.error
