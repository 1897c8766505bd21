"""Writer and create_recording: events and triggers become a recording file, in bounded memory.

Station: the end of the way that `convert` and the simulators go. In come runs of `Events` that follow each other in
time, out goes one file of the format that its name or the caller asks for. What is common to all formats (one sensor,
time order, a file that appears only when it is complete) happens here; the codings are in write_words.py and
write_text.py, HDF5 in writer.py.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import Events, Triggers
from spiketrack.recordings.recording import TIME_LIMIT_US
from spiketrack.replacing import Replacement

FORMATS = {  # file suffix: what can be written under it, the first if the caller does not say
    ".h5": ("hdf5",),
    ".hdf5": ("hdf5",),
    ".raw": ("evt3", "evt2", "evt2.1", "evt2.1-legacy"),
    ".dat": ("dat",),
    ".csv": ("csv",),
    ".txt": ("csv",),
}
_CHOICES = "HDF5 (.h5, .hdf5), RAW (.raw: evt3, evt2, evt2.1 or evt2.1-legacy), DAT (.dat) or text (.csv, .txt)"


def create_recording(
    path: str | Path, width: int, height: int, *, format: str | None = None, compression: str | None = None
) -> Writer:
    """A writer of a new recording of a sensor of width x height pixels, to be used in a `with` block.

        with create_recording("crossing.raw", 1280, 720) as writer:
            for events in source:
                writer.append(events)

    format: "hdf5", "evt3", "evt2", "evt2.1" (64-bit words, as GenX320 sends them), "evt2.1-legacy" (their halves
    swapped, as IMX636 does), "dat" (version 2) or "csv"; None takes it from the suffix, .raw being EVT3. compression:
    that of HDF5, see EventWriter. Reading the file back gives the same events in the same order.

    Raises RecordingError where the name and the format do not tell what to write, or the format cannot hold such a
    sensor.
    """
    path = Path(path)
    known = FORMATS.get(path.suffix.lower())
    if format is None and known is None:
        raise RecordingError(f"{path}: the suffix {path.suffix!r} is no format to write; expected {_CHOICES}")
    chosen = known[0] if format is None and known is not None else str(format)
    if not any(chosen in names for names in FORMATS.values()):
        raise RecordingError(f"{path}: {format!r} is no format to write; expected {_CHOICES}")
    if known is not None and chosen not in known:
        raise RecordingError(f"{path}: {chosen} does not belong into a {path.suffix} file; expected {_CHOICES}")
    if chosen == "hdf5":
        from spiketrack.recordings.writer import EventWriter

        return EventWriter(path, width, height, compression)
    if compression is not None:
        raise RecordingError(f"{path}: {chosen} has no compression; only HDF5 takes {compression!r}")
    if chosen == "csv":
        from spiketrack.recordings.write_text import TextWriter

        return TextWriter(path, width, height)
    from spiketrack.recordings.write_words import CODINGS, WordWriter

    return WordWriter(path, width, height, CODINGS[chosen])


class Writer(AbstractContextManager["Writer"], ABC):
    """Write events to `path`; each format is a subclass, made by `create_recording`.

    The file gets a temporary name beside `path`; on leaving the block without an exception it is renamed to `path`,
    in place of an older one; otherwise it is removed and the older one stays. path, width, height: as given.
    """

    _MADE_BY = "create_recording"

    def __init__(self, path: Path, width: int, height: int, max_side: int) -> None:
        if not (0 < width <= max_side and 0 < height <= max_side):
            raise RecordingError(
                f"{path}: this format cannot hold a sensor of {width} x {height} pixels; its sides are 1 .. {max_side}"
            )
        self.path, self.width, self.height = path, int(width), int(height)
        self._file: Any = None  # what is written to, while it is open
        self._replacement: Replacement | None = None
        self._last_us: int | None = None

    def __enter__(self) -> Self:
        if self._replacement is not None:
            raise RecordingError(f"{self.path}: a writer writes one file once; make a new one")
        self._replacement = Replacement(self.path)
        try:
            self._file = self._open(self._replacement.temporary)
        except OSError as error:
            self._abandon()
            raise self._failed(error) from error
        return self

    def _open(self, temporary: Path) -> Any:
        return io.FileIO(temporary, "x")

    def append(self, events: Events, triggers: Triggers | None = None) -> None:
        """Add events of the same sensor, none earlier than the last one written, and triggers of the same stretch.

        Triggers may lie ahead of the events: they wait until the events have come that far. Raises RecordingError
        where something does not fit into the format, comes too late or cannot be written.
        """
        if self._file is None:
            raise RecordingError(f"{self.path}: append outside of `with {self._MADE_BY}(...)`")
        if (events.width, events.height) != (self.width, self.height):
            raise RecordingError(
                f"{self.path}: events of a sensor of {events.width} x {events.height} pixels do not fit into a "
                f"recording of {self.width} x {self.height}"
            )
        for times in (events.t[:1], events.t[-1:]):
            if len(times) and abs(int(times[0])) > TIME_LIMIT_US:
                raise RecordingError(f"{self.path}: {times[0]} is no time in microseconds")
        if len(events) and self._last_us is not None and events.t[0] < self._last_us:
            raise RecordingError(f"{self.path}: time runs backwards: {events.t[0]} us after {self._last_us} us")
        self._encode(events, Triggers.empty() if triggers is None else triggers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._file is not None and self._replacement is not None:
                self._finish()
                self._close()
                self._replacement.commit()
        except OSError as failure:
            raise self._failed(failure) from failure
        finally:
            self._abandon()

    @abstractmethod
    def _encode(self, events: Events, triggers: Triggers) -> None:
        """Write the events, which fit, and set `_last_us` to the last time written."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what is still held back."""

    def _close(self) -> None:
        self._file.close()

    def _write(self, content: bytes | NDArray) -> None:
        if self._file is None or not len(content):
            return
        rest = memoryview(content if isinstance(content, bytes) else content.data).cast("B")
        try:
            while len(rest):
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._failed(error) from error

    def _abandon(self) -> None:
        """Close and remove the temporary file where it still is; after a commit there is nothing to remove."""
        file, self._file = self._file, None
        with suppress(OSError):
            if file is not None:
                file.close()
        with suppress(OSError):
            if self._replacement is not None:
                self._replacement.discard()

    def _failed(self, error: OSError) -> RecordingError:
        return RecordingError(f"{self.path}: cannot be written: {error.strerror or error}")


def plain_columns(events: Events) -> tuple[NDArray, ...]:
    """t, x, y, p as contiguous read-only arrays: one type for a compiled encoder, whoever made the events."""
    columns = tuple(np.ascontiguousarray(column).view() for column in (events.t, events.x, events.y, events.p))
    for column in columns:
        column.flags.writeable = False
    return columns
