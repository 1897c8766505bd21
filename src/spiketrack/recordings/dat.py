"""DAT, versions 1 and 2: words of 8 bytes, a time of 32 bits in us and an address of 32 bits.

Version 2: x in bits 0-13, y in 14-27, polarity in 28. Version 1: x in bits 0-8, y in 9-16, polarity in 17.
A block is unpacked at once where its times lie within half the clock's span; otherwise word by word.
"""

from __future__ import annotations

import numpy as np
from numba import int64, njit, uint8, uint16, uint64

from spiketrack.recordings.clock import SUSPECT_US, unwrap
from spiketrack.recordings.words import BAD_CLOCK, BEFORE, BLOCK_WORDS, CLOCK, OFF_SENSOR, WordFormat, count_fault

SPAN = 1 << 32
V1, V2 = (9, 8), (14, 14)  # bits of x and of y


@njit(cache=True, nogil=True)
def _unpack(words, base_us, columns, sensor, bits):
    """A block to columns; returns whether all lie on the sensor and time rises, by no more than is plausible.

    base_us: what to add to the readings. Rises that are too large show as a fall or as a last time too late.
    """
    t, x, y, p = columns
    width, height = uint64(sensor[0]), uint64(sensor[1])
    x_bits, y_bits = uint64(bits[0]), uint64(bits[1])
    x_mask, y_mask = (uint64(1) << x_bits) - uint64(1), (uint64(1) << y_bits) - uint64(1)
    off, falls = uint64(0), uint64(0)
    for i in range(len(words)):
        word = words[i]
        address = word >> uint64(32)
        column, row = address & x_mask, (address >> x_bits) & y_mask
        off |= uint64(column >= width) | uint64(row >= height)
        t[i] = base_us + int64(word & uint64(0xFFFFFFFF))
        x[i] = uint16(column)
        y[i] = uint16(row)
        p[i] = uint8((address >> (x_bits + y_bits)) & uint64(1))
    for i in range(1, len(words)):
        falls |= uint64(t[i] < t[i - 1])
    return off == 0 and falls == 0


@njit(cache=True, nogil=True)
def _careful(words, columns, n, state, faults, sensor, byte, bits):
    """One block, word by word; returns the number of events and if time never falls."""
    t, x, y, p = columns
    width, height = sensor
    x_bits, y_bits = bits
    clock, before = state[CLOCK], state[BEFORE]
    rises, latest = True, int64(-1)
    for i in range(len(words)):
        word = words[i]
        stamp, address = int64(word & uint64(0xFFFFFFFF)), int64(word >> uint64(32))
        column, row = address & ((1 << x_bits) - 1), (address >> x_bits) & ((1 << y_bits) - 1)
        if column < width and row < height:
            clock, before, restored = unwrap(clock, before, stamp, SPAN, 1)
            count_fault(faults, BAD_CLOCK, int(restored), byte + 8 * i)
            t[n], x[n], y[n], p[n] = clock, column, row, (address >> (x_bits + y_bits)) & 1
            n += 1
            rises &= clock >= latest
            latest = clock
        else:
            count_fault(faults, OFF_SENSOR, 1, byte + 8 * i)
    state[CLOCK], state[BEFORE] = clock, before
    return n, rises


@njit(cache=True, nogil=True)
def _decode(words, columns, state, faults, sensor, byte, bits):
    t, x, y, p = columns
    n = used = 0
    rises = True
    while used < len(words) and n + BLOCK_WORDS <= len(t):
        block = words[used : used + BLOCK_WORDS]
        first, last, clock = n, n + len(block), state[CLOCK]
        done = False
        if clock >= 0 and state[BEFORE] < 0:
            base_us = clock - clock % SPAN
            out = (t[n:last], x[n:last], y[n:last], p[n:last])
            done = (
                _unpack(block, base_us, out, sensor, bits) and t[n] - clock >= 0 and t[last - 1] - clock <= SUSPECT_US
            )
        if done:
            state[CLOCK], n, orderly = t[last - 1], last, True
        else:
            n, orderly = _careful(block, columns, n, state, faults, sensor, byte + 8 * used, bits)
        rises &= orderly and (first == 0 or n == first or t[first] >= t[first - 1])
        used += len(block)
    return used, n, 0, rises


@njit(cache=True, nogil=True)
def rewind_dat(words):
    """The time of the last of these words."""
    state = np.full(2, -1, np.int64)
    if len(words):
        state[CLOCK] = int64(words[-1] & uint64(0xFFFFFFFF))
    return state


def decode_dat(words, columns, triggers, state, faults, sensor, byte):
    """Version 2; see WordFormat."""
    return _decode(words, columns, state, faults, sensor, byte, V2)


def decode_dat1(words, columns, triggers, state, faults, sensor, byte):
    """Version 1; see WordFormat."""
    return _decode(words, columns, state, faults, sensor, byte, V1)


DAT = WordFormat("dat", np.uint64, decode_dat, rewind_dat, (-1, -1), SPAN, 1, 1, 1 << 14)
DAT1 = WordFormat("dat1", np.uint64, decode_dat1, rewind_dat, (-1, -1), SPAN, 1, 1, 1 << 9)
