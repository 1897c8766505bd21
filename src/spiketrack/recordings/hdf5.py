"""HDF5 recordings: events in the layouts of eTraM, RVT, DSEC and Prophesee, read block by block.

In comes a file whose columns may be of any integer type, out go on-sensor events. Public files hold corrupt
coordinates (y = 33014 on 720 rows): they are dropped and counted, never wrapped. Where the columns lie is in
`hdf5_layouts`, how rows are read in `hdf5_rows`, how a time is found in `hdf5_seek`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import Events, Window
from spiketrack.recordings.hdf5_layouts import EventFile
from spiketrack.recordings.hdf5_rows import EcfRows, Lost, Stretch
from spiketrack.recordings.hdf5_seek import first_row
from spiketrack.recordings.hdf5_triggers import TriggerReader
from spiketrack.recordings.recording import (
    TIME_LIMIT_US,
    Block,
    Columns,
    FileRecording,
    Reader,
    ReadOptions,
    Tally,
)

BLOCK_ROWS = 1 << 18
_WINDOW_ROWS = 1 << 22  # a window of at most so many rows is one block
_Bad = NDArray[np.bool_] | None


def open_hdf5(path: Path, width: int | None, height: int | None, options: ReadOptions) -> Hdf5Recording:
    """Check the layout and sizes of an HDF5 file; see `spiketrack.recordings.open_recording`."""
    with EventFile(path) as file:
        said_width, said_height = (width, height) if width and height else file.sensor()
        width, height = width or said_width, height or said_height
        if width is None or height is None:
            said = "events/width and events/height" if file.layout in ("eTraM", "DSEC") else "attribute geometry"
            raise RecordingError(f"{path}: no {said} in the file; give width and height")
        return Hdf5Recording(path, (width, height), options, file.layout, file.is_sorted)


class Hdf5Recording(FileRecording):
    """A recording in HDF5. A pass that starts late uses the file's own index, or bisects what EventWriter wrote.

    layout: "eTraM" (also RVT's), "DSEC", "Prophesee" or "Prophesee ECF".
    """

    _PLACE_NUMBERS = 2

    def __init__(self, path: Path, size: tuple[int, int], options: ReadOptions, layout: str, is_sorted: bool) -> None:
        super().__init__(path, "hdf5", *size, options)
        self.layout, self._is_sorted = layout, is_sorted

    def _reader(self, tally: Tally, place: Any) -> Reader:
        return _Hdf5Reader(self, tally, *(place or (0, 0)))

    def _seek(self, start_us: int) -> tuple[int, int] | None:
        with EventFile(self.path) as file:
            row = first_row(file, start_us)
            if row is None:
                return None
            return row, file.triggers.first_from(start_us) if file.triggers is not None else 0

    def read(self, start_us: int, end_us: int) -> Window:
        if not self._is_sorted:
            return super().read(start_us, end_us)
        self._restart(tally := Tally(self.path, self.options.on_invalid))
        with _Hdf5Reader(self, tally, 0, 0) as reader:
            found = reader.restrict(start_us, end_us)
            parts = [block.columns for block in reader.blocks()] if found else []
        parts = parts or [Columns.allocate(0)]
        columns = parts[0] if len(parts) == 1 else Columns(*map(np.concatenate, zip(*parts, strict=True)))
        if not found or (columns.t[1:] < columns.t[:-1]).any():  # it vouched for an order that it does not have
            return super().read(start_us, end_us)
        return Window.of(Events.trusted(*columns, self.width, self.height), start_us, end_us)


class _Hdf5Reader(Reader):
    """One pass; a place is the row of the next event and of the next trigger."""

    def __init__(self, recording: FileRecording, tally: Tally, row: int, trigger: int) -> None:
        self._recording, self._tally, self._row = recording, tally, row
        self._file = EventFile(recording.path)
        self._end, self._block_rows = self._file.rows.rows, BLOCK_ROWS
        self._triggers = TriggerReader(self._file.triggers, tally, trigger)
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._file.__exit__()

    def restrict(self, start_us: int, end_us: int) -> bool:
        """Read only the rows of a window of a sorted file, and no triggers; False where they cannot be found."""
        first, last = first_row(self._file, start_us), first_row(self._file, end_us)
        if first is None or last is None:
            return False
        self._row, self._end = first, last
        self._block_rows = max(BLOCK_ROWS, min(last - first, _WINDOW_ROWS))
        self._triggers = TriggerReader(None, self._tally, 0)
        return True

    def blocks(self) -> Iterator[Block]:
        for first, last, stretch in self._stretches():
            if first > self._row:
                where = f"event {self._row}: the rows up to {first - 1} were never written"
                self._tally.drop("missing_chunk", first - self._row, where)
            self._row = last
            if stretch is not None:
                columns, rises = self._columns(stretch, first)
                triggers = self._triggers.until(int(columns.t.max()) if len(columns.t) else -TIME_LIMIT_US)
                yield Block(columns, (last, self._triggers.row), triggers, rises)
        while not self._triggers.ended:
            triggers = self._triggers.until(TIME_LIMIT_US)
            yield Block(Columns.allocate(0), (self._row, self._triggers.row), triggers)

    def _stretches(self) -> Iterator[tuple[int, int, Stretch | None]]:
        """Stretches of written rows in their order; ECF is decoded `threads` stretches at a time."""
        threads, rows = self._recording.options.threads, self._file.rows
        if threads == 1 or not isinstance(rows, EcfRows):
            for first, last in self._plan():
                yield first, last, rows.read(first, last) if first < last else None
            return
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ecf")
        waiting: deque[tuple[int, int, Future[Stretch] | None]] = deque()
        for first, last in self._plan():
            waiting.append((first, last, self._pool.submit(rows.read, first, last) if first < last else None))
            if len(waiting) > threads:
                yield _done(*waiting.popleft())
        while waiting:
            yield _done(*waiting.popleft())

    def _plan(self) -> Iterator[tuple[int, int]]:
        """Stretches of written rows; an empty one at the end where rows before it are missing."""
        rows, first = self._file.rows, self._row
        while first < self._end:
            first = min(rows.next_written(first), self._end)
            last = min(self._end, first + self._block_rows)
            if last < self._end and last // rows.stored * rows.stored > first:
                last = last // rows.stored * rows.stored  # a stored chunk is decoded once
            yield first, last
            first = last

    def _columns(self, stretch: Stretch, first: int) -> tuple[Columns, bool | None]:
        """The valid events of a stretch; counts the others, each under one kind."""
        t, x, y, p, lost, rises = stretch
        offset = self._file.t_offset_us
        least = max(-TIME_LIMIT_US, -TIME_LIMIT_US - offset)
        most = min(TIME_LIMIT_US, TIME_LIMIT_US - offset)
        ends = t[[0, -1]] if rises and len(t) else t
        checks = {
            "bad_time": None if _outside(ends, least, most) is None else _outside(t, least, most),
            "off_sensor": _either(
                _outside(x, 0, self._recording.width - 1), _outside(y, 0, self._recording.height - 1)
            ),
            "bad_polarity": _outside(p.view(np.uint8) if p.dtype.kind == "b" else p, -1, 1),
        }
        keep = self._without_lost(lost, first, len(t))
        for kind, bad in checks.items():
            if bad is None:
                continue
            keep = np.ones(len(t), np.bool_) if keep is None else keep
            bad &= keep
            keep &= ~bad
            if bad.any():
                i = int(np.argmax(bad))
                where = f"event {first + i}: t {t[i]}, x {x[i]}, y {y[i]}, p {p[i]}"
                self._tally.drop(kind, int(np.count_nonzero(bad)), where)
        if keep is not None:
            t, x, y, p = t[keep], x[keep], y[keep], p[keep]
        t = t.astype(np.int64, copy=False)
        if offset:
            t += offset
        p = p if p.dtype == np.uint8 else (p == 1).view(np.uint8)
        return Columns(t, x.astype(np.uint16, copy=False), y.astype(np.uint16, copy=False), p), rises

    def _without_lost(self, lost: list[Lost], first: int, n: int) -> _Bad:
        keep = np.ones(n, np.bool_) if lost else None
        for part in lost:
            rows = slice(part.first - first, part.last - first)
            if keep is not None and (count := int(np.count_nonzero(keep[rows]))):
                keep[rows] = False
                self._tally.drop(part.kind, count, f"event {part.first}: {part.why}")
        return keep


def _done(first: int, last: int, future: Future[Stretch] | None) -> tuple[int, int, Stretch | None]:
    return first, last, None if future is None else future.result()


def _outside(values: NDArray, low: int, high: int) -> _Bad:
    """Which values leave low .. high; None where none does."""
    unsigned = values.dtype.kind == "u" and low <= 0
    if not len(values) or ((unsigned or values.min() >= low) and values.max() <= high):
        return None
    return (values < low) | (values > high)


def _either(one: _Bad, other: _Bad) -> _Bad:
    return other if one is None else one if other is None else one | other
