"""The arrays of a `.npy` or `.npz` file as streams of rows.

A few rows are read at a time, whatever a header, a directory or a compressed member claims; pickles are never read.
"""

from __future__ import annotations

import ast
import io
import re
import struct
import warnings
import zipfile
import zlib
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.lib.format import descr_to_dtype
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import MAX_SENSOR_SIDE

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"
_MAX_HEADER_BYTES = 1 << 14
_MAX_ROW_BYTES = 1 << 12
_MAX_DIRECTORY_BYTES = 1 << 20
_MAX_MEMBERS = 64
SIZES: dict[str | None, str] = {"width.npy": "width", "height.npy": "height"}
_PIECE_BYTES = 1 << 19
_BROKEN = (OSError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, ValueError, OverflowError)


class Column(NamedTuple):
    """One column of numbers. member: its file in the archive, None for a `.npy`. start: its first byte there. dtype:
    that of a row; field: of the row, its name or (of four columns) number, None for the row itself; rows: how many."""

    member: str | None
    start: int
    dtype: np.dtype
    field: str | int | None
    rows: int


class Streams:
    """Rows of several columns, read in step; columns that share their rows (fields) are read once."""

    def __init__(self, files: dict[tuple[str | None, int], IO[bytes]], columns: list[Column]) -> None:
        self._files, self._columns = files, columns
        self.why = ""

    def read(self, rows: int) -> list[NDArray]:
        """The next rows of every column, fewer where a file ends or breaks."""
        read = {}
        for column in self._columns:
            key = column.member, column.start
            if key not in read:
                content = self._content(self._files[key], rows * column.dtype.itemsize)
                read[key] = np.frombuffer(content, column.dtype, len(content) // column.dtype.itemsize)
        n = min(map(len, read.values()))
        parts = []
        for column in self._columns:
            part = read[column.member, column.start][:n]
            if isinstance(column.field, int):
                part = part["four"][:, column.field]
            elif column.field is not None:
                part = part[column.field]
            parts.append(part)
        return parts

    def _content(self, file: IO[bytes], size: int) -> bytes:
        content = bytearray()
        try:
            while len(content) < size:
                piece = file.read(min(size - len(content), _PIECE_BYTES))
                if not piece:
                    break
                content += piece
        except _BROKEN as error:
            self.why = str(error) or type(error).__name__
        return bytes(content)


class ArraySource(AbstractContextManager["ArraySource"]):
    """An open `.npy` or `.npz`: its arrays by name (None for the one of a `.npy`), and streams of their rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = ExitStack()
        try:
            file = self._open.enter_context(_Bounded(path))
            is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
            file.seek(0)
            self._zip = self._open.enter_context(zipfile.ZipFile(file)) if is_zip else None
        except OSError as error:
            self._open.close()
            raise RecordingError(f"{path}: cannot be read: {error.strerror or error}") from error
        except _BROKEN as error:
            self._open.close()
            raise RecordingError(f"{path}: not a whole zip or npz archive: {error}") from error

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def names(self) -> list[str | None]:
        if self._zip is None:
            return [None]
        members = self._zip.infolist()
        unread = [m for m in members if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
        if len(members) > _MAX_MEMBERS or unread or any(member.flag_bits & 1 for member in members):
            raise RecordingError(
                f"{self.path}: a zip archive with {len(members)} members; expected a .npz of at most {_MAX_MEMBERS} "
                "arrays, stored or deflated, not encrypted"
            )
        return [member.filename for member in members if member.filename.endswith(".npy")]

    def open(self, name: str | None) -> IO[bytes]:
        """A file of its own for each call."""
        try:
            if self._zip is None or name is None:
                return self._open.enter_context(_Bounded(self.path))
            return self._open.enter_context(self._zip.open(name))
        except (*_BROKEN, KeyError) as error:
            raise RecordingError(f"{self.path}: cannot be read: {error}") from error

    def header(self, name: str | None) -> tuple[np.dtype, tuple[int, ...], bool, int]:
        """dtype, shape, whether columns come one after the other, and the byte at which the data begins."""
        try:
            return read_npy_header(self.open(name))
        except _BROKEN as error:
            raise RecordingError(f"{self.path if name is None else f'{self.path}: {name}'}: {error}") from error

    def size(self) -> dict[str, int]:
        """The members width and height, where there are such."""
        sizes = {}
        for name in set(SIZES) & set(self.names()):
            dtype, shape, _, start = self.header(name)
            values = self.streams([Column(name, start, dtype, None, 1)]).read(1)[0]
            whole = dtype.kind in "iu" and shape in ((), (1,)) and len(values) == 1
            if not whole or not 1 <= values[0] <= MAX_SENSOR_SIDE:
                raise RecordingError(
                    f"{self.path}: {name} holds {values} of shape {shape}; expected one integer, 1 .. {MAX_SENSOR_SIDE}"
                )
            sizes[SIZES[name]] = int(values[0])
        return sizes

    def streams(self, columns: list[Column], row: int = 0) -> Streams:
        """Rows of the columns from `row` on."""
        files = {}
        for column in columns:
            key = column.member, column.start
            if key not in files:
                files[key] = self.open(column.member)
                try:
                    _skip(files[key], column.start + row * column.dtype.itemsize)
                except _BROKEN as error:
                    raise RecordingError(f"{self.path}: reading failed before row {row}: {error}") from error
        return Streams(files, columns)


class _Bounded(io.FileIO):
    """A file that is read in small pieces only, also where an archive claims a large directory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            place = self.tell()
            size = self.seek(0, io.SEEK_END) - place
            self.seek(place)
        if size > _MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a directory of {size} bytes; expected at most {_MAX_DIRECTORY_BYTES:,}")
        return super().read(size)


def _skip(file: IO[bytes], size: int) -> None:
    """Go on by `size` bytes; in an archive that means to read them."""
    if isinstance(file, io.FileIO):
        file.seek(size)
        return
    while size > 0 and (piece := file.read(min(size, _PIECE_BYTES))):
        size -= len(piece)


def read_npy_header(file: IO[bytes]) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """dtype, shape, whether in Fortran order, and the byte at which the data begins.

    Raises ValueError where that is no header of an array of numbers, or is larger than any such header.
    """
    head = file.read(8)
    size = {1: 2, 2: 4, 3: 4}.get(head[6] if len(head) == 8 else 0, 0)
    length = file.read(size)
    if not head.startswith(NPY_MAGIC) or not size or len(length) < size:
        raise ValueError("not a whole .npy file: its header is cut short or of an unknown version")
    claimed = int.from_bytes(length, "little")
    if claimed > _MAX_HEADER_BYTES:
        raise ValueError(f"not a .npy file of numbers: its header claims {claimed:,} bytes")
    dtype, shape, fortran = _description(file.read(claimed).decode("utf-8" if head[6] == 3 else "latin-1"))
    if dtype.hasobject:
        raise ValueError("a .npy file with Python objects (pickles are never read)")
    if any(side < 0 for side in shape) or not 0 < dtype.itemsize <= _MAX_ROW_BYTES:
        raise ValueError(
            f"a .npy file of shape {shape} with {dtype.itemsize:,} bytes a row, which is no table of numbers"
        )
    return dtype, shape, fortran, 8 + size + claimed


def _description(text: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    """dtype, shape and fortran_order from the text of a header, a dictionary of Python literals."""
    try:
        said = ast.literal_eval(re.sub(r"([0-9])L\b", r"\1", text).strip())  # Python 2 wrote 5L
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dtype = descr_to_dtype(said["descr"])
        shape, fortran = said["shape"], said["fortran_order"]
    except (*_BROKEN, TypeError, SyntaxError, LookupError, AttributeError, RecursionError, MemoryError) as error:
        raise ValueError(f"not a whole .npy file: {type(error).__name__}: {error}") from error
    if not isinstance(shape, tuple) or not all(type(side) is int for side in shape) or type(fortran) is not bool:
        raise ValueError(f"not a whole .npy file: shape {shape!r}, fortran_order {fortran!r}")
    return dtype, shape, fortran
