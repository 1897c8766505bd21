"""Event file: decoded events on a disk, 8 bytes each, of which a window costs only its own.

Station: under `disk_cache`. In come runs of `Events`, once; out comes any part of them again, from a mapped file.
Layout, little-endian: 8 bytes of magic, which name the version; a word (uint64) for every event, of 32 bits for its
time after the first one of its piece (microseconds), 16 for x, 15 for y, the highest for the polarity; for every piece
of PIECE events, or of fewer where 71 minutes are over, its first row and time and its check sum (CRC-32); what is known
of the events (JSON); length and check sum of that, and the magic again. A time is sought among the pieces, which stay
in memory, then within one. No event is handed out before the check sum of its piece was compared, once.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any
from zlib import crc32

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import Events, Window
from spiketrack.recordings import Recording
from spiketrack.recordings.recording import Columns

PIECE = 1 << 16
_MAGIC = b"SPKEVT1\n"
_WORD = np.dtype("<u8")
_PIECES = np.dtype([("row", "<i8"), ("t", "<i8"), ("sum", "<u4")])
_END = struct.Struct("<QI8s")  # length and check sum of the JSON, magic
_MOST_US = (1 << 32) - 1  # from the first to the last event of a piece
_MOST_ROWS = 1 << 15  # of a sensor: y has 15 bits
_MOST_JSON = 1 << 24


class UnusableError(Exception):
    """The file does not hold what is asked for. kind: missing, other or damaged; the message says what was found."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


class EventFile:
    """The events of one recording in a file. invalid, repaired, first_invalid: as of the pass that decoded them.

    Nothing is kept open, each call maps the file and gives arrays of its own. Raises UnusableError where the file is
    missing, damaged or not of `key`, also later where it was replaced.
    """

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path = path
        with _opened(path) as file:
            self.identity = _identity(file)
            facts, pieces = _read_end(file)
        if facts["key"] != key:
            differing = [name for name in {**key, **facts["key"]} if facts["key"].get(name) != key.get(name)]
            raise UnusableError("other", f"of another recording or way of reading ({', '.join(differing)})")
        self.count: int = facts["count"]
        self.width, self.height = facts["width"], facts["height"]
        self.invalid, self.repaired = Counter(facts["invalid"]), Counter(facts["repaired"])
        self.first_invalid: dict[str, str] = facts["first_invalid"]
        self._bounds = np.append(pieces["row"], self.count)  # (P + 1,), piece k has the rows k .. k + 1 of these
        self._times, self._sums = np.ascontiguousarray(pieces["t"]), pieces["sum"].tolist()
        self._sound = [False] * len(pieces)

    def window(self, start_us: int, end_us: int) -> Window:
        """The events of [start_us, end_us)."""
        words = self._mapped()
        events = self._unpacked(words, self._find(words, start_us), self._find(words, end_us))
        return Window.of(events, start_us, end_us)

    def first_row(self, start_us: int) -> int:
        """The number of events before start_us."""
        return self._find(self._mapped(), start_us)

    def events(self, first: int, last: int) -> Events:
        """The events first .. last - 1."""
        return self._unpacked(self._mapped(), first, last)

    def _mapped(self) -> NDArray:
        with _opened(self.path) as file:
            if _identity(file) != self.identity:
                raise UnusableError("other", "replaced by another")
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(content, _WORD, self.count, len(_MAGIC))

    def _find(self, words: NDArray, time_us: int) -> int:
        """The first row at or after a time: it follows the last piece that begins earlier, or lies in it."""
        piece = int(np.searchsorted(self._times, time_us)) - 1
        if piece < 0:
            return 0
        since = time_us - int(self._times[piece])
        if since > _MOST_US:
            return int(self._bounds[piece + 1])
        return int(self._bounds[piece]) + _first_at(self._piece(words, piece), since)

    def _piece(self, words: NDArray, piece: int) -> NDArray:
        """The events of a piece, whose check sum was compared."""
        first, last = self._bounds[piece : piece + 2].tolist()
        if not self._sound[piece]:
            if crc32(words[first:last].data) != self._sums[piece]:
                raise UnusableError("damaged", f"the check sum of events {first:,} .. {last - 1:,} is wrong")
            self._sound[piece] = True
        return words[first:last]

    def _unpacked(self, words: NDArray, first: int, last: int) -> Events:
        t, x, y, p = Columns.allocate(last - first)
        begins = int(np.searchsorted(self._bounds, first, "right")) - 1
        for piece in range(begins, len(self._sums)):
            start, end = self._bounds[piece : piece + 2].tolist()
            if start >= last:
                break
            own = slice(max(first - start, 0), last - start)
            to = slice(max(start - first, 0), end - first)
            _unpack(self._piece(words, piece)[own], self._times[piece], t[to], x[to], y[to], p[to])
        return Events.trusted(t, x, y, p, self.width, self.height)


