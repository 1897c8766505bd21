"""NumPy files of events: `.npy` with fields or four columns, `.npz` with the arrays t, x, y, p or one of those.

In comes a file whose fields go by name, in any order and of any number type; out go blocks of events. Rows are read a
few at a time, whatever a header claims; pickles are never read, label files are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import MAX_SENSOR_SIDE
from spiketrack.recordings.array_source import SIZES, ArraySource, Column
from spiketrack.recordings.fields import UNITS, check_columns, deduce_columns, deduce_unit, field_of, valid_columns
from spiketrack.recordings.recording import Block, FileRecording, Reader, ReadOptions, Recording, Tally, largest_pixel

BLOCK_ROWS = 1 << 17
SAMPLE_ROWS = 10_000
_BLOCK_BYTES = 1 << 22


class ArrayLayout(NamedTuple):
    """Where t, x, y and p are, and the power of ten that turns t into us."""

    columns: dict[str, Column]
    shift: int

    @property
    def rows(self) -> int:
        return self.columns["t"].rows


def open_array(
    path: Path,
    width: int | None,
    height: int | None,
    options: ReadOptions,
    columns: str | None = None,
    time_unit: str | None = None,
) -> Recording:
    """See `spiketrack.recordings.open_recording`, for a file that begins with NPY_MAGIC or ZIP_MAGIC.

    columns: what the columns of an array without fields hold, such as "txyp" ("_" is not read); deduced where None.
    time_unit: "s", "ms", "us" or "ns"; where None as a field's name says it (`t_ns`), else us for whole numbers and s
    for fractions. Where neither the file (members width and height of a `.npz`) nor the caller gives the size of the
    sensor, the file is read once here and gets the largest x and y of its events, plus one.
    """
    if time_unit is not None and time_unit not in UNITS:
        raise RecordingError(f"{path}: no unit of time {time_unit!r}; expected one of {', '.join(UNITS)}")
    with ArraySource(path) as source:
        named, unit = _find_columns(source, columns)
        said = source.size()
        times = _sample(source, [named["t"]])[0]
    if time_unit is not None or unit is not None:
        shift = UNITS[time_unit or str(unit)]
    else:
        shift = deduce_unit(times, path, decimal=times.dtype.kind == "f")
    layout = ArrayLayout(named, shift)
    width, height = width or said.get("width"), height or said.get("height")
    if width is None or height is None:
        most = (width or MAX_SENSOR_SIDE, height or MAX_SENSOR_SIDE)
        probe = ArrayRecording(path, layout, most, ReadOptions(index=False))
        with probe._reader(Tally(), None) as reader:
            largest = largest_pixel(block.columns for block in reader.blocks())
        if largest is None:
            raise RecordingError(f"{path}: no event tells the size of the sensor; give width and height")
        width, height = width or largest[0] + 1, height or largest[1] + 1
    return ArrayRecording(path, layout, (width, height), options)


class ArrayRecording(FileRecording):
    """A recording in a NumPy file. It counts "bad_time", "bad_coordinate" (no whole number), "off_sensor",
    "bad_polarity" and "truncated_array" (the file ends before its rows do)."""

    def __init__(self, path: Path, layout: ArrayLayout, size: tuple[int, int], options: ReadOptions) -> None:
        member = layout.columns["t"].member
        super().__init__(path, "npy" if member is None else "npz", *size, options)
        self.layout = layout
        self._block_rows = BLOCK_ROWS

    def _reader(self, tally: Tally, place: Any) -> ArrayReader:
        return ArrayReader(self, self.layout, tally, place or 0, self._block_rows)

    def _index_key(self) -> dict[str, Any]:
        fields = {name: str(column[:4]) for name, column in self.layout.columns.items()}
        return {**super()._index_key(), "columns": fields, "shift": self.layout.shift}


class ArrayReader(Reader):
    """One pass; `place` is the row of the next event."""

    def __init__(self, recording: Recording, layout: ArrayLayout, tally: Tally, row: int, block_rows: int) -> None:
        self._recording, self._layout, self._tally, self._row = recording, layout, tally, row
        largest = max(column.dtype.itemsize for column in layout.columns.values())
        self._block_rows = max(1, min(block_rows, _BLOCK_BYTES // largest))
        self._source = ArraySource(recording.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.__exit__(None, None, None)

    def blocks(self) -> Iterator[Block]:
        sensor = (self._recording.width, self._recording.height)
        streams = self._source.streams([self._layout.columns[name] for name in "txyp"], self._row)
        while self._row < self._layout.rows:
            wanted = min(self._block_rows, self._layout.rows - self._row)
            t, x, y, p = streams.read(wanted)
            if len(t):
                first, self._row = self._row, self._row + len(t)
                columns = valid_columns((t, x, y, p), sensor, self._tally, first, self._layout.shift)
                yield Block(columns, self._row)
            if len(t) < wanted:
                where = f"event {self._row} of {self._layout.rows:,}: {streams.why or 'the file ends'}"
                self._tally.drop("truncated_array", 1, where)
                return


def _find_columns(source: ArraySource, columns: str | None) -> tuple[dict[str, Column], str | None]:
    """Where t, x, y and p are, and the unit of time where a name says it."""
    headers = {name: source.header(name) for name in source.names() if name not in SIZES}
    if len(headers) != 1:
        single: dict[str, list[tuple[str, str | None]]] = {}
        for name in headers:
            known = field_of(str(name).removesuffix(".npy").rpartition("/")[2])
            if known:
                single.setdefault(known[0], []).append((str(name), known[1]))
        return _by_name(source, headers, single)
    ((name, (dtype, shape, _, start)),) = headers.items()
    if dtype.names is not None:
        return _by_field(source, name, dtype, shape, start)
    if len(shape) != 2 or (4 not in shape and columns is None) or dtype.kind not in "iuf":
        raise RecordingError(
            f"{source.path}: an array of {dtype} of shape {shape}; expected events: fields t, x, y and p, or "
            "numbers of shape (N, 4)"
        )
    return _by_number(source, name, columns), None


def _by_name(
    source: ArraySource, headers: dict[str | None, Any], found: dict[str, list[tuple[str, str | None]]]
) -> tuple[dict[str, Column], str | None]:
    """Members that are named as the columns."""
    wrong = [name for name in "txyp" if len(found.get(name, [])) != 1]
    if wrong:
        has = ", ".join(map(str, headers)) or "no array"
        raise RecordingError(
            f"{source.path}: no or no single array {', '.join(wrong)}; expected the arrays t, x, y and p, got {has}"
        )
    columns = {}
    for name, [(member, _)] in found.items():
        dtype, shape, _, start = headers[member]
        if len(shape) != 1:
            raise RecordingError(f"{source.path}: {member} must be one-dimensional, got shape {shape}")
        columns[name] = Column(member, start, _number(dtype, name, member, source.path), None, shape[0])
    lengths = {name: column.rows for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise RecordingError(f"{source.path}: the columns differ in length: {lengths}")
    return columns, found["t"][0][1]


def _by_field(
    source: ArraySource, name: str | None, dtype: np.dtype, shape: tuple[int, ...], start: int
) -> tuple[dict[str, Column], str | None]:
    """Fields of structured rows."""
    fields = dtype.names or ()
    if {"w", "h"} <= set(fields):
        raise RecordingError(
            f"{source.path}: these are labels (fields {', '.join(fields)}), not events; read them with load_labels"
        )
    if len(shape) != 1:
        raise RecordingError(f"{source.path}: events must be one-dimensional rows, got shape {shape}")
    known = {field: column for field in fields if (column := field_of(field))}
    columns, unit = {}, None
    for wanted in "txyp":
        found = [field for field, (letter, _) in known.items() if letter == wanted]
        if len(found) != 1:
            raise RecordingError(
                f"{source.path}: {len(found) or 'no'} fields for {wanted}; expected one each for t, x, y and p, got "
                f"{', '.join(fields)}"
            )
        _number(dtype[found[0]], wanted, found[0], source.path)
        columns[wanted] = Column(name, start, dtype, found[0], shape[0])
        unit = unit or known[found[0]][1]
    return columns, unit


def _by_number(source: ArraySource, name: str | None, columns: str | None) -> dict[str, Column]:
    """Columns of an array (N, C) or (C, N) without fields, C = 4 or as many as `columns` has."""
    dtype, shape, fortran, start = source.header(name)
    count = 4 if columns is None else len(check_columns(columns, source.path))
    if shape[1] != count and shape[0] == count:
        shape, fortran = shape[::-1], not fortran
    rows, width = shape
    if width != count:
        raise RecordingError(f"{source.path}: an array of shape {shape}; expected (N, {count})")
    if fortran:
        step = rows * dtype.itemsize
        places = [Column(name, start + i * step, dtype, None, rows) for i in range(count)]
    else:
        row = np.dtype([("four", dtype, (count,))])
        places = [Column(name, start, row, i, rows) for i in range(count)]
    if columns is None:
        columns = deduce_columns(np.stack(_sample(source, places), axis=1), source.path)
    return {letter: place for letter, place in zip(columns, places, strict=True) if letter != "_"}


def _number(dtype: np.dtype, wanted: str, name: str, path: Path) -> np.dtype:
    if dtype.shape or dtype.kind not in ("iufb" if wanted == "p" else "iuf"):
        raise RecordingError(f"{path}: {name} must hold numbers, got {dtype}")
    return dtype


def _sample(source: ArraySource, columns: list[Column]) -> list[NDArray]:
    return source.streams(columns).read(min(SAMPLE_ROWS, columns[0].rows))
