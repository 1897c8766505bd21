"""EVT3: 16-bit words of Prophesee RAW files, type in bits 12-15.

In come words, out go on-sensor events and triggers in the order of the file. A block of words is decoded by a fast
path that assumes that nothing is wrong with it, and checks; where something is, the block is decoded again by the
careful path, which counts every fault with the byte of its first. Both give the same events (tests).
Source of the layout: EVT 3.0 format, Prophesee documentation.
"""

from __future__ import annotations

import numpy as np
from numba import int64, njit, uint8, uint16, uint64

from spiketrack.recordings.clock import SUSPECT_US, unwrap
from spiketrack.recordings.lanes import lane_writer
from spiketrack.recordings.words import (
    BAD_CLOCK,
    BEFORE,
    BEFORE_ADDRESS,
    BEFORE_TIME,
    BLOCK_WORDS,
    CLOCK,
    OFF_SENSOR,
    UNKNOWN_WORD,
    WordFormat,
    count_fault,
)

RUN_WORDS = 128
MOST_EVENTS_PER_WORD = 12
SPAN = 1 << 12  # TIME_HIGH readings
UNIT_US = 1 << 12

# the state handed from block to block; -1 where a part was not yet given, -2 where it was moved on nevertheless
LOW, ROW, BASE, ON = range(2, 6)

# A packed event: time in us since the block's first TIME_HIGH (bits 24-63), a bit of no interest (23), row (12-22),
# polarity (11), column (0-10).
_ROW, _LOW, _HIGH = 12, 24, 36
_ADDRESS = np.uint64((1 << _LOW) - 1)


def _field_table() -> np.ndarray:
    """By word type: bits of the packed state it keeps, what times its lower 12 bits makes the others, if an event."""
    field = np.zeros((16, 4), np.uint64)
    field[:, 0] = ~np.uint64(0)
    for kind, place in ((0x0, _ROW), (0x6, _LOW)):
        field[kind, :2] = ~np.uint64(0xFFF << place), 1 << place
    field[0x2, 2] = 1
    return field


def _mask_tables() -> tuple[np.ndarray, np.ndarray]:
    """For each mask of 8 bits: the places of its set bits, padded with 0, and how many there are."""
    places = np.zeros((256, 8), np.uint8)
    for mask in range(256):
        set_bits = [bit for bit in range(8) if mask >> bit & 1]
        places[mask, : len(set_bits)] = set_bits
    return places, np.array([mask.bit_count() for mask in range(256)], np.uint8)


def _vector_table() -> np.ndarray:
    """By word type (3 to 5): bits of the mask, bits of the base it keeps, bits that it sets, what it adds to it."""
    vector = np.zeros((16, 4), np.uint64)
    vector[0x3] = 0, 0, 0xFFF, 0  # VECT_BASE_X
    vector[0x4] = 0xFFF, ~np.uint64(0), 0, 12  # VECT_12
    vector[0x5] = 0xFF, ~np.uint64(0), 0, 8  # VECT_8
    return vector


_FIELD, _VECTOR = _field_table(), _vector_table()
_PLAIN = np.array([kind in (0x0, 0x2, 0x6, 0x7, 0xE, 0xF) for kind in range(16)])
_NO_BASE = 0x17FF  # no vector can begin there, and none can end there
_write_8, _write_4 = lane_writer(8), lane_writer(4)
_PLACES, _COUNT = _mask_tables()


@njit(cache=True, nogil=True)
def _is_plain(quads, high_word):
    """Whether the words, four in each of quads, are only ADDR_Y, ADDR_X, TIME_LOW, the same TIME_HIGH or to skip."""
    ones = uint64(0x0001000100010001)
    low12 = uint64(0x0FFF0FFF0FFF0FFF)
    same = uint64(high_word) * ones
    other = uint64(0)
    for i in range(len(quads)):  # by index: only so does it become vector code
        quad = quads[i]
        b0, b1, b2, b3 = quad >> uint64(12), quad >> uint64(13), quad >> uint64(14), quad >> uint64(15)
        # types 0 2 6 7 8 E F
        plain = (b2 & b1) | ~(b2 | b0 | (b3 & b1))
        z = quad ^ same
        differs = ((z & low12) + low12) >> uint64(12)
        is_high = ~((z >> uint64(12)) | (z >> uint64(13)) | (z >> uint64(14)) | (z >> uint64(15)))
        other |= ~plain | (is_high & differs)
    return other & ones == 0


@njit(cache=True, nogil=True)
def _pack_word(kind, value, packed, n, state):
    """A word that is neither a vector nor new to the clock; returns n and the packed state."""
    packed[n] = state | value  # kept only if it is an event
    return n + _FIELD[kind, 2], (state & _FIELD[kind, 0]) | (value * _FIELD[kind, 1])


