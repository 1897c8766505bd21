"""Files of fixed-size words (EVT2, EVT2.1, EVT3, DAT), decoded in pieces, several at a time.

A piece is decoded from the state that the piece before it leaves behind. With more than one thread that state is not
known yet: the words before the piece tell what it must be, the piece is decoded on that guess, and the guess is
compared with the truth when the piece before is done. Where only whole turns of the clock are missing they are
added; where more is wrong the piece is decoded again. So the result never depends on the number of threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import NO_TRIGGERS, Triggers
from spiketrack.recordings.recording import Block, ColumnPool, Columns, FileRecording, Reader, ReadOptions, Tally

PIECE_BYTES = 1 << 19  # with what becomes of it, they stay in the caches of a core
BLOCK_WORDS = 2048
SCRATCH = 12 * BLOCK_WORDS + 16
FAULTS = ("before_time", "before_address", "off_sensor", "unknown_word", "bad_clock")
BEFORE_TIME, BEFORE_ADDRESS, OFF_SENSOR, UNKNOWN_WORD, BAD_CLOCK = range(len(FAULTS))
CLOCK, BEFORE = 0, 1  # places in the state of every kind of words
_LOOK_BACK_WORDS = (1 << 12, 1 << 14, 1 << 16, 1 << 18)  # the clock is told often, or only where it changes
_GROUP = 4  # pieces that a thread decodes at a time: handing work over takes as long as decoding a piece of it


@njit(cache=True, nogil=True)
def count_fault(faults, kind, count, byte):
    """Add to faults[kind]: the count and, the first time, the byte."""
    if count and faults[kind, 0] == 0:
        faults[kind, 1] = byte
    faults[kind, 0] += count


@dataclass(frozen=True)
class WordFormat:
    """How to decode one kind of words.

    kernel(words, columns, triggers, state, faults, sensor, byte) -> (words used, events, triggers, time never falls):
    decodes blocks of BLOCK_WORDS until the words are used up or what is to be written might not have room. words:
    (W,) of dtype; columns: (t, x, y, p); triggers: (t, channel, value, and SCRATCH numbers of no meaning to write on);
    state: int64, updated, first the unwrapped clock (-1 before the first reading) and the clock before a suspect
    reading (else -1); faults: (len(FAULTS), 2) int64 counts and first byte, updated; sensor: (width, height); byte: the
    place of words[0] in the file.
    rewind(words) -> state after these words, its clock not unwrapped, or -1 where they do not tell.
    span: the clock's readings before it wraps; unit_us: what one of them is. events_per_word: at most.
    """

    name: str
    dtype: type[np.unsignedinteger]
    kernel: Callable[..., tuple[int, int, int, bool]]
    rewind: Callable[[NDArray], NDArray[np.int64]]
    start: tuple[int, ...]
    span: int
    unit_us: int
    events_per_word: int
    max_side: int

    @property
    def word_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize


class WordRecording(FileRecording):
    """A recording in words after a header of `data_start` bytes; offset_us is added to every time."""

    def __init__(
        self,
        path: Path,
        words: WordFormat,
        data_start: int,
        size: tuple[int, int],
        options: ReadOptions,
        offset_us: int = 0,
    ) -> None:
        super().__init__(path, words.name, *size, options)
        self.words, self.data_start, self.offset_us = words, data_start, offset_us
        self._piece_words = PIECE_BYTES // words.word_bytes

    def _reader(self, tally: Tally, place: Any) -> WordReader:
        return WordReader(self, tally, place or (self.data_start, self.words.start), self._piece_words)

    def _is_place(self, place: Any) -> bool:
        match place:
            case (int(byte), tuple(state)):
                words, rest = divmod(byte - self.data_start, self.words.word_bytes)
                numbers = len(state) == len(self.words.start) and all(type(n) is int for n in state)
                return words >= 0 == rest and numbers and all(-2 <= n < 1 << 48 for n in state)
        return False


class _Buffers:
    """What a thread uses again for each piece: its words, and room for triggers and for what the kernel takes down."""

    def __init__(self, piece_bytes: int) -> None:
        self.piece = np.empty(piece_bytes, np.uint8)
        n = 4 * BLOCK_WORDS
        self.room = np.empty(n, np.int64), np.empty(n, np.uint8), np.empty(n, np.uint8), np.empty(SCRATCH, np.uint64)


@dataclass
class _Part:
    """What one call of the kernel gave: its events, and byte and state behind the last word it used."""

    columns: Columns
    triggers: Triggers
    rises: bool
    byte: int
    state: NDArray[np.int64]


@dataclass
class _Decoded:
    start: NDArray[np.int64]
    parts: list[_Part]
    faults: NDArray[np.int64]


class WordReader(Reader):
    """One pass; a place is the byte of the next word and the decoder's state there."""

    def __init__(self, recording: WordRecording, tally: Tally, place: tuple[int, tuple[int, ...]], piece: int) -> None:
        self._recording, self._format, self._tally = recording, recording.words, tally
        self._byte, self._state = place[0], np.array(place[1], np.int64)
        self._piece_bytes = piece * self._format.word_bytes
        self._room = (BLOCK_WORDS + 2) * self._format.events_per_word  # what the kernel wants free to go on
        self._most = piece + self._room
        self._pool, self._buffers = ColumnPool(), threading.local()
        self._density = 1.0  # events per word to make room for
        try:
            self._file = os.open(recording.path, os.O_RDONLY)
        except OSError as error:
            raise RecordingError(f"{recording.path}: cannot be read: {error.strerror}") from error
        whole, self._cut = divmod(max(0, os.fstat(self._file).st_size - self._byte), self._format.word_bytes)
        self._end = self._byte + whole * self._format.word_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def blocks(self) -> Iterator[Block]:
        threads = self._recording.options.threads
        decoded = self._in_turn() if threads == 1 else self._in_parallel(threads)
        for piece in decoded:
            for kind, (count, byte) in zip(FAULTS, piece.faults.tolist(), strict=True):
                self._tally.drop(kind, count, f"byte {byte}")
            for part in piece.parts:
                yield Block(part.columns, (part.byte, tuple(part.state.tolist())), part.triggers, part.rises)
        if self._cut:
            self._tally.drop("truncated_word", 1, f"byte {self._end}")

    def _in_turn(self) -> Iterator[_Decoded]:
        state = self._state
        for byte in range(self._byte, self._end, self._piece_bytes):
            piece = self._decode(byte, 1, state)
            state = piece.parts[-1].state
            yield piece

    def _in_parallel(self, threads: int) -> Iterator[_Decoded]:
        truth = self._state
        waiting: deque[tuple[int, Future[_Decoded]]] = deque()
        starts = iter(range(self._byte, self._end, _GROUP * self._piece_bytes))
        pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        try:
            while True:
                for byte in islice(starts, threads + 1 - len(waiting)):
                    start = truth.copy() if byte == self._byte else None
                    waiting.append((byte, pool.submit(self._decode_guessing, byte, start, int(truth[CLOCK]))))
                if not waiting:
                    return
                piece = self._verified(*waiting.popleft(), truth)
                truth = piece.parts[-1].state
                yield piece
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode_guessing(self, byte: int, start: NDArray[np.int64] | None, clock: int) -> _Decoded:
        """Decode a group from a start that is not known yet, where None. clock: one a while before, -1 if unknown."""
        return self._decode(byte, _GROUP, self._guess(byte, clock) if start is None else start)

    def _guess(self, byte: int, clock: int) -> NDArray[np.int64]:
        """The state before a piece, as the words before it tell."""
        word = self._format.word_bytes
        for look_back in _LOOK_BACK_WORDS:
            first = max(self._byte, byte - look_back * word)
            state = self._format.rewind(self._read_into(np.empty(byte - first, np.uint8), first))
            if state[CLOCK] >= 0 or first == self._byte:
                break
        if clock >= 0 and state[CLOCK] >= 0:
            state[CLOCK] = clock + (state[CLOCK] - clock) % self._format.span
        return state

    def _verified(self, byte: int, future: Future[_Decoded], truth: NDArray[np.int64]) -> _Decoded:
        piece = future.result()
        guess = piece.start
        known = guess >= 0
        known[CLOCK] = False
        turns, rest = divmod(int(truth[CLOCK] - guess[CLOCK]), self._format.span)
        unknown_was_used = piece.faults[BEFORE_TIME, 0] or piece.faults[BEFORE_ADDRESS, 0]
        unknown_was_used |= any((part.state < -1).any() for part in piece.parts)
        same = (guess[known] == truth[known]).all() and truth[BEFORE] < 0 and truth[CLOCK] >= 0 and guess[CLOCK] >= 0
        early = turns and min(guess[CLOCK], truth[CLOCK]) < 2 * self._format.span  # no way back before the first turn
        if not np.array_equal(guess, truth) and (rest or unknown_was_used or early or not same):
            return self._decode(byte, _GROUP, truth)
        ahead = turns * self._format.span
        for part in piece.parts:
            if ahead:
                part.columns.t[:] += ahead * self._format.unit_us
                part.triggers = _later(part.triggers, ahead * self._format.unit_us)
                part.state[CLOCK] += ahead
                if part.state[BEFORE] >= 0:
                    part.state[BEFORE] += ahead
            untouched = part.state == -1
            untouched[BEFORE] = False
            part.state[untouched] = truth[untouched]
        return piece

    def _decode(self, byte: int, pieces: int, start: NDArray[np.int64]) -> _Decoded:
        """All events of some pieces, in parts that end with a piece or where self._most events are reached."""
        state, faults, parts = start.copy(), np.zeros((len(FAULTS), 2), np.int64), []
        for first in range(byte, min(self._end, byte + pieces * self._piece_bytes), self._piece_bytes):
            words = self._read(first)
            while len(words):
                part, used = self._decode_part(words, first, state, faults)
                words, first = words[used:], part.byte
                parts.append(part)
        return _Decoded(start, parts, faults)

    def _decode_part(
        self, words: NDArray, byte: int, state: NDArray[np.int64], faults: NDArray[np.int64]
    ) -> tuple[_Part, int]:
        """As many words as give self._most events; memory is taken for about as many as the last part had."""
        kernel, sensor = self._format.kernel, (self._recording.width, self._recording.height)
        offset_us, word_bytes = self._recording.offset_us, self._format.word_bytes
        room = self._own().room
        columns = self._pool.take(self._most, min(self._most, int(len(words) * self._density) + self._room))
        used, n, rises, met = 0, 0, True, []
        while used < len(words):
            rest = tuple(columns.cut(n, len(columns.t)))
            more, k, m, orderly = kernel(words[used:], rest, room, state, faults, sensor, byte + used * word_bytes)
            met += [_triggers(room, m)] if m else []
            rises = rises and orderly and (not n or not k or columns.t[n] >= columns.t[n - 1])
            used, n = used + more, n + k
            if used < len(words) and len(columns.t) < self._most:
                columns = self._widened(columns, n)
            elif not more or m + BLOCK_WORDS <= len(room[0]):
                break
        self._density = n / max(used, 1) * 1.2
        columns = columns.cut(0, n)
        if offset_us:
            columns.t[:] += offset_us
        triggers = _later(Triggers.concatenate(met), offset_us) if met else NO_TRIGGERS
        return _Part(columns, triggers, bool(rises), byte + used * word_bytes, state.copy()), used

    def _own(self) -> _Buffers:
        """The buffers of this thread."""
        if not hasattr(self._buffers, "own"):
            self._buffers.own = _Buffers(self._piece_bytes)
        return self._buffers.own

    def _widened(self, columns: Columns, n: int) -> Columns:
        """Room for as many events as a part may have, with the first n of columns."""
        wider = self._pool.take(self._most, self._most)
        for column, old in zip(wider, columns, strict=True):
            column[:n] = old[:n]
        return wider

    def _read(self, byte: int) -> NDArray:
        """The words of a piece; valid until this thread reads again."""
        return self._read_into(self._own().piece[: min(self._piece_bytes, self._end - byte)], byte)

    def _read_into(self, buffer: NDArray[np.uint8], byte: int) -> NDArray:
        got = 0
        while got < len(buffer):
            try:
                more = os.preadv(self._file, [buffer[got:].data], byte + got)
            except OSError as error:
                raise RecordingError(
                    f"{self._recording.path}: reading failed at byte {byte + got}: {error.strerror}"
                ) from error
            if not more:
                raise RecordingError(f"{self._recording.path}: the file shrank to {byte + got} bytes while it was read")
            got += more
        return buffer.view(self._format.dtype)


def _later(triggers: Triggers, by_us: int) -> Triggers:
    return Triggers(triggers.t + by_us, triggers.channel, triggers.value) if by_us and len(triggers) else triggers


def _triggers(room: tuple[NDArray, ...], m: int) -> Triggers:
    t, channel, value, _ = room
    return Triggers(t[:m].copy(), channel[:m].copy(), value[:m].copy())
