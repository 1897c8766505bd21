"""Text: a comment with the size of the sensor, a line that names the columns, then one event a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import MAX_SENSOR_SIDE, Events, Triggers
from spiketrack.recordings.writing import Writer, plain_columns

BUFFER_BYTES = 1 << 19
_MAX_LINE = 20 + 1 + 5 + 1 + 5 + 1 + 1 + 1  # bytes: t of 19 digits and its sign, x, y, p


@njit(cache=True, nogil=True)
def _put_number(out, n, number):
    """The decimal digits of number >= 0; returns where they end."""
    end, rest = n + 1, number
    while rest >= 10:
        rest //= 10
        end += 1
    for i in range(end - 1, n - 1, -1):
        out[i] = 48 + number % 10
        number //= 10
    return end


@njit(cache=True, nogil=True)
def encode_text(columns, out, i):
    """Lines `t,x,y,p` of the events from i on, until out is full; returns the next event and the bytes written."""
    t, x, y, p = columns
    n, line = 0, 0
    while i < len(t) and n + _MAX_LINE <= len(out):
        if n and t[i] == t[i - 1]:
            before, line = line, n
            while out[before] != 44:  # the same digits as in the line before
                out[n] = out[before]
                n, before = n + 1, before + 1
        else:
            line = n
            if t[i] < 0:
                out[n] = 45
                n += 1
            n = _put_number(out, n, abs(t[i]))
        out[n] = 44
        n = _put_number(out, n + 1, np.int64(x[i]))
        out[n] = 44
        n = _put_number(out, n + 1, np.int64(y[i]))
        out[n] = 44
        out[n + 1] = 48 + p[i]
        out[n + 2] = 10
        n += 3
        i += 1
    return i, n


class TextWriter(Writer):
    """A recording in text; see `create_recording`."""

    def __init__(self, path: Path, width: int, height: int) -> None:
        super().__init__(path, width, height, MAX_SENSOR_SIDE)
        self._buffer: NDArray[np.uint8] = np.empty(BUFFER_BYTES, np.uint8)

    def _encode(self, events: Events, triggers: Triggers) -> None:
        if len(triggers):
            raise RecordingError(
                f"{self.path}: {len(triggers)} external triggers have no place in a text file; write .raw or .h5, or "
                "leave them out"
            )
        if not len(events):
            return
        self._write_header()
        columns, i = plain_columns(events), 0
        while i < len(events):
            i, n = encode_text(columns, self._buffer, i)
            self._write(self._buffer[:n])
        self._last_us = int(events.t[-1])

    def _finish(self) -> None:
        self._write_header()

    def _write_header(self) -> None:
        if self._last_us is None:
            self._write(f"# width={self.width} height={self.height}\nt,x,y,p\n".encode())
