"""Text files of events (CSV, the Event Camera Dataset's events.txt, and their like): one event a line.

In come lines of numbers whose columns a `TextLayout` names, separated by blanks, tabs, commas or semicolons; lines
that begin with # or % are comments. Out go blocks of events; a line that is no event is counted with its number.
Times in s or ns become the nearest us from their decimal digits, not by way of a float.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from spiketrack.errors import RecordingError
from spiketrack.events import MAX_SENSOR_SIDE
from spiketrack.recordings.recording import (
    Block,
    Columns,
    FileRecording,
    Reader,
    ReadOptions,
    Recording,
    Tally,
    largest_pixel,
)
from spiketrack.recordings.text_layout import MAX_LINE_BYTES, SAMPLE_BYTES, TextLayout, read_layout
from spiketrack.recordings.text_lines import FAULTS, ROLES, parse_lines

BLOCK_BYTES = 1 << 20
_SHORTEST = 8  # bytes of the line `1 2 3 0` and its end


def open_text(
    path: Path,
    width: int | None,
    height: int | None,
    options: ReadOptions,
    columns: str | None = None,
    time_unit: str | None = None,
) -> Recording:
    """See `spiketrack.recordings.open_recording`; columns and time_unit as in `read_layout`.

    Where neither the file nor the caller gives the size of the sensor, the file is read once here and gets the
    largest x and y of its events, plus one.
    """
    try:
        with open(path, "rb") as file:
            sample = file.read(SAMPLE_BYTES)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be opened: {error.strerror}") from error
    layout = read_layout(sample, path, columns, time_unit)
    width, height = width or layout.width, height or layout.height
    if width is None or height is None:
        most = (width or MAX_SENSOR_SIDE, height or MAX_SENSOR_SIDE)
        probe = TextRecording(path, layout, most, ReadOptions(index=False))
        with probe._reader(Tally(), None) as reader:
            largest = largest_pixel(block.columns for block in reader.blocks())
        if largest is None:
            raise RecordingError(
                f"{path}: neither a line nor any event tells the size of the sensor; give width and height"
            )
        width, height = width or largest[0] + 1, height or largest[1] + 1
    return TextRecording(path, layout, (width, height), options)


class TextRecording(FileRecording):
    """A recording as text. It counts "bad_line", "bad_time", "off_sensor" and "bad_polarity"."""

    _PLACE_NUMBERS = 2

    def __init__(self, path: Path, layout: TextLayout, size: tuple[int, int], options: ReadOptions) -> None:
        super().__init__(path, "text", *size, options)
        self.layout = layout
        self._block_bytes = BLOCK_BYTES

    def _reader(self, tally: Tally, place: Any) -> TextReader:
        return TextReader(self, self.layout, tally, place, self._block_bytes)

    def _index_key(self) -> dict[str, Any]:
        return {**super()._index_key(), "columns": self.layout.columns, "shift": self.layout.shift}


class TextReader(Reader):
    """One pass; `place` is the byte and the number of the next line."""

    def __init__(
        self,
        recording: Recording,
        layout: TextLayout,
        tally: Tally,
        place: tuple[int, int] | None,
        block_bytes: int,
    ) -> None:
        self._path, self._sensor = recording.path, (recording.width, recording.height)
        self._tally, self._shift, self._block_bytes = tally, layout.shift, block_bytes
        self._roles = np.array([ROLES.index(name) for name in layout.columns], np.int64)
        self._byte, self._line = place or (layout.data_start, layout.first_line)
        try:
            self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115 - closed by __exit__
            self._file.seek(self._byte)
        except OSError as error:
            raise RecordingError(f"{self._path}: cannot be read: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def blocks(self) -> Iterator[Block]:
        rest, given_up = b"", False  # given_up: in the middle of a line longer than MAX_LINE_BYTES, counted already
        while True:
            piece = self._read(len(rest))
            text = rest + (piece or b"\n" * bool(rest))
            if not text:
                return
            lines = text[: text.rfind(b"\n") + 1]
            rest = text[len(lines) :]
            if given_up and lines:
                end = lines.index(b"\n") + 1
                self._byte, self._line, given_up, lines = self._byte + end, self._line + 1, False, lines[end:]
            if lines:
                columns, rises = self._parse(lines)
                yield Block(columns, (self._byte, self._line), rises=rises)
            if len(rest) > MAX_LINE_BYTES or given_up:
                self._tally.drop("bad_line", int(not given_up), f"line {self._line}")
                self._byte, given_up, rest = self._byte + len(rest), True, b""

    def _parse(self, lines: bytes) -> tuple[Columns, bool]:
        faults = np.zeros((len(FAULTS), 2), np.int64)
        columns = Columns.allocate(len(lines) // _SHORTEST + 1)
        text = np.frombuffer(lines, np.uint8)
        n, count, rises = parse_lines(text, tuple(columns), self._roles, self._shift, self._sensor, faults)
        for kind, (number, line) in zip(FAULTS, faults.tolist(), strict=True):
            self._tally.drop(kind, number, f"line {self._line + line}")
        self._byte, self._line = self._byte + len(lines), self._line + count
        return columns.cut(0, n), rises

    def _read(self, ahead: int) -> bytes:
        try:
            return self._file.read(self._block_bytes)
        except OSError as error:
            raise RecordingError(
                f"{self._path}: reading failed at byte {self._byte + ahead}: {error.strerror}"
            ) from error
