"""EVT2 and EVT3: the word formats of Prophesee RAW files.

In come words, out go on-sensor events in the order of the file; the bit layouts are in docs of the formats
(EVT 2.0: 32-bit words, EVT 3.0: 16-bit words). A time that cannot be known yet, a row that was never given, an
address off the sensor and a word of an unknown type are counted, each with the byte of its first.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.recordings.words import BEFORE_ADDRESS, BEFORE_TIME, OFF_SENSOR, UNKNOWN_WORD, WordFormat

WRAP_BACK_US = 1 << 16  # a step back across the wrap of a clock is at most this long


@njit(cache=True, nogil=True)
def unwrap(clock, new, span, back):
    """The unwrapped clock after reading `new` (0 .. span - 1); clock is -1 before the first reading.

    A drop of more than half the span is a wrap, a smaller one a step back. A rise of nearly the whole span,
    to within `back` of it, is a step back across a wrap that has happened.
    """
    if clock < 0:
        return new
    step = new - clock % span
    if 2 * step < -span:
        step += span
    elif step > span - back and clock >= span:
        step -= span
    return clock + step


@njit(cache=True, nogil=True)
def count_fault(faults, kind, count, byte):
    if count and faults[kind, 0] == 0:
        faults[kind, 1] = byte
    faults[kind, 0] += count


@njit(cache=True, nogil=True)
def decode_evt2(words, columns, n, state, faults, sensor, byte):
    """32-bit words, type in bits 28-31. state: unwrapped TIME_HIGH (64 us), -1 before the first."""
    t, x, y, p = columns
    width, height = sensor
    high = state[0]
    i = 0
    while i < len(words) and n < len(t):
        word = np.int64(words[i])
        kind = word >> 28
        if kind <= 1:  # CD_OFF, CD_ON
            column, row = (word >> 11) & 0x7FF, word & 0x7FF
            if high < 0:
                count_fault(faults, BEFORE_TIME, 1, byte + 4 * i)
            elif column >= width or row >= height:
                count_fault(faults, OFF_SENSOR, 1, byte + 4 * i)
            else:
                t[n] = (high << 6) | ((word >> 22) & 0x3F)
                x[n] = column
                y[n] = row
                p[n] = kind
                n += 1
        elif kind == 0x8:  # TIME_HIGH
            high = unwrap(high, word & 0xFFFFFFF, 1 << 28, WRAP_BACK_US >> 6)
        elif kind != 0xA and kind != 0xE and kind != 0xF:  # EXT_TRIGGER, OTHERS, CONTINUED carry no events
            count_fault(faults, UNKNOWN_WORD, 1, byte + 4 * i)
        i += 1
    state[0] = high
    return i, n


@njit(cache=True, nogil=True)
def decode_evt3(words, columns, n, state, faults, sensor, byte):
    """16-bit words, type in bits 12-15.

    state: unwrapped TIME_HIGH (4096 us), time (us), row, base column of vectors, polarity of vectors; each -1
    before it was first given.
    """
    t, x, y, p = columns
    width, height = sensor
    high, time, row, base, on = state[0], state[1], state[2], state[3], state[4]
    ready = time >= 0 and 0 <= row < height
    i = 0
    while i < len(words) and n + 12 <= len(t):
        word = np.int64(words[i])
        kind = word >> 12
        if kind == 0x2:  # ADDR_X: one event
            column = word & 0x7FF
            if ready and column < width:
                t[n] = time
                x[n] = column
                y[n] = row
                p[n] = (word >> 11) & 1
                n += 1
            elif time < 0:
                count_fault(faults, BEFORE_TIME, 1, byte + 2 * i)
            elif row < 0:
                count_fault(faults, BEFORE_ADDRESS, 1, byte + 2 * i)
            else:
                count_fault(faults, OFF_SENSOR, 1, byte + 2 * i)
        elif kind == 0x0:  # ADDR_Y
            row = word & 0x7FF
            ready = time >= 0 and row < height
        elif kind == 0x6:  # TIME_LOW
            if high >= 0:
                time = (high << 12) | (word & 0xFFF)
        elif kind == 0x8:  # TIME_HIGH; repeated while it stands, low is 0 after a change
            if high < 0 or word & 0xFFF != high & 0xFFF:
                high = unwrap(high, word & 0xFFF, 1 << 12, WRAP_BACK_US >> 12)
                time = high << 12
                ready = 0 <= row < height
        elif kind == 0x3:  # VECT_BASE_X
            base, on = word & 0x7FF, (word >> 11) & 1
        elif kind == 0x4 or kind == 0x5:  # VECT_12, VECT_8: a mask of the events at base, base + 1, ...
            size = 12 if kind == 0x4 else 8
            outside = 0
            for bit in range(size):
                if (word >> bit) & 1:
                    if ready and base >= 0 and base + bit < width:
                        t[n] = time
                        x[n] = base + bit
                        y[n] = row
                        p[n] = on
                        n += 1
                    else:
                        outside += 1
            if outside:
                fault = BEFORE_TIME if time < 0 else BEFORE_ADDRESS if row < 0 or base < 0 else OFF_SENSOR
                count_fault(faults, fault, outside, byte + 2 * i)
            if base >= 0:
                base += size
        elif kind != 0x7 and kind != 0xA and kind != 0xE and kind != 0xF:
            # CONTINUED_4, EXT_TRIGGER, OTHERS, CONTINUED_12 carry no events
            count_fault(faults, UNKNOWN_WORD, 1, byte + 2 * i)
        i += 1
    state[0], state[1], state[2], state[3], state[4] = high, time, row, base, on
    return i, n


EVT2 = WordFormat("evt2", np.uint32, decode_evt2, (-1,), 1, 1 << 11)
EVT3 = WordFormat("evt3", np.uint16, decode_evt3, (-1, -1, -1, -1, -1), 12, 1 << 11)
