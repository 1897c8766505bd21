"""Files of fixed-size words (EVT2, EVT3, DAT), read in pieces with the decoder's state handed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.recordings.recording import Columns, Reader, Recording, Tally

PIECE_BYTES = 1 << 20
FAULTS = ("before_time", "before_address", "off_sensor", "unknown_word")
BEFORE_TIME, BEFORE_ADDRESS, OFF_SENSOR, UNKNOWN_WORD = range(len(FAULTS))


@dataclass(frozen=True)
class WordFormat:
    """How to decode one kind of words.

    kernel(words, columns, n, state, faults, sensor, byte) -> (words used, n): decodes until the words are used up
    or the columns are full. words: (W,) of dtype; columns: (t, x, y, p), written from index n on; state: int64,
    updated; faults: (len(FAULTS), 2) int64 counts and first byte, updated; sensor: (width, height); byte: the
    place of words[0] in the file.
    """

    name: str
    dtype: type[np.unsignedinteger]
    kernel: Callable[..., tuple[int, int]]
    start: tuple[int, ...]
    events_per_word: int
    max_side: int

    @property
    def word_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize


class WordRecording(Recording):
    """A recording in words after a header of `data_start` bytes."""

    def __init__(self, path: Path, words: WordFormat, data_start: int, width: int, height: int) -> None:
        super().__init__(path, words.name, width, height)
        self._words, self._data_start = words, data_start
        self._piece_bytes = PIECE_BYTES

    def _reader(self, tally: Tally, place: Any) -> WordReader:
        return WordReader(self, self._words, tally, place or (self._data_start, self._words.start), self._piece_bytes)


class WordReader(Reader):
    """One pass; `place` is the byte of the next word and the decoder's state there."""

    def __init__(
        self,
        recording: Recording,
        words: WordFormat,
        tally: Tally,
        place: tuple[int, tuple[int, ...]],
        piece_bytes: int,
    ) -> None:
        self._path, self._sensor = recording.path, (recording.width, recording.height)
        self._format, self._tally = words, tally
        self._byte, self._state = place[0], np.array(place[1], np.int64)
        self._words: NDArray = np.empty(0, words.dtype)
        self._rest = b""  # the start of a word that the last piece cut
        self._piece_bytes = piece_bytes
        self._buffer = bytearray(piece_bytes + words.word_bytes)
        try:
            self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115 - closed by __exit__
            self._size = self._path.stat().st_size
            self._file.seek(self._byte)
        except OSError as error:
            raise RecordingError(f"{self._path}: cannot be read: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def place(self) -> tuple[int, tuple[int, ...]]:
        return self._byte, tuple(self._state.tolist())

    def events_left(self) -> int:
        return (max(0, self._size - self._byte) // self._format.word_bytes + 1) * self._format.events_per_word

    def fill(self, columns: Columns, n: int) -> tuple[int, bool]:
        faults = np.zeros((len(FAULTS), 2), np.int64)
        ended = False
        while True:
            if not len(self._words) and not self._read():
                ended = True
                break
            used, n = self._format.kernel(self._words, tuple(columns), n, self._state, faults, self._sensor, self._byte)
            self._words = self._words[used:]
            self._byte += used * self._format.word_bytes
            if len(self._words):
                break
        for kind, (count, byte) in zip(FAULTS, faults.tolist(), strict=True):
            self._tally.drop(kind, count, f"byte {byte}")
        if ended and self._rest:
            self._tally.drop("truncated_word", 1, f"byte {self._byte}")
        return n, ended

    def _read(self) -> bool:
        """Read pieces until there is a whole word; False at the end of the file."""
        while True:
            kept = len(self._rest)
            self._buffer[:kept] = self._rest
            try:
                got = self._file.readinto(memoryview(self._buffer)[kept : kept + self._piece_bytes])
            except OSError as error:
                raise RecordingError(f"{self._path}: reading failed at byte {self._byte}: {error.strerror}") from error
            if not got:
                return False
            whole, cut = divmod(kept + got, self._format.word_bytes)
            self._rest = bytes(self._buffer[kept + got - cut : kept + got])
            if whole:
                self._words = np.frombuffer(self._buffer, self._format.dtype, whole)
                return True
