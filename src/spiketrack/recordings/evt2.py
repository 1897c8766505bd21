"""EVT2 and EVT2.1: 32-bit and 64-bit words of Prophesee RAW files, type in the highest 4 bits.

In come words, out go on-sensor events and triggers in the order of the file. Blocks of EVT2 are decoded from one
reading of the clock to the next, assuming that nothing is wrong with them, and checked; where something is, or where
there are triggers, the block is decoded again word by word, with every fault counted. EVT2.1 is EVT2 in which the lower
half of a word is a mask of 32 neighbours. Source of the layouts: EVT 2.0 and EVT 2.1 formats, Prophesee documentation.
"""

from __future__ import annotations

import numpy as np
from numba import int64, njit, uint8, uint16, uint32, uint64

from spiketrack.recordings.clock import SUSPECT_US, unwrap
from spiketrack.recordings.words import (
    BAD_CLOCK,
    BEFORE,
    BEFORE_TIME,
    BLOCK_WORDS,
    CLOCK,
    OFF_SENSOR,
    UNKNOWN_WORD,
    WordFormat,
    count_fault,
)

SPAN = 1 << 28  # TIME_HIGH readings
UNIT_US = 64


@njit(cache=True, nogil=True)
def _unpack(words, base_us, t, x, y, p):
    """Words that are all events, to columns."""
    for i in range(len(words)):
        word = words[i]
        t[i] = base_us + int64((word >> uint32(22)) & uint32(0x3F))
        x[i] = uint16((word >> uint32(11)) & uint32(0x7FF))
        y[i] = uint16(word & uint32(0x7FF))
        p[i] = uint8(word >> uint32(28))


@njit(cache=True, nogil=True)
def _end_of_events(words):
    """The place of the first word that is no event."""
    first = 0
    while first + 32 <= len(words):
        piece = words[first : first + 32]
        kinds = uint32(0)
        for i in range(len(piece)):
            kinds |= piece[i]
        if kinds > uint32(0x1FFFFFFF):
            break
        first += 32
    while first < len(words) and words[first] <= uint32(0x1FFFFFFF):
        first += 1
    return first


@njit(cache=True, nogil=True)
def _fast(words, columns, n, high):
    """A block of events between readings of the clock; returns n, the clock, and whether nothing was wrong with it."""
    t, x, y, p = columns
    i = 0
    while i < len(words):
        j = i + _end_of_events(words[i:])
        if j > i:
            last = n + j - i
            _unpack(words[i:j], high << 6, t[n:last], x[n:last], y[n:last], p[n:last])
            n = last
        if j < len(words):
            kind, value = words[j] >> uint32(28), int64(words[j] & uint32(0xFFFFFFF))
            if kind == uint32(0x8):
                step = value - (high & (SPAN - 1))
                if step < 0 or step > SUSPECT_US // UNIT_US:
                    return n, high, False
                high += step
            elif kind < uint32(0xE):
                return n, high, False
        i = j + 1
    return n, high, True


@njit(cache=True, nogil=True)
def _check(t, x, y, sensor):
    """Whether all lie on the sensor, and whether time never falls."""
    width, height = uint16(sensor[0] - 1), uint16(sensor[1] - 1)
    largest_x, largest_y, falls = uint16(0), uint16(0), False
    for i in range(len(x)):
        largest_x, largest_y = max(largest_x, x[i]), max(largest_y, y[i])
    for i in range(1, len(t)):
        falls |= t[i] < t[i - 1]
    return largest_x <= width and largest_y <= height, not falls


@njit(cache=True, nogil=True)
def _careful(words, columns, n, triggers, m, state, faults, sensor, byte):
    """One block, word by word; returns the number of events, of triggers, and if time never falls."""
    t, x, y, p = columns
    trigger_t, trigger_channel, trigger_value, _ = triggers
    width, height = sensor
    high, before = state[CLOCK], state[BEFORE]
    rises, latest = True, int64(-1)
    for i in range(len(words)):
        word = int64(words[i])
        kind = word >> 28
        time = (high << 6) | ((word >> 22) & 0x3F)
        if kind <= 1:  # CD_OFF, CD_ON
            column, row = (word >> 11) & 0x7FF, word & 0x7FF
            if high < 0:
                count_fault(faults, BEFORE_TIME, 1, byte + 4 * i)
            elif column >= width or row >= height:
                count_fault(faults, OFF_SENSOR, 1, byte + 4 * i)
            else:
                t[n], x[n], y[n], p[n] = time, column, row, kind
                n += 1
                rises &= time >= latest
                latest = time
        elif kind == 0x8:  # TIME_HIGH
            high, before, restored = unwrap(high, before, word & 0xFFFFFFF, SPAN, UNIT_US)
            count_fault(faults, BAD_CLOCK, int(restored), byte + 4 * i)
        elif kind == 0xA:  # EXT_TRIGGER
            if high < 0:
                count_fault(faults, BEFORE_TIME, 1, byte + 4 * i)
            else:
                trigger_t[m], trigger_channel[m], trigger_value[m] = time, (word >> 8) & 0x1F, word & 1
                m += 1
        elif kind < 0xE:  # OTHERS, CONTINUED carry no events
            count_fault(faults, UNKNOWN_WORD, 1, byte + 4 * i)
    state[CLOCK], state[BEFORE] = high, before
    return n, m, rises