@njit(cache=True, nogil=True)
def _pack_plain(quads, packed, n, state):
    """The events of plain words, four in each of quads, into packed[n:], without a branch; returns n and the state."""
    v, k = uint64(0xFFF), uint64(0xF)
    for i in range(len(quads)):
        q = quads[i]
        n, state = _pack_word((q >> uint64(12)) & k, q & v, packed, n, state)
        n, state = _pack_word((q >> uint64(28)) & k, (q >> uint64(16)) & v, packed, n, state)
        n, state = _pack_word((q >> uint64(44)) & k, (q >> uint64(32)) & v, packed, n, state)
        n, state = _pack_word(q >> uint64(60), (q >> uint64(48)) & v, packed, n, state)
    return n, state


@njit(cache=True, nogil=True)
def _pack_to_odd(words, packed, n, state, high, high0):
    """Words up to the first that is not plain nor a rise of TIME_HIGH; returns n, the state, TIME_HIGH, its place."""
    first = 0
    while first < len(words):
        high_word = uint16(0x8000 | (high & 0xFFF))
        last = first
        while last < len(words) and (_PLAIN[words[last] >> uint16(12)] or words[last] == high_word):
            last += 1
        for i in range(first, last):
            w = uint64(words[i])
            n, state = _pack_word(w >> uint64(12), w & uint64(0xFFF), packed, n, state)
        first = last
        if last < len(words):
            step = (int64(words[last]) - high) & (SPAN - 1)
            if words[last] >> uint16(12) != 0x8 or step > SUSPECT_US // UNIT_US:
                break
            high += step
            state = (state & _ADDRESS) | (uint64(high - high0) << uint64(_HIGH))
            first += 1
    return n, state, high, first


@njit(cache=True, nogil=True)
def _pack_vector(kind, v, state, base, packed, n):
    """A word of a vector: 8 and 4 places are written, of which those of set bits count. Returns n, base, if well."""
    mask = v & _VECTOR[kind, 0]
    low, rest = mask & uint64(0xFF), mask >> uint64(8)
    address = state | base
    _write_8(packed, n, address, _PLACES, low)
    n += uint64(_COUNT[low])
    _write_4(packed, n, address + uint64(8), _PLACES, rest)
    n += uint64(_COUNT[rest])
    # further right a vector, be it empty, carries into the polarity
    off = uint64(base & uint64(0x7FF) > uint64(0x7FF - 12)) & uint64(kind != uint64(0x3))
    return n, (base & _VECTOR[kind, 1]) + (v & _VECTOR[kind, 2]) + _VECTOR[kind, 3], off


@njit(cache=True, nogil=True)
def _pack_steady(words, packed, n, state, base, high_word):
    """The events of words at one TIME_HIGH, without triggers; returns n, the packed state, base and if it was so."""
    odd = uint64(0)
    for i in range(len(words)):
        w = uint64(words[i])
        kind = w >> uint64(12)
        v = w & uint64(0xFFF)
        odd |= ((uint64(0x3F02) >> kind) & uint64(1)) & uint64(w != high_word)  # another TIME_HIGH, trigger, unknown
        if (kind >= uint64(0x3)) & (kind <= uint64(0x5)):
            n, base, off = _pack_vector(kind, v, state, base, packed, n)
            odd |= off
        else:
            n, state = _pack_word(kind, v, packed, n, state)
    return n, state, base, odd == 0


@njit(cache=True, nogil=True)
def _pack_any(words, packed, n, state, registers, triggers, m):
    """The events of any valid words; returns n, the packed state, the number of triggers and whether all was well.

    registers: unwrapped TIME_HIGH, that of the block's start, and the next column of vectors with their polarity in bit
    11 (_NO_BASE before the first).
    """
    high, high0, base = registers
    trigger_t, trigger_channel, trigger_value, _ = triggers
    well = True
    for i in range(len(words)):
        w = uint64(words[i])
        kind = w >> uint64(12)
        v = w & uint64(0xFFF)
        if (kind >= uint64(0x3)) & (kind <= uint64(0x5)):
            n, base, off = _pack_vector(kind, v, state, base, packed, n)
            well &= off == 0
        elif (uint64(0x3F02) >> kind) & uint64(1) == uint64(0):  # ADDR_Y, ADDR_X, TIME_LOW, and those without events
            n, state = _pack_word(kind, v, packed, n, state)
        elif kind == uint64(0x8):  # TIME_HIGH
            step = (int64(v) - high) & (SPAN - 1)
            if step > SUSPECT_US // UNIT_US:
                return n, state, m, high, base, False
            if step > 0:
                high += step
                state = (state & _ADDRESS) | (uint64(high - high0) << uint64(_HIGH))
        elif kind == uint64(0xA):  # EXT_TRIGGER
            trigger_t[m] = (high0 << 12) + int64(state >> uint64(_LOW))
            trigger_channel[m] = (v >> uint64(8)) & uint64(0xF)
            trigger_value[m] = v & uint64(1)
            m += 1
        else:
            return n, state, m, high, base, False
    return n, state, m, high, base, well


