"""N-MNIST `.bin`: 5 bytes an event, x, y, then the polarity in bit 7 and 23 bits of big-endian time in us.

The format has no header and no magic, so it is recognised by every event of the file making sense.
Source: Orchard et al., "Converting static image datasets to spiking neuromorphic datasets using saccades", 2015.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.recordings.recording import Block, Columns, FileRecording, Reader, ReadOptions, Recording, Tally

SIDE = 34
EVENT_BYTES = 5
MAX_BYTES = EVENT_BYTES << 20


def decode_nmnist(raw: NDArray[np.uint8]) -> Columns:
    """raw: (N * 5,) bytes of whole events. Returns N events in the order of the file."""
    x, y, high, middle, low = raw.reshape(-1, EVENT_BYTES).T
    t = (high & 0x7F).astype(np.int64) << 16 | middle.astype(np.int64) << 8 | low
    return Columns(t, x.astype(np.uint16), y.astype(np.uint16), (high >> 7).astype(np.uint8))


def why_not_nmnist(raw: NDArray[np.uint8]) -> str | None:
    """What speaks against raw, the bytes of a whole file, being N-MNIST; None where nothing does."""
    if len(raw) % EVENT_BYTES:
        return f"its {len(raw):,} bytes are no multiple of {EVENT_BYTES}"
    t, x, y, _ = decode_nmnist(raw)
    outside = (x >= SIDE) | (y >= SIDE)
    if outside.any():
        i = int(np.argmax(outside))
        return f"event {i} (byte {i * EVENT_BYTES}) would be at ({x[i]}, {y[i]}), off a sensor of {SIDE} x {SIDE}"
    if (t[1:] < t[:-1]).any():
        i = int(np.argmax(t[1:] < t[:-1])) + 1
        return f"its time would run backwards at event {i} (byte {i * EVENT_BYTES})"
    if len(t) > 1 and (raw.reshape(-1, EVENT_BYTES) == raw[:EVENT_BYTES]).all():
        return "all its events would be the same"
    return None


class NmnistRecording(FileRecording):
    """One sample; small by definition (at most MAX_BYTES), so a pass reads it at once."""

    def __init__(self, path: Path, width: int, height: int, options: ReadOptions) -> None:
        super().__init__(path, "nmnist", width, height, options)

    def _reader(self, tally: Tally, place: Any) -> Reader:
        return _NmnistReader(self, tally, place)


class _NmnistReader(Reader):
    def __init__(self, recording: Recording, tally: Tally, place: Any) -> None:
        self._recording, self._tally = recording, tally
        try:
            with open(recording.path, "rb") as file:
                raw = np.frombuffer(file.read(MAX_BYTES), np.uint8)
        except OSError as error:
            raise RecordingError(f"{recording.path}: cannot be read: {error.strerror}") from error
        self._events = raw[: len(raw) // EVENT_BYTES * EVENT_BYTES] if place is None else raw[:0]

    def __exit__(self, *_: object) -> None:
        pass

    def blocks(self) -> Iterator[Block]:
        decoded = decode_nmnist(self._events)
        inside = (decoded.x < self._recording.width) & (decoded.y < self._recording.height)
        outside = np.flatnonzero(~inside)
        if len(outside):
            self._tally.drop("off_sensor", len(outside), f"byte {outside[0] * EVENT_BYTES}")
        yield Block(decoded.select(inside), len(self._events))