@njit(cache=True, nogil=True)
def _unpack(words, time, t, x, y, p):
    for i in range(len(words)):
        word = words[i]
        t[i] = time + np.int64(word & np.uint64(0xFFFFFFFF))
        x[i] = word >> np.uint64(32) & np.uint64(0xFFFF)
        y[i] = word >> np.uint64(48) & np.uint64(0x7FFF)
        p[i] = word >> np.uint64(63)


@njit(cache=True, nogil=True)
def _first_at(words, since):
    """The first word whose time is not less; times rise."""
    first, last = 0, len(words)
    while first < last:
        middle = (first + last) // 2
        if np.int64(words[middle] & np.uint64(0xFFFFFFFF)) < since:
            first = middle + 1
        else:
            last = middle
    return first


def write_events(
    file: IO[bytes], recording: Recording, key: dict[str, Any], on_events: Callable[[int], None] = lambda count: None
) -> None:
    """One pass over a recording into an empty file, in the memory of a few runs.

    key: what `EventFile` is to be asked for. on_events is told how many there are so far. Raises OSError where there is
    no space, RecordingError for a sensor that the rows cannot hold.
    """
    if recording.height > _MOST_ROWS:
        raise RecordingError(f"{recording.path}: {recording.height:,} rows; decoded events have at most {_MOST_ROWS:,}")
    pieces: list[tuple[int, int, int]] = []
    count = 0
    file.write(_MAGIC)
    for begins, part in _in_pieces(recording.chunks()):
        if begins:
            pieces.append((count, int(part.t[0]), 0))
        row, time, so_far = pieces[-1]
        t, x, y, p = (column.astype(_WORD) for column in (part.t - time, part.x, part.y, part.p))
        words = (t | x << 32 | y << 48 | p << 63).data
        file.write(words)
        pieces[-1] = (row, time, crc32(words, so_far))
        count += len(part)
        on_events(count)
    table = np.array(pieces, _PIECES).tobytes()
    counts = {name: getattr(recording, name) for name in ("invalid", "repaired", "first_invalid")}
    facts = {"key": key, "count": count, "width": recording.width, "height": recording.height, **counts}
    text = json.dumps({**facts, "pieces": len(pieces), "sum": crc32(table)}).encode()
    file.write(table + text + _END.pack(len(text), crc32(text), _MAGIC))


def _in_pieces(runs: Iterable[Events]) -> Iterator[tuple[bool, Events]]:
    """The same events, none of the runs in two pieces, and whether a piece begins with each."""
    count, time = PIECE, 0
    for run in runs:
        first = 0
        while first < len(run):
            begins = count == PIECE or run.t[first] - time > _MOST_US
            if begins:
                count, time = 0, int(run.t[first])
            last = min(len(run), first + PIECE - count)
            last = first + int(np.searchsorted(run.t[first:last], time + _MOST_US, "right"))
            yield begins, run[first:last]
            first, count = last, count + last - first


def _opened(path: Path) -> IO[bytes]:
    try:
        return open(path, "rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnusableError("missing", "not there") from error
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})") from error


def _identity(file: IO[bytes]) -> tuple[int, ...]:
    """What changes where a file is replaced or written to."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read_end(file: IO[bytes]) -> tuple[dict[str, Any], NDArray]:
    """What a file says of its events, and its pieces."""
    handle = file.fileno()
    size = os.fstat(handle).st_size
    if os.pread(handle, len(_MAGIC), 0) != _MAGIC:
        raise UnusableError("other", "no file of events")
    end = os.pread(handle, _END.size, max(size - _END.size, 0))
    length, text_sum, magic = _END.unpack(end) if len(end) == _END.size else (0, 0, b"")
    if magic != _MAGIC or not 0 < length <= min(_MOST_JSON, size - _END.size):
        raise UnusableError("damaged", "cut short")
    text = os.pread(handle, length, size - _END.size - length)
    if crc32(text) != text_sum:
        raise UnusableError("damaged", "the check sum of its description is wrong")
    facts = json.loads(text)
    at = len(_MAGIC) + facts["count"] * _WORD.itemsize
    table = os.pread(handle, facts["pieces"] * _PIECES.itemsize, at)
    if at + len(table) + length + _END.size != size or crc32(table) != facts["sum"]:
        raise UnusableError("damaged", "the check sum of its pieces is wrong")
    return facts, np.frombuffer(table, _PIECES)
