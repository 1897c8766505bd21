"""AEDAT4 (iniVation, DAVIS and DVXplorer): packets of events, decoded by the package `aedat` (extra `aedat`).

The times are microseconds since 1970. The signals of the file become triggers; frames and IMU samples are skipped.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import Triggers
from spiketrack.recordings.aedat4_packets import PacketSizes
from spiketrack.recordings.fields import valid_columns
from spiketrack.recordings.recording import (
    TIME_LIMIT_US,
    Block,
    Columns,
    FileRecording,
    Reader,
    ReadOptions,
    Recording,
    Tally,
)

BLOCK_EVENTS = 1 << 17
# The sources of triggers as dv-processing numbers them, and the (channel, value) that they become: channel 0 is the
# external input (a pulse counts as its rising edge), 1 the generator, 2 frames and 3 exposures from begin to end,
# 4 the resetting of the clock.
TRIGGER_SOURCES = ((4, 1), (0, 1), (0, 0), (0, 1), (1, 1), (1, 0), (2, 1), (2, 0), (3, 1), (3, 0))
_Place = tuple[int, int, int]


def open_aedat4(path: Path, width: int | None, height: int | None, options: ReadOptions) -> Recording:
    """See `spiketrack.recordings.open_recording`. A file with several event streams is refused."""
    decoder = _decoder(path)
    streams = {i: stream for i, stream in decoder.id_to_stream().items() if stream["type"] == "events"}
    if len(streams) != 1:
        raise RecordingError(f"{path}: this AEDAT4 file has {len(streams)} streams of events; expected one")
    ((stream, said),) = streams.items()
    return Aedat4Recording(path, (width or said["width"], height or said["height"]), stream, options)


class Aedat4Recording(FileRecording):
    """A recording of an iniVation camera. It counts "bad_time", "off_sensor", "broken_packet" (nothing behind it can
    be read) and "bad_trigger" (without a time or of an unknown source)."""

    _PLACE_NUMBERS = 3

    def __init__(self, path: Path, size: tuple[int, int], stream: int, options: ReadOptions) -> None:
        super().__init__(path, "aedat4", *size, options)
        self.stream = stream
        self._block_events = BLOCK_EVENTS

    def _reader(self, tally: Tally, place: Any) -> Reader:
        return _Aedat4Reader(self, tally, place or (0, 0, 0), self._block_events)


class _Aedat4Reader(Reader):
    """One pass; a place is how many packets and events have been read, and how many events of the next packet."""

    def __init__(self, recording: Aedat4Recording, tally: Tally, place: _Place, block_events: int) -> None:
        self._stream, self._sensor = recording.stream, (recording.width, recording.height)
        self._tally, self._block_events = tally, block_events
        self._packet, self._event, self._skip = place
        self._packets = iter(_decoder(recording.path))
        self._sizes = PacketSizes(recording.path)

    def __exit__(self, *_: object) -> None:
        self._sizes.__exit__()
        del self._packets

    def blocks(self) -> Iterator[Block]:
        for _ in range(self._packet):
            if self._next() is None:
                return
        while (packet := self._next()) is not None:
            self._packet += 1
            if packet["stream_id"] == self._stream and "events" in packet:
                yield from self._events(packet["events"])
            elif "triggers" in packet:
                yield Block(Columns.allocate(0), (self._packet, self._event, 0), self._triggers(packet["triggers"]))

    def _next(self) -> dict[str, Any] | None:
        """The next packet. The package cannot go on behind a broken one, such as that of a cut file: it is the last."""
        why = self._sizes.why_not()
        if why is None:
            try:
                with _no_panic():
                    return next(self._packets, None)
            except RuntimeError as error:
                why = str(error)
        self._tally.drop("broken_packet", 1, f"event {self._event}, where the file stops being readable: {why}")
        return None

    def _events(self, events: NDArray) -> Iterator[Block]:
        for first in range(self._skip, len(events), self._block_events):
            part = events[first : first + self._block_events]
            raw = [part[name] for name in ("t", "x", "y", "on")]
            columns = valid_columns(raw, self._sensor, self._tally, self._event)
            self._event += len(part)
            last = first + len(part)
            place = (self._packet, self._event, 0) if last == len(events) else (self._packet - 1, self._event, last)
            yield Block(columns, place)
        self._skip = 0

    def _triggers(self, triggers: NDArray) -> Triggers:
        t, source = triggers["t"], triggers["source"]
        bad = (t > TIME_LIMIT_US) | (source >= len(TRIGGER_SOURCES))
        if bad.any():
            i = int(np.argmax(bad))
            where = f"packet {self._packet - 1}: t {t[i]}, source {source[i]}"
            self._tally.drop("bad_trigger", int(np.count_nonzero(bad)), where)
        channel, value = np.array(TRIGGER_SOURCES, np.uint8)[source[~bad]].T
        return Triggers(t[~bad].astype(np.int64), channel, value)


def _decoder(path: Path) -> Any:
    try:
        import aedat
    except ImportError as error:
        raise RecordingError(f'{path}: AEDAT4 needs another package: pip install "spiketrack[aedat]"') from error
    with PacketSizes(path):
        pass
    try:
        with _no_panic():
            return aedat.Decoder(str(path))
    except (RuntimeError, OSError) as error:
        raise RecordingError(f"{path}: not a readable AEDAT4 file: {error}") from error


@contextmanager
def _no_panic() -> Generator[None]:
    """The package is written in Rust: what it does not expect makes it panic, which is no Exception and has no type
    that could be imported."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(f"the package aedat gave up: {error}") from error
