"""Rows of an HDF5 file: the stored events of any layout, read in stretches, with what is missing or broken named.

In come datasets that `hdf5_layouts` has checked, out go plain columns. A chunk that was never written and a chunk
that cannot be decoded cost their own rows and no others; neither a declared length nor a chunk's own header makes
this module allocate more than the stretch asked for and one chunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.recordings.ecf import decode_ecf, ecf_count
from spiketrack.recordings.hdf5_chunks import Chunks
from spiketrack.recordings.recording import Columns

_ECF_BYTES_PER_EVENT = 32  # more than the longest coding of one


class Lost(NamedTuple):
    """Rows first .. last - 1 that cannot be had. kind: "missing_chunk" or "broken_chunk"; why: in words."""

    first: int
    last: int
    kind: str
    why: str


class Stretch(NamedTuple):
    """Rows as stored: fresh contiguous columns of any integer type, meaningless where lost.

    rises: whether t is known never to fall; None where it was not checked.
    """

    t: NDArray
    x: NDArray
    y: NDArray
    p: NDArray
    lost: list[Lost]
    rises: bool | None = None


class Stored:
    """One dataset of one dimension. path: the file, for messages."""

    def __init__(self, dataset: h5py.Dataset, path: Path) -> None:
        self.dataset, self.path, self.rows = dataset, path, len(dataset)
        self.name = str(dataset.name).lstrip("/")
        self.chunk = dataset.chunks[0] if dataset.chunks else None
        self._chunks = Chunks(dataset) if dataset.chunks else None
        self._written = self._written_chunks()

    def _written_chunks(self) -> NDArray[np.int64] | None:
        """First rows of the chunks that were written, sorted; None where all were."""
        if self.chunk is None:
            layout = self.dataset.id.get_create_plist().get_layout()
            unwritten = layout == h5py.h5d.CONTIGUOUS and self.rows and not self.dataset.id.get_storage_size()
            return np.empty(0, np.int64) if unwritten else None
        if self.dataset.id.get_num_chunks() >= -(-self.rows // self.chunk):
            return None
        first_rows: list[int] = []
        self.dataset.id.chunk_iter(lambda stored: first_rows.append(stored.chunk_offset[0]))
        return np.sort(np.array(first_rows, np.int64))

    def next_written(self, row: int) -> int:
        if self._written is None or row >= self.rows:
            return min(row, self.rows)
        if self.chunk is None:
            return self.rows
        i = int(np.searchsorted(self._written, row // self.chunk * self.chunk))
        return max(row, int(self._written[i])) if i < len(self._written) else self.rows

    def pieces(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The parts of rows first .. last - 1 that lie in one chunk each."""
        step = self.chunk or max(last, 1)
        while first < last:
            end = min(last, (first // step + 1) * step)
            yield first, end
            first = end

    def read(self, first: int, last: int, lost: list[Lost]) -> NDArray:
        """Rows first .. last - 1; those that cannot be had are 0, and added to lost."""
        if self._written is not None:
            lost += self._missing(first, last)
        if self._chunks is None:
            try:
                return self.dataset[first:last]
            except (OSError, RuntimeError) as error:
                raise RecordingError(
                    f"{self.path}: reading failed in {self.name}, rows {first} .. {last - 1}: {error}"
                ) from error
        values = np.zeros(last - first, self.dataset.dtype)
        checked: list[tuple[int, int]] = []
        for start, end in self.pieces(first, last):
            if self.next_written(start) > start:
                continue
            try:
                if self._chunks.ours:
                    self._chunks.read_into(values[start - first : end - first], start)
                else:
                    self._chunks.check(start)
                    checked.append((start, end))
            except (OSError, RuntimeError, ValueError) as error:
                lost.append(Lost(start, end, "broken_chunk", f"{self.name}: {error}"))
        self._read_checked(_joined(checked), values, first, lost)
        return values

    def _read_checked(self, runs: list[tuple[int, int]], values: NDArray, first: int, lost: list[Lost]) -> None:
        """Rows that the library may read: all at once, where that fails chunk by chunk."""
        for start, end in runs:
            try:
                self.dataset.read_direct(values, np.s_[start:end], np.s_[start - first : end - first])
            except (OSError, RuntimeError) as error:
                pieces = list(self.pieces(start, end))
                if len(pieces) > 1:
                    self._read_checked(pieces, values, first, lost)
                else:
                    lost.append(Lost(start, end, "broken_chunk", f"{self.name}: {error}"))

    def row(self, row: int) -> NDArray:
        """One row. Raises RecordingError where it cannot be had."""
        lost: list[Lost] = []
        value = self.read(row, row + 1, lost)[0]
        if lost:
            raise RecordingError(f"{self.path}: row {row} of {self.name} cannot be read: {lost[0].why}")
        return value

    def stored_chunk(self, row: int, buffer: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
        """See `Chunks.stored`."""
        if self._chunks is None:
            raise ValueError("the dataset is not stored in chunks")
        return self._chunks.stored(row, buffer)

    def _missing(self, first: int, last: int) -> Iterator[Lost]:
        for start, end in self.pieces(first, last):
            if self.next_written(start) > start:
                yield Lost(start, end, "missing_chunk", f"{self.name}: these rows were never written")


def _joined(pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches, of which each that begins where the one before ends is joined to it."""
    runs: list[tuple[int, int]] = []
    for start, end in pieces:
        if runs and runs[-1][1] == start:
            runs[-1] = runs[-1][0], end
        else:
            runs.append((start, end))
    return runs


class Rows(ABC):
    """The events of a file by row.

    rows: how many the file declares. stored: a stretch that ends at a multiple of it decodes no chunk twice.
    """

    rows: int
    stored: int

    @abstractmethod
    def next_written(self, row: int) -> int:
        """The first row from `row` on that lies in a written chunk of every dataset; `rows` where there is none."""

    @abstractmethod
    def read(self, first: int, last: int) -> Stretch:
        """Rows first .. last - 1."""

    @abstractmethod
    def time(self, row: int) -> int:
        """t of one row as stored; RecordingError where it cannot be read."""


class ColumnRows(Rows):
    """Four datasets, one a column."""

    def __init__(self, columns: dict[str, Stored]) -> None:
        self._columns = [columns[name] for name in "txyp"]
        self.rows = self._columns[0].rows
        self.stored = max(column.chunk or 1 for column in self._columns)

    def next_written(self, row: int) -> int:
        before = -1
        while row != before:
            before, row = row, max(column.next_written(row) for column in self._columns)
        return row

    def read(self, first: int, last: int) -> Stretch:
        lost: list[Lost] = []
        t, x, y, p = (column.read(first, last, lost) for column in self._columns)
        return Stretch(t, x, y, p, lost)

    def time(self, row: int) -> int:
        return int(self._columns[0].row(row))


class RecordRows(Rows):
    """One dataset of records with x, y, p and t."""

    def __init__(self, events: Stored) -> None:
        self._events, self.rows, self.stored = events, events.rows, events.chunk or 1

    def next_written(self, row: int) -> int:
        return self._events.next_written(row)

    def read(self, first: int, last: int) -> Stretch:
        lost: list[Lost] = []
        records = self._events.read(first, last, lost)
        t, x, y, p = (np.ascontiguousarray(records[name]) for name in "txyp")
        return Stretch(t, x, y, p, lost)

    def time(self, row: int) -> int:
        return int(self._events.row(row)["t"])


class EcfRows(Rows):
    """One dataset of records stored with ECF, its chunks decoded here. Several threads may read at a time."""

    def __init__(self, events: Stored) -> None:
        self._events, self.rows, self.stored = events, events.rows, events.chunk or 1

    def next_written(self, row: int) -> int:
        return self._events.next_written(row)

    def read(self, first: int, last: int) -> Stretch:
        columns = Columns.allocate(last - first)
        buffer = self._buffer()
        lost, rises, latest = [], True, None
        for start, end in self._events.pieces(first, last):
            target = columns.cut(start - first, end - first)
            kind, why = self._decode(self._chunk(start, buffer), start % self.stored, target)
            if kind in ("rises", "falls"):
                rises = rises and kind == "rises" and (latest is None or target.t[0] >= latest)
                latest = target.t[-1]
            else:
                lost.append(Lost(start, end, kind, f"{self._events.name}: {why}"))
        return Stretch(*columns, lost, (rises and not lost) or None)

    def time(self, row: int) -> int:
        target = Columns.allocate(1)
        kind, why = self._decode(self._chunk(row, self._buffer()), row % self.stored, target)
        if kind not in ("rises", "falls"):
            raise RecordingError(f"{self._events.path}: row {row} of {self._events.name} cannot be read: {why}")
        return int(target.t[0])

    def _buffer(self) -> NDArray[np.uint8]:
        """Room for any chunk, for one after the other: fresh pages cost as much as the reading."""
        return np.empty(_ECF_BYTES_PER_EVENT * (self.stored + 1), np.uint8)

    def _chunk(self, row: int, buffer: NDArray[np.uint8]) -> tuple[int, NDArray[np.uint8]] | str:
        """The filter mask and the bytes of the chunk that holds a row, or why they cannot be read; "" if unwritten."""
        if self.next_written(row) > row:
            return ""
        try:
            coded, mask = self._events.stored_chunk(row, buffer)
        except (OSError, RuntimeError, ValueError) as error:
            return str(error)
        return mask, coded

    def _decode(self, chunk: tuple[int, NDArray[np.uint8]] | str, skip: int, target: Columns) -> tuple[str, str]:
        """Fill target from the chunk's event `skip` on. Returns "rises" or "falls", or what is wrong and why."""
        if isinstance(chunk, str):
            return ("broken_chunk", chunk) if chunk else ("missing_chunk", "these rows were never written")
        mask, coded = chunk
        n = len(target.t)
        if mask & 1:
            return self._copy(coded, skip, target)
        count = ecf_count(coded)
        if not skip + n <= count <= self.stored:
            return "broken_chunk", f"it says it holds {count} events, expected {skip + n} .. {self.stored}"
        columns = target if count == n else Columns.allocate(count)
        try:
            rises = decode_ecf(coded, columns.t, columns.x, columns.y, columns.p)
        except ValueError as error:
            return "broken_chunk", str(error)
        if count != n:
            for to, source in zip(target, columns.cut(skip, skip + n), strict=True):
                to[:] = source
        return "rises" if rises else "falls", ""

    def _copy(self, coded: NDArray[np.uint8], skip: int, target: Columns) -> tuple[str, str]:
        """A chunk that HDF5 stored without the filter, since the writer did not have it. Its values may not fit."""
        dtype, n = self._events.dataset.dtype, len(target.t)
        if len(coded) < (skip + n) * dtype.itemsize:
            return "broken_chunk", f"it has {len(coded)} bytes, expected {(skip + n) * dtype.itemsize}"
        records = np.frombuffer(coded, dtype, skip + n)[skip:]
        for to, name in zip(target, "txyp", strict=True):
            least, most = (records[name].min(), records[name].max()) if n else (0, 0)
            if least < np.iinfo(to.dtype).min or most > np.iinfo(to.dtype).max:
                return "broken_chunk", f"it was stored without ECF and holds {name} from {least} to {most}"
            to[:] = records[name]
        return "falls", ""
