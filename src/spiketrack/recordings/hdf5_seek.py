"""Seeking in an HDF5 file: the row at which a time starts, from the file's own index or by bisecting sorted times.

No index is believed before the times about the row that it names have confirmed it: one that lies is left aside
with a warning, as if the file had none.

EventWriter writes `ms_index/ms` and `ms_index/row`, int64, one entry for each millisecond that holds an event: the
millisecond (t // 1000, increasing) and the row of its first event. A gap of hours costs nothing.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import h5py

from spiketrack.errors import RecordingError
from spiketrack.recordings.hdf5_checks import attribute, check_readable
from spiketrack.recordings.hdf5_layouts import MS_INDEX, PROPHESEE_PERIOD_US, EventFile
from spiketrack.recordings.hdf5_rows import Rows, Stored
from spiketrack.recordings.ordering import REORDER_US

_log = logging.getLogger(__name__)


def first_row(file: EventFile, start_us: int) -> int | None:
    """The first row of a sorted file with t >= start_us.

    Of a file that may be out of order by REORDER_US, a row before which no event is at or after start_us. None where
    the file has no index, or one that its times contradict, or where the times that decide cannot be read.
    """
    if file.is_sorted:
        try:
            return _in_sorted(file, start_us - file.t_offset_us)
        except RecordingError as error:
            _log.warning("%s; the file is read from its start", error)
            return None
    index = file.index
    if index is None:
        return None
    start = start_us - REORDER_US - file.t_offset_us
    try:
        check_readable(index, file.path)
        entries = Stored(index, file.path)
        by = _by_ms_to_idx if index.dtype.kind in "iu" else _by_indexes
        row = by(file.rows, entries, start)
    except (OSError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        _log.warning("%s: the index %s cannot be used: %s", file.path, index.name, error)
        return None
    if row is None:
        _log.warning("%s: the index %s contradicts the times; not used", file.path, index.name)
    return row


class _Numbers(Sequence[int]):
    """Numbers of a file by row, one at a time, for bisect. get: the number of a row."""

    def __init__(self, get: Callable[[int], int], rows: int) -> None:
        self._get, self._rows = get, rows

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, row: int) -> int: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[int]: ...
    def __getitem__(self, row: int | slice) -> int | Sequence[int]:
        if isinstance(row, slice):
            raise TypeError("one row at a time")
        return self._get(row)


def _in_sorted(file: EventFile, start: int) -> int:
    times = _Numbers(file.rows.time, file.rows.rows)
    first, last = _ms_bounds(file, start) or (0, len(times))
    return bisect_left(times, start, first, last)


def _ms_bounds(file: EventFile, start: int) -> tuple[int, int] | None:
    """Rows between which the first event at or after start lies, by EventWriter's own index; None without it."""
    if file.ms_index is None:
        return None
    ms, row = file.ms_index
    times = _Numbers(file.rows.time, file.rows.rows)
    try:
        check_readable(ms, file.path)
        check_readable(row, file.path)
        if ms.ndim != 1 or ms.dtype.kind not in "iu" or ms.shape != row.shape or row.dtype.kind not in "iu":
            raise ValueError(f"its columns are {ms.dtype} of shape {ms.shape} and {row.dtype} of shape {row.shape}")
        sought = start // 1000
        keys, rows = (_Numbers(_stored_number(dataset, file.path), len(dataset)) for dataset in (ms, row))
        i = bisect_left(keys, sought)
        first = rows[i] if i < len(keys) else len(times)
        inside = i < len(keys) and keys[i] == sought
        last = first if not inside else rows[i + 1] if i + 1 < len(keys) else len(times)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        _log.warning("%s: the index %s cannot be used: %s", file.path, MS_INDEX, error)
        return None
    if (
        0 <= first <= last <= len(times)
        and (first == 0 or times[first - 1] < sought * 1000)
        and (last == len(times) or times[last] >= (sought + inside) * 1000)
    ):
        return first, last
    _log.warning("%s: the index %s contradicts the times; not used", file.path, MS_INDEX)
    return None


def _stored_number(dataset: h5py.Dataset, path: Path) -> Callable[[int], int]:
    stored = Stored(dataset, path)
    return lambda row: int(stored.row(row))


def _by_ms_to_idx(rows: Rows, index: Stored, start: int) -> int | None:
    """DSEC: t[ms_to_idx[ms]] >= 1000 ms > t[ms_to_idx[ms] - 1]. start: us, without the offset."""
    if start < 0:
        return 0
    ms = min(start // 1000, index.rows - 1)
    row = int(index.row(ms))
    if not 0 <= row <= rows.rows:
        return None
    before = row == 0 or rows.time(row - 1) < ms * 1000
    after = row == rows.rows or rows.time(row) >= ms * 1000
    return row if before and after else None


def _by_indexes(rows: Rows, index: Stored, start: int) -> int | None:
    """Prophesee: entry k holds a row, and its time plus `offset`, not after the first event at 2000 k us or later."""
    offset = int(attribute(index.dataset, "offset", index.path) or 0)
    if start + offset < 0:
        return 0
    entry = index.row(min((start + offset) // PROPHESEE_PERIOD_US, index.rows - 1))
    row, time = (int(value) for value in entry.tolist())
    if time < 0 and row == 0:  # the first entries stand for the start of the file
        return 0
    known = 0 <= row < rows.rows and time <= start + offset and rows.time(row) + offset == time
    return row if known else None
