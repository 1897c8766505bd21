"""AEDAT4 (iniVation, DAVIS and DVXplorer): packets of events, decoded by the package `aedat` (extra `aedat`).

The times are microseconds since 1970. Frames, IMU samples and triggers of the file are skipped.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.recordings.recording import CHUNK_EVENTS, TIME_LIMIT_US, Columns, Reader, Recording, Tally


def open_aedat4(path: Path, width: int | None, height: int | None) -> Recording:
    """See `spiketrack.recordings.open_recording`. A file with several event streams is refused."""
    decoder = _decoder(path)
    streams = {i: stream for i, stream in decoder.id_to_stream().items() if stream["type"] == "events"}
    if len(streams) != 1:
        raise RecordingError(f"{path}: this AEDAT4 file has {len(streams)} streams of events; expected one")
    ((stream, said),) = streams.items()
    return Aedat4Recording(path, width or said["width"], height or said["height"], stream)


class Aedat4Recording(Recording):
    """A recording of an iniVation camera."""

    def __init__(self, path: Path, width: int, height: int, stream: int) -> None:
        super().__init__(path, "aedat4", width, height)
        self.stream = stream

    def _reader(self, tally: Tally, place: Any) -> Reader:
        return _Aedat4Reader(self, tally, place or 0)


class _Aedat4Reader(Reader):
    """One pass; `place` counts the events of the file that have been read."""

    def __init__(self, recording: Aedat4Recording, tally: Tally, place: int) -> None:
        self._recording, self._tally, self._read = recording, tally, place
        self._packets = _packets(recording, tally, place)
        self._packet: NDArray | None = next(self._packets, None)

    def __exit__(self, *_: object) -> None:
        self._packets.close()

    def events_left(self) -> int:
        return 0 if self._packet is None else CHUNK_EVENTS  # the file does not say; a full run bounds it

    def place(self) -> int:
        return self._read

    def fill(self, columns: Columns, n: int) -> tuple[int, bool]:
        while self._packet is not None and n < len(columns.t):
            events, self._packet = self._packet[: len(columns.t) - n], self._packet[len(columns.t) - n :]
            n = self._keep(events, columns, n)
            self._read += len(events)
            if not len(self._packet):
                self._packet = next(self._packets, None)
        return n, self._packet is None

    def _keep(self, events: NDArray, columns: Columns, n: int) -> int:
        recording = self._recording
        bad_time = events["t"] > TIME_LIMIT_US
        off = (events["x"] >= recording.width) | (events["y"] >= recording.height)
        for kind, bad in (("bad_time", bad_time), ("off_sensor", off & ~bad_time)):
            if bad.any():
                self._tally.drop(kind, int(np.count_nonzero(bad)), f"event {self._read + int(np.argmax(bad))}")
        kept = events[~(bad_time | off)]
        end = n + len(kept)
        for column, name in zip(columns, ("t", "x", "y", "on"), strict=True):
            column[n:end] = kept[name]
        return end


def _packets(recording: Aedat4Recording, tally: Tally, skip: int) -> Generator[NDArray]:
    """Events of one packet after the other, without the first `skip` events.

    The package cannot go on behind a broken packet, such as that of a cut file: what came before is delivered, and
    the break is counted.
    """
    packets = iter(_decoder(recording.path))
    count = 0
    while True:
        try:
            packet = next(packets, None)
        except RuntimeError as error:
            tally.drop("broken_packet", 1, f"event {count}, where the file stops being readable: {error}")
            return
        if packet is None:
            return
        if packet.get("stream_id") == recording.stream and len(packet["events"]):
            events = packet["events"]
            count += len(events)
            if count > skip:
                yield events[max(0, skip - (count - len(events))) :]


def _decoder(path: Path) -> Any:
    try:
        import aedat
    except ImportError as error:
        raise RecordingError(f'{path}: AEDAT4 needs another package: pip install "spiketrack[aedat]"') from error
    try:
        return aedat.Decoder(str(path))
    except (RuntimeError, OSError) as error:
        raise RecordingError(f"{path}: not a readable AEDAT4 file: {error}") from error
