"""RAW EVT2, EVT2.1, EVT3 and DAT: encoders of words, and the writer that hands their state from run to run.

In come sorted events and triggers, out go words as sensors write them, in the order of the events: vector words join
only events that already stand beside each other. Layouts: docs.prophesee.ai, "Data Encoding Formats"; the two word
orders of EVT2.1 and their names as in OpenEB (`endianness`).

A clock of few bits wraps. Decoders take a fall of the clock for a wrap, so every wrap is written as its last reading
followed by 0, and no step is longer than half the span: a pause takes at most four words for each wrap. What the
clock cannot say, the loops before the first reading, stands in the header as `% time_offset_us` (our own key).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import Events, Triggers
from spiketrack.recordings.recording import TIME_LIMIT_US
from spiketrack.recordings.writing import Writer, plain_columns

UNSET = np.iinfo(np.int64).min
BUFFER_BYTES = 1 << 19
MAX_WAITING_TRIGGERS = 1 << 20
_ROOM = (1 << 11) + 8  # words: a run of ascending x on one row, its time and its row
_VECTOR_WORDS = (
    4  # a base at a multiple of 32 and masks of 12, 12 and 8: so sensors write it, and some decoders want it
)
_MAX_PAUSE_US = 1 << 46  # 2.2 years: 34 MB of EVT3 clock; longer is a broken time, not a pause


@njit(cache=True, nogil=True)
def next_reading(clock, target, bits):
    """The next reading of an unwrapped clock of `bits` bits on its way to target; each wrap goes from all ones to 0."""
    top = clock | ((1 << bits) - 1)
    if clock == top:
        return clock + 1
    return min(target, top, clock + (1 << (bits - 1)) - 1)


@njit(cache=True, nogil=True)
def encode_evt2(events, triggers, out, place, state):
    """32-bit words, one an event. state: unwrapped TIME_HIGH (64 us).

    events: (t, x, y, p); triggers: (t, channel, value), each sorted; out: words, written from n on; place: (i, k, n),
    the next event, the next trigger and the next word. Returns the new place: the input is used up or out is full.
    A trigger goes before the events of the same time. All encoders are called alike.
    """
    t, x, y, p = events
    trigger_t, channel, value = triggers
    i, k, n = place
    high = state[0]
    while (i < len(t) or k < len(trigger_t)) and n + 2 <= len(out):
        triggered = k < len(trigger_t) and (i == len(t) or trigger_t[k] <= t[i])
        now = trigger_t[k] if triggered else t[i]
        if now >> 6 != high:
            high = now >> 6 if high == UNSET else next_reading(high, now >> 6, 28)
            out[n] = 0x8 << 28 | high & 0xFFFFFFF
        elif triggered:
            out[n] = 0xA << 28 | (now & 0x3F) << 22 | np.int64(channel[k]) << 8 | np.int64(value[k])
            k += 1
        else:
            out[n] = np.int64(p[i]) << 28 | (now & 0x3F) << 22 | np.int64(x[i]) << 11 | np.int64(y[i])
            i += 1
        n += 1
    state[0] = high
    return i, k, n


@njit(cache=True, nogil=True)
def encode_evt21(events, triggers, out, place, state):
    """64-bit words: an EVT2 word and a mask of 32 pixels from an x aligned to 32. state: TIME_HIGH, 1 for legacy order.

    Little: the EVT2 word is the upper half of the 64-bit number; legacy: it is the lower half.
    """
    t, x, y, p = events
    trigger_t, channel, value = triggers
    i, k, n = place
    high, legacy = state[0], state[1] == 1
    while (i < len(t) or k < len(trigger_t)) and n < len(out):
        triggered = k < len(trigger_t) and (i == len(t) or trigger_t[k] <= t[i])
        now = trigger_t[k] if triggered else t[i]
        mask = np.uint64(0)
        if now >> 6 != high:
            high = now >> 6 if high == UNSET else next_reading(high, now >> 6, 28)
            word = 0x8 << 28 | high & 0xFFFFFFF
        elif triggered:
            word = 0xA << 28 | (now & 0x3F) << 22 | np.int64(channel[k]) << 8 | np.int64(value[k])
            k += 1
        else:
            base, row, on = np.int64(x[i]) & ~31, y[i], p[i]
            word = np.int64(on) << 28 | (now & 0x3F) << 22 | base << 11 | np.int64(row)
            last = np.int64(-1)
            while i < len(t) and last < x[i] < base + 32 and t[i] == now and y[i] == row and p[i] == on:
                last = np.int64(x[i])
                mask |= np.uint64(1) << np.uint64(last - base)
                i += 1
        upper, lower = (mask, np.uint64(word)) if legacy else (np.uint64(word), mask)
        out[n] = upper << np.uint64(32) | lower
        n += 1
    state[0] = high
    return i, k, n


@njit(cache=True, nogil=True)
def encode_evt3(events, triggers, out, place, state):
    """16-bit words; only what changes is written. state: unwrapped TIME_HIGH (4096 us), TIME_LOW, ADDR_Y."""
    t, x, y, p = events
    trigger_t, channel, value = triggers
    i, k, n = place
    high, low, row = state[0], state[1], state[2]
    while (i < len(t) or k < len(trigger_t)) and n + _ROOM <= len(out):
        triggered = k < len(trigger_t) and (i == len(t) or trigger_t[k] <= t[i])
        now = trigger_t[k] if triggered else t[i]
        if now >> 12 != high:
            high = now >> 12 if high == UNSET else next_reading(high, now >> 12, 12)
            out[n] = 0x8000 | high & 0xFFF
            n += 1
            low = -1  # decoders differ in what a new TIME_HIGH makes of it
            continue
        if now & 0xFFF != low:
            low = now & 0xFFF
            out[n] = 0x6000 | low
            n += 1
        if triggered:
            out[n] = 0xA000 | np.int64(channel[k]) << 8 | np.int64(value[k])
            n += 1
            k += 1
            continue
        if y[i] != row:
            row = np.int64(y[i])
            out[n] = row
            n += 1
        on = np.int64(p[i]) << 11
        last = i + 1
        while last < len(t) and x[last] > x[last - 1] and y[last] == row and t[last] == now and p[last] == p[i]:
            last += 1
        while i < last:
            base = np.int64(x[i]) & ~31
            mask = np.int64(0)
            end = i
            while end < last and x[end] < base + 32:
                mask |= np.int64(1) << (x[end] - base)
                end += 1
            if end - i > _VECTOR_WORDS:
                out[n] = 0x3000 | on | base
                out[n + 1] = 0x4000 | mask & 0xFFF
                out[n + 2] = 0x4000 | (mask >> 12) & 0xFFF
                out[n + 3] = 0x5000 | (mask >> 24) & 0xFF
                n += _VECTOR_WORDS
                i = end
            else:
                out[n] = 0x2000 | on | x[i]
                n += 1
                i += 1
    state[0], state[1], state[2] = high, low, row
    return i, k, n


@njit(cache=True, nogil=True)
def encode_dat(events, triggers, out, place, state):
    """64-bit words, one an event: time in the lower half; x, y from bit 14 and polarity in bit 28 of the upper."""
    t, x, y, p = events
    i, k, n = place
    count = min(len(t) - i, len(out) - n)
    for j in range(count):
        address = np.uint64(x[i + j]) | np.uint64(y[i + j]) << np.uint64(14) | np.uint64(p[i + j]) << np.uint64(28)
        out[n + j] = address << np.uint64(32) | np.uint64(t[i + j] & 0xFFFFFFFF)
    return i + count, k, n + count


@dataclass(frozen=True)
class Coding:
    """How to encode one format. encode: see encode_evt2; header: its lines, without `% end`, of {width} and {height};
    prefix: bytes between header and words; clock_bits: of the whole time; channels: how many trigger inputs it names,
    0 where it has no place for triggers; max_pause_us: the longest time between two events; state: at the start."""

    name: str
    dtype: type[np.unsignedinteger]
    encode: Callable[..., tuple[int, int, int]]
    header: str
    clock_bits: int
    state: tuple[int, ...]
    max_side: int = 1 << 11
    channels: int = 32
    max_pause_us: int = _MAX_PAUSE_US
    prefix: bytes = b""


_GEOMETRY = "height={height};width={width}\n% geometry {width}x{height}\n"
_EVT21 = "% endianness {0}\n% evt 2.1\n% format EVT21;endianness={0};"
CODINGS = {
    coding.name: coding
    for coding in (
        Coding("evt2", np.uint32, encode_evt2, "% evt 2.0\n% format EVT2;" + _GEOMETRY, 34, (UNSET,)),
        Coding("evt2.1", np.uint64, encode_evt21, _EVT21.format("little") + _GEOMETRY, 34, (UNSET, 0)),
        Coding("evt2.1-legacy", np.uint64, encode_evt21, _EVT21.format("legacy") + _GEOMETRY, 34, (UNSET, 1)),
        Coding(
            "evt3", np.uint16, encode_evt3, "% evt 3.0\n% format EVT3;" + _GEOMETRY, 24, (UNSET, -1, -1), channels=16
        ),
        Coding(
            "dat",
            np.uint64,
            encode_dat,
            "% Data file containing CD events.\n% Version 2\n% Width {width}\n% Height {height}\n",
            32,
            (0,),
            max_side=1 << 14,
            channels=0,
            max_pause_us=(1 << 31) - 1,
            prefix=b"\x0c\x08",
        ),
    )
}


class WordWriter(Writer):
    """A recording in words; see `create_recording`."""

    def __init__(self, path: Path, width: int, height: int, coding: Coding) -> None:
        super().__init__(path, width, height, coding.max_side)
        self._coding, self._state = coding, np.array(coding.state, np.int64)
        self._words: NDArray = np.empty(BUFFER_BYTES // np.dtype(coding.dtype).itemsize, coding.dtype)
        self._n = 0  # words in the buffer
        self._waiting = Triggers.empty()

    def _encode(self, events: Events, triggers: Triggers) -> None:
        if len(triggers):
            self._wait(triggers)
        waiting = self._waiting
        due = int(np.searchsorted(waiting.t, events.t[-1], side="right")) if len(events) else 0
        due = max(due, len(waiting) - MAX_WAITING_TRIGGERS)
        self._waiting = _cut(waiting, due, len(waiting))
        self._encode_all(events, _cut(waiting, 0, due))

    def _finish(self) -> None:
        waiting, self._waiting = self._waiting, Triggers.empty()
        self._encode_all(Events.empty(self.width, self.height), waiting)
        if self._last_us is None:
            self._write(self._header(0))
        self._write(self._words[: self._n])

    def _wait(self, triggers: Triggers) -> None:
        """Check triggers and put them in order among those that wait for the events of their time."""
        channels = self._coding.channels
        if not channels:
            raise RecordingError(
                f"{self.path}: {len(triggers)} external triggers have no place in a {self._coding.name} file; "
                "write .raw or .h5, or leave them out"
            )
        if triggers.channel.max() >= channels:
            raise RecordingError(
                f"{self.path}: a trigger on channel {triggers.channel.max()}, {self._coding.name} has 0 .. "
                f"{channels - 1}; write evt2 or .h5"
            )
        first, last = int(triggers.t.min()), int(triggers.t.max())
        if first < -TIME_LIMIT_US or last > TIME_LIMIT_US:
            raise RecordingError(
                f"{self.path}: a trigger at {first if first < 0 else last} is at no time in microseconds"
            )
        if self._last_us is not None and first < self._last_us:
            raise RecordingError(f"{self.path}: a trigger at {first} us comes after events of {self._last_us} us")
        waiting = Triggers.concatenate([self._waiting, triggers])
        order = np.argsort(waiting.t, kind="stable")
        self._waiting = Triggers(waiting.t[order], waiting.channel[order], waiting.value[order])

    def _encode_all(self, events: Events, triggers: Triggers) -> None:
        if not len(events) and not len(triggers):
            return
        times = [int(t) for part in (events.t, triggers.t) if len(part) for t in (part[0], part[-1])]
        if self._last_us is None:
            self._write(self._header(min(times)))
            self._last_us = min(times)
        if max(times) - self._last_us > self._coding.max_pause_us:
            self._check_pauses(np.concatenate([[self._last_us], events.t, triggers.t]))
        columns, signals = plain_columns(events), (triggers.t, triggers.channel, triggers.value)
        i = k = 0
        while i < len(events) or k < len(triggers):
            i, k, n = self._coding.encode(columns, signals, self._words, (i, k, self._n), self._state)
            self._n = n
            if i < len(events) or k < len(triggers):
                self._write(self._words[:n])
                self._n = 0
        self._last_us = max(times)

    def _check_pauses(self, times: NDArray[np.int64]) -> None:
        times.sort()
        i = int(np.argmax(np.diff(times)))
        pause_us = int(times[i + 1]) - int(times[i])
        if pause_us > self._coding.max_pause_us:
            raise RecordingError(
                f"{self.path}: {self._coding.name} cannot hold the pause of {pause_us} us between {times[i]} us and "
                f"{times[i + 1]} us, its longest is {self._coding.max_pause_us} us; write .h5 or .csv"
            )

    def _header(self, first_us: int) -> bytes:
        coding = self._coding
        offset_us = first_us >> coding.clock_bits << coding.clock_bits
        offset = f"% time_offset_us {offset_us}\n" if offset_us else ""
        return f"{coding.header.format(width=self.width, height=self.height)}{offset}% end\n".encode() + coding.prefix


def _cut(triggers: Triggers, first: int, last: int) -> Triggers:
    return Triggers(triggers.t[first:last], triggers.channel[first:last], triggers.value[first:last])