@njit(cache=True, nogil=True)
def decode_evt2(words, columns, triggers, state, faults, sensor, byte):
    """See WordFormat."""
    t, x, y, _ = columns
    n = m = used = 0
    rises = True
    while used < len(words) and n + BLOCK_WORDS <= len(t) and m + BLOCK_WORDS <= len(triggers[0]):
        block = words[used : used + BLOCK_WORDS]
        first, done = n, False
        if state[CLOCK] >= 0 and state[BEFORE] < 0:
            last, high, done = _fast(block, columns, n, state[CLOCK])
            if done:
                done, orderly = _check(t[n:last], x[n:last], y[n:last], sensor)
            if done:
                state[CLOCK], n = high, last
        if not done:
            n, m, orderly = _careful(block, columns, n, triggers, m, state, faults, sensor, byte + 4 * used)
        rises &= orderly and (first == 0 or n == first or t[first] >= t[first - 1])
        used += len(block)
    return used, n, m, rises


@njit(cache=True, nogil=True)
def rewind_evt2(words):
    """The last TIME_HIGH of these words."""
    state = np.full(2, -1, np.int64)
    for i in range(len(words) - 1, -1, -1):
        if int64(words[i]) >> 28 == 0x8:
            state[CLOCK] = int64(words[i]) & 0xFFFFFFF
            break
    return state


@njit(cache=True, nogil=True)
def _ordered(word, halves_swapped):
    """A word with its type in the highest bits."""
    return (word >> uint64(32)) | (word << uint64(32)) if halves_swapped else word


@njit(cache=True, nogil=True)
def _decode_evt21(words, columns, triggers, state, faults, sensor, byte, halves_swapped):
    """See WordFormat; halves_swapped: the 32-bit half with the type comes first in the file."""
    t, x, y, p = columns
    trigger_t, trigger_channel, trigger_value, _ = triggers
    width, height = sensor
    high, before = state[CLOCK], state[BEFORE]
    n = m = used = 0
    rises, latest = True, int64(-1)
    while used < len(words) and n + 32 <= len(t) and m < len(trigger_t):
        word = _ordered(uint64(words[used]), halves_swapped)
        kind, mask = int64(word >> uint64(60)), int64(word & uint64(0xFFFFFFFF))
        time = (high << 6) | int64((word >> uint64(54)) & uint64(0x3F))
        if kind <= 1:  # EVT_NEG, EVT_POS
            column, row = int64((word >> uint64(43)) & uint64(0x7FF)), int64((word >> uint64(32)) & uint64(0x7FF))
            dropped = 0
            for bit in range(32):
                if (mask >> bit) & 1:
                    if high >= 0 and column + bit < width and row < height:
                        t[n], x[n], y[n], p[n] = time, column + bit, row, kind
                        n += 1
                        rises &= time >= latest
                        latest = time
                    else:
                        dropped += 1
            if dropped:
                count_fault(faults, BEFORE_TIME if high < 0 else OFF_SENSOR, dropped, byte + 8 * used)
        elif kind == 0x8:  # TIME_HIGH
            reading = int64((word >> uint64(32)) & uint64(0xFFFFFFF))
            high, before, restored = unwrap(high, before, reading, SPAN, UNIT_US)
            count_fault(faults, BAD_CLOCK, int(restored), byte + 8 * used)
        elif kind == 0xA:  # EXT_TRIGGER
            if high < 0:
                count_fault(faults, BEFORE_TIME, 1, byte + 8 * used)
            else:
                trigger_t[m], trigger_channel[m] = time, (word >> uint64(40)) & uint64(0x1F)
                trigger_value[m] = (word >> uint64(32)) & uint64(1)
                m += 1
        elif kind < 0xE:  # OTHERS, CONTINUED carry no events
            count_fault(faults, UNKNOWN_WORD, 1, byte + 8 * used)
        used += 1
    state[CLOCK], state[BEFORE] = high, before
    return used, n, m, rises


@njit(cache=True, nogil=True)
def _rewind_evt21(words, halves_swapped):
    state = np.full(2, -1, np.int64)
    for i in range(len(words) - 1, -1, -1):
        word = _ordered(uint64(words[i]), halves_swapped)
        if word >> uint64(60) == uint64(0x8):
            state[CLOCK] = int64((word >> uint64(32)) & uint64(0xFFFFFFF))
            break
    return state


def decode_evt21(words, columns, triggers, state, faults, sensor, byte):
    """Words as little-endian 64-bit numbers."""
    return _decode_evt21(words, columns, triggers, state, faults, sensor, byte, False)


def decode_evt21_swapped(words, columns, triggers, state, faults, sensor, byte):
    """Words whose upper 32-bit half comes first in the file."""
    return _decode_evt21(words, columns, triggers, state, faults, sensor, byte, True)


def rewind_evt21(words):
    """The last TIME_HIGH of these words."""
    return _rewind_evt21(words, False)


def rewind_evt21_swapped(words):
    """The last TIME_HIGH of these words."""
    return _rewind_evt21(words, True)


EVT2 = WordFormat("evt2", np.uint32, decode_evt2, rewind_evt2, (-1, -1), SPAN, UNIT_US, 1, 1 << 11)
EVT21 = WordFormat("evt2.1", np.uint64, decode_evt21, rewind_evt21, (-1, -1), SPAN, UNIT_US, 32, 1 << 11)
EVT21_SWAPPED = WordFormat(
    "evt2.1", np.uint64, decode_evt21_swapped, rewind_evt21_swapped, (-1, -1), SPAN, UNIT_US, 32, 1 << 11
)