@njit(cache=True, nogil=True)
def _unpack(packed, base_us, t, x, y, p, sensor):
    """Packed events to columns; returns whether all lie on the sensor, and whether time never falls."""
    width, height = uint64(sensor[0]), uint64(sensor[1])
    off, falls = uint64(0), uint64(0)
    for i in range(len(packed)):
        event = packed[i]
        column, row = event & uint64(0x7FF), (event >> uint64(_ROW)) & uint64(0x7FF)
        off |= uint64(column >= width) | uint64(row >= height)
        t[i] = base_us + int64(event >> uint64(_LOW))
        x[i] = uint16(column)
        y[i] = uint16(row)
        p[i] = uint8((event >> uint64(11)) & uint64(1))
    for i in range(1, len(packed)):
        falls |= uint64((packed[i] >> uint64(_LOW)) < (packed[i - 1] >> uint64(_LOW)))
    return off == 0, falls == 0


@njit(cache=True, nogil=True)
def _fast(words, quads, packed, state, triggers, m):
    """Pack a block; returns the number of events, of triggers, and whether all was well. Changes state only then."""
    high0 = high = state[CLOCK]
    base = uint64(state[BASE] | (state[ON] << 11)) if 0 <= state[BASE] <= 0x7FF else uint64(_NO_BASE)
    now = (uint64(state[LOW]) << uint64(_LOW)) | (uint64(state[ROW]) << uint64(_ROW))
    n = uint64(0)
    vectors = False  # whether the last run had some; then this one will, and is not looked at first
    for first in range(0, len(words), RUN_WORDS):
        last = min(first + RUN_WORDS, len(words))
        if not vectors:
            whole = last - first == RUN_WORDS
            if whole and _is_plain(quads[first // 4 : last // 4], 0x8000 | (high & 0xFFF)):
                n, now = _pack_plain(quads[first // 4 : last // 4], packed, n, now)
                continue
            n, now, high, rest = _pack_to_odd(words[first:last], packed, n, now, high, high0)
            first += rest
        run = words[first:last]
        n_then, now_then, base_then, steady = _pack_steady(run, packed, n, now, base, uint64(0x8000 | (high & 0xFFF)))
        vectors = base_then != base
        if steady:
            n, now, base = n_then, now_then, base_then
            continue
        n, now, m, high, base, well = _pack_any(run, packed, n, now, (high, high0, base), triggers, m)
        if not well:
            return int64(n), m, False
    state[CLOCK], state[BEFORE] = high, -1
    state[LOW], state[ROW] = int64((now >> uint64(_LOW)) & uint64(0xFFF)), int64((now >> uint64(_ROW)) & uint64(0x7FF))
    if base != uint64(_NO_BASE):
        state[BASE], state[ON] = int64(base & uint64(0x7FF)), int64((base >> uint64(11)) & uint64(1))
    return int64(n), m, True


@njit(cache=True, nogil=True)
def _careful(words, columns, n, triggers, m, state, faults, sensor, byte):
    """One block, word by word, every fault counted; returns the number of events, of triggers, if time never falls."""
    t, x, y, p = columns
    trigger_t, trigger_channel, trigger_value, _ = triggers
    width, height = sensor
    high, before, low, row, base, on = state[CLOCK], state[BEFORE], state[LOW], state[ROW], state[BASE], state[ON]
    rises = True
    latest = int64(-1)
    for i in range(len(words)):
        word = int64(words[i])
        kind = word >> 12
        if kind == 0x2 or kind == 0x4 or kind == 0x5:  # ADDR_X, VECT_12, VECT_8
            first = word & 0x7FF if kind == 0x2 else base
            size = 1 if kind == 0x2 else 12 if kind == 0x4 else 8
            events = int64(1) if kind == 0x2 else word & ((1 << size) - 1)
            polarity = (word >> 11) & 1 if kind == 0x2 else on
            time = (high << 12) | low
            dropped = 0
            for bit in range(size):
                if (events >> bit) & 1:
                    if high >= 0 and 0 <= row < height and first >= 0 and first + bit < width:
                        t[n], x[n], y[n], p[n] = time, first + bit, row, polarity
                        n += 1
                        rises &= time >= latest
                        latest = time
                    else:
                        dropped += 1
            if dropped:
                kind_of_fault = BEFORE_TIME if high < 0 else BEFORE_ADDRESS if row < 0 or first < 0 else OFF_SENSOR
                count_fault(faults, kind_of_fault, dropped, byte + 2 * i)
            if kind != 0x2:
                base = base + size if base >= 0 else -2
        elif kind == 0x0:  # ADDR_Y
            row = word & 0x7FF
        elif kind == 0x6:  # TIME_LOW
            if high >= 0:
                low = word & 0xFFF
        elif kind == 0x8:  # TIME_HIGH; repeated while it stands, low is 0 after a change
            if high < 0 or word & 0xFFF != high & 0xFFF or before >= 0:
                unwrapped, before, restored = unwrap(high, before, word & 0xFFF, SPAN, UNIT_US)
                low = 0 if unwrapped != high else low
                high = unwrapped
                count_fault(faults, BAD_CLOCK, int(restored), byte + 2 * i)
        elif kind == 0x3:  # VECT_BASE_X
            base, on = word & 0x7FF, (word >> 11) & 1
        elif kind == 0xA:  # EXT_TRIGGER
            if high < 0:
                count_fault(faults, BEFORE_TIME, 1, byte + 2 * i)
            else:
                trigger_t[m], trigger_channel[m], trigger_value[m] = (high << 12) | low, (word >> 8) & 0xF, word & 1
                m += 1
        elif kind != 0x7 and kind < 0xE:  # CONTINUED_4, OTHERS, CONTINUED_12 carry no events
            count_fault(faults, UNKNOWN_WORD, 1, byte + 2 * i)
    state[CLOCK], state[BEFORE], state[LOW], state[ROW], state[BASE], state[ON] = high, before, low, row, base, on
    return n, m, rises


@njit(cache=True, nogil=True)
def decode_evt3(words, columns, triggers, state, faults, sensor, byte):
    """See WordFormat."""
    t, x, y, p = columns
    packed = triggers[3]
    quads = words[: len(words) // 4 * 4].view(np.uint64)
    n = m = used = 0
    rises = True
    while used < len(words) and n + len(packed) <= len(t) and m + BLOCK_WORDS <= len(triggers[0]):
        block = words[used : used + BLOCK_WORDS]
        done = False
        if state[CLOCK] >= 0 and state[BEFORE] < 0 and state[ROW] >= 0:
            saved = state[CLOCK], state[LOW], state[ROW], state[BASE], state[ON]
            base_us = state[CLOCK] << 12
            count, triggered, done = _fast(block, quads[used // 4 :], packed, state, triggers, m)
            if done:
                last = n + count
                on_sensor, orderly = _unpack(
                    packed[:count], base_us, t[n:last], x[n:last], y[n:last], p[n:last], sensor
                )
                if on_sensor:
                    rises &= orderly and (n == 0 or count == 0 or t[n] >= t[n - 1])
                    n, m = last, triggered
                else:
                    state[CLOCK], state[LOW], state[ROW], state[BASE], state[ON] = saved
                    done = False
        if not done:
            before_n = n
            n, m, orderly = _careful(block, columns, n, triggers, m, state, faults, sensor, byte + 2 * used)
            rises &= orderly and (before_n == 0 or n == before_n or t[before_n] >= t[before_n - 1])
        used += len(block)
    return used, n, m, rises


@njit(cache=True, nogil=True)
def rewind_evt3(words):
    """The last times and row of these words; what vectors need may be far back, and is left unknown."""
    state = np.full(6, -1, np.int64)
    high, low, row = int64(-1), int64(-1), int64(-1)
    for i in range(len(words) - 1, -1, -1):
        kind, value = int64(words[i]) >> 12, int64(words[i]) & 0xFFF
        if kind == 0x0 and row < 0:
            row = value & 0x7FF
        elif kind == 0x6 and low < 0:
            low = value
        elif kind == 0x8:
            if high >= 0 and value != high:  # the last TIME_HIGH was a change, and no TIME_LOW followed
                low = 0
                break
            high = value
            if low >= 0:
                break
    if high >= 0 and low >= 0:
        state[CLOCK], state[LOW], state[ROW] = high, low, row
    return state


EVT3 = WordFormat(
    "evt3",
    np.uint16,
    decode_evt3,
    rewind_evt3,
    (-1, -1, 0, -1, -1, -1),
    SPAN,
    UNIT_US,
    MOST_EVENTS_PER_WORD,
    1 << 11,
)
