"""ECF, the codec of Prophesee's HDF5 files (HDF5 filter 0x8ECF): one stored chunk becomes columns, and back.

In come the bytes of one chunk as `read_direct_chunk` gives them, out go its events; no HDF5 plugin takes part.
The format is that of github.com/prophesee-ai/hdf5_ecf. A chunk, little-endian throughout:

    u32 count << 2 | layout, then u64 t of the first event, then the times, then by the layout
        2 : y, x and p packed          1 : rows, then x and p packed      0 : rows, then columns, then polarities
    times       u8  step << 4 | n      step < 15: t += step, then n events at t; n = 15: the number is the next u16
                                       step = 15: n is the next 4 bits of a step, lowest first; the next byte that is
                                       no such byte ends it (16 of them reach every 64-bit step, backward ones too)
    rows        u16 y << 5 | n         n events in row y; n = 31: the number is the next u16
    columns     u16 x << 5 | mask      one event at x and one for each bit of the mask, at x + 1 (the highest) .. x + 5
    polarities  u8  p << 7 | n         n events; n = 127: the number is the next u16
    x and p     3 u16 hold 4 x 12 bits, x << 1 | p, highest first
    y, x and p  3 u32 hold 4 x 24 bits, y << 12 | x << 1 | p, highest first

x and y have 11 bits. A last group of 4, or a last mask, may say more than count events: the surplus means nothing.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

ECF_FILTER = 0x8ECF
HEAD_BYTES = 12
ROWS_COLUMNS_POLARITIES, ROWS_PACKED, PACKED = 0, 1, 2
_STREAMS = ("times", "rows", "columns", "polarities", "packed events")
_TIMES, _ROWS, _COLUMNS, _POLARITIES, _PACKS = range(-1, -1 - len(_STREAMS), -1)


def ecf_count(chunk: NDArray[np.uint8]) -> int:
    """The number of events that a chunk says it holds; -1 where it is too short to say."""
    if len(chunk) < HEAD_BYTES:
        return -1
    return int.from_bytes(chunk[:4].tobytes(), "little") >> 2


def decode_ecf(
    chunk: NDArray[np.uint8],
    t: NDArray[np.int64],
    x: NDArray[np.uint16],
    y: NDArray[np.uint16],
    p: NDArray[np.uint8],
) -> bool:
    """Decode the events of one chunk into t, x, y and p, each as long as the chunk's own count of events.

    Returns whether t never falls. Raises ValueError saying what is wrong with the chunk; the columns then hold nothing
    of use. Reads nothing beyond the chunk and writes nothing beyond the columns, whatever the bytes say, in time that
    their lengths bound.
    """
    count = ecf_count(chunk)
    if count < 0:
        raise ValueError(f"it has only {len(chunk)} bytes")
    if {len(t), len(x), len(y), len(p)} != {count}:
        raise ValueError(f"its header says {count} events, not {len(t)}")
    bytes_only = chunk.view()
    bytes_only.flags.writeable = False
    status, rises = _decode(bytes_only, t, x, y, p)
    if status < 0:
        raise ValueError(f"its {_STREAMS[-1 - status]} are cut short or do not add up to {count} events")
    return rises


@njit(cache=True, nogil=True, inline="always")
def _u16(chunk, k):
    return np.int64(chunk[k]) | np.int64(chunk[k + 1]) << 8


@njit(cache=True, nogil=True, inline="always")
def _u32(chunk, k):
    return _u16(chunk, k) | _u16(chunk, k + 2) << 16


@njit(cache=True, nogil=True)
def _decode(chunk, t, x, y, p):
    """Returns the bytes used, or which stream failed, and whether t never falls."""
    layout = chunk[0] & 3
    k, rises = _decode_times(chunk, t)
    if k < 0:
        return k, rises
    if layout >= PACKED:
        return _decode_packed(chunk, k, y, x, p), rises
    k = _decode_rows(chunk, k, y)
    if k < 0:
        return k, rises
    if layout == ROWS_PACKED:
        return _decode_half_packed(chunk, k, x, p), rises
    k = _decode_columns(chunk, k, x)
    if k < 0:
        return k, rises
    return _decode_polarities(chunk, k, p), rises


@njit(cache=True, nogil=True)
def _decode_times(chunk, t):
    n, end = len(t), len(chunk)
    now = _u32(chunk, 4) | _u32(chunk, 8) << 32
    k, i, rises = HEAD_BYTES, 0, True
    step, shift = np.int64(0), 0
    while i < n:
        if k >= end:
            return _TIMES, rises
        head = np.int64(chunk[k])
        k += 1
        if head >= 0xF0:
            if shift > 60:
                return _TIMES, rises
            step |= (head & 15) << shift
            shift += 4
            continue
        before = now
        now += step + (head >> 4)
        rises &= now >= before
        step, shift = np.int64(0), 0
        run = head & 15
        if run <= 8 and i + 8 <= n:
            for j in range(8):  # most runs are short: 8 stores without a branch, the next run overwrites the surplus
                t[i + j] = now
            i += run
            continue
        if run == 15:
            if k + 2 > end:
                return _TIMES, rises
            run = _u16(chunk, k)
            k += 2
        if run > n - i:
            return _TIMES, rises
        for j in range(i, i + run):
            t[j] = now
        i += run
    return k, rises


@njit(cache=True, nogil=True)
def _decode_rows(chunk, k, y):
    n, end, i = len(y), len(chunk), 0
    while i < n:
        if k + 2 > end:
            return _ROWS
        head = _u16(chunk, k)
        k += 2
        row, run = head >> 5, head & 31
        if run <= 8 and i + 8 <= n:
            for j in range(8):
                y[i + j] = row
            i += run
            continue
        if run == 31:
            if k + 2 > end:
                return _ROWS
            run = _u16(chunk, k)
            k += 2
        if run > n - i:
            return _ROWS
        for j in range(i, i + run):
            y[j] = row
        i += run
    return k


_MASK_OFFSETS = np.zeros((32, 8), np.uint16)
for _mask in range(32):
    _set = [0, *(place for place in range(1, 6) if _mask >> (5 - place) & 1)]
    _MASK_OFFSETS[_mask, : len(_set)] = _set
    _MASK_OFFSETS[_mask, 7] = len(_set)


@njit(cache=True, nogil=True)
def _decode_columns(chunk, k, x):
    n, end, i = len(x), len(chunk), 0
    while i < n:
        if k + 2 > end:
            return _COLUMNS
        head = _u16(chunk, k)
        k += 2
        column, mask = head >> 5, head & 31
        count = np.int64(_MASK_OFFSETS[mask, 7])
        if i + 6 <= n:
            for j in range(6):
                x[i + j] = column + _MASK_OFFSETS[mask, j]
        else:
            for j in range(min(count, n - i)):
                x[i + j] = column + _MASK_OFFSETS[mask, j]
        i += count
    return k


@njit(cache=True, nogil=True)
def _decode_polarities(chunk, k, p):
    n, end, i = len(p), len(chunk), 0
    while i < n:
        if k >= end:
            return _POLARITIES
        head = np.int64(chunk[k])
        k += 1
        polarity, run = head >> 7, head & 127
        if run <= 8 and i + 8 <= n:
            for j in range(8):
                p[i + j] = polarity
            i += run
            continue
        if run == 127:
            if k + 2 > end:
                return _POLARITIES
            run = _u16(chunk, k)
            k += 2
        if run > n - i:
            return _POLARITIES
        for j in range(i, i + run):
            p[j] = polarity
        i += run
    return k


@njit(cache=True, nogil=True)
def _decode_half_packed(chunk, k, x, p):
    n = len(x)
    if (len(chunk) - k) // 6 < (n + 3) // 4:
        return _PACKS
    for i in range(0, n - 3, 4):
        a, b, c = _u16(chunk, k), _u16(chunk, k + 2), _u16(chunk, k + 4)
        k += 6
        v0, v1, v2, v3 = a >> 4, (a & 0xF) | (b >> 8) << 4, (b & 0xFF) | (c >> 12) << 8, c & 0xFFF
        x[i], x[i + 1], x[i + 2], x[i + 3] = v0 >> 1, v1 >> 1, v2 >> 1, v3 >> 1
        p[i], p[i + 1], p[i + 2], p[i + 3] = v0 & 1, v1 & 1, v2 & 1, v3 & 1
    if n % 4:
        a, b, c = _u16(chunk, k), _u16(chunk, k + 2), _u16(chunk, k + 4)
        k += 6
        last = (a >> 4, (a & 0xF) | (b >> 8) << 4, (b & 0xFF) | (c >> 12) << 8)
        for j in range(n % 4):
            x[n - n % 4 + j], p[n - n % 4 + j] = last[j] >> 1, last[j] & 1
    return k


@njit(cache=True, nogil=True)
def _decode_packed(chunk, k, y, x, p):
    n = len(x)
    if (len(chunk) - k) // 12 < (n + 3) // 4:
        return _PACKS
    for i in range(0, n - 3, 4):
        a, b, c = _u32(chunk, k), _u32(chunk, k + 4), _u32(chunk, k + 8)
        k += 12
        v = (a >> 8, (a & 0xFF) | (b >> 16) << 8, (b & 0xFFFF) | (c >> 24) << 16, c & 0xFFFFFF)
        y[i], y[i + 1], y[i + 2], y[i + 3] = v[0] >> 12 & 2047, v[1] >> 12 & 2047, v[2] >> 12 & 2047, v[3] >> 12 & 2047
        x[i], x[i + 1], x[i + 2], x[i + 3] = v[0] >> 1 & 2047, v[1] >> 1 & 2047, v[2] >> 1 & 2047, v[3] >> 1 & 2047
        p[i], p[i + 1], p[i + 2], p[i + 3] = v[0] & 1, v[1] & 1, v[2] & 1, v[3] & 1
    if n % 4:
        a, b, c = _u32(chunk, k), _u32(chunk, k + 4), _u32(chunk, k + 8)
        k += 12
        last = (a >> 8, (a & 0xFF) | (b >> 16) << 8, (b & 0xFFFF) | (c >> 24) << 16)
        for j in range(n % 4):
            i = n - n % 4 + j
            y[i], x[i], p[i] = last[j] >> 12 & 2047, last[j] >> 1 & 2047, last[j] & 1
    return k
