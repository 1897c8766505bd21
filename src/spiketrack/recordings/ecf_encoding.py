"""Writing ECF: columns become the bytes of one stored chunk; the format is in `ecf`."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spiketrack.recordings.ecf import HEAD_BYTES, PACKED, ROWS_COLUMNS_POLARITIES, ROWS_PACKED

MAX_EVENTS = 65_535
MAX_SIDE = 2_048


def encode_ecf(
    t: NDArray[np.int64],
    x: NDArray[np.uint16],
    y: NDArray[np.uint16],
    p: NDArray[np.uint8],
    layout: int | None = None,
) -> NDArray[np.uint8]:
    """The bytes of one chunk of 1 to MAX_EVENTS events; layout as in the format, None for the shortest.

    Raises ValueError where there are more or no events, or a pixel at MAX_SIDE or beyond.
    """
    if not 0 < len(t) <= MAX_EVENTS:
        raise ValueError(f"ECF: a chunk holds 1 .. {MAX_EVENTS} events, got {len(t)}")
    if max(int(x.max()), int(y.max())) >= MAX_SIDE:
        raise ValueError(f"ECF: x and y have 11 bits, got an event at ({x.max()}, {y.max()})")
    t, x, y, p = _plain(t), _plain(x), _plain(y), _plain(p)
    # 17 bytes are the longest step and its run; 4 for rows, 2 + 1 for columns and polarities; 12 for 4 packed
    chunk = np.zeros(HEAD_BYTES + 24 * len(t) + 12, np.uint8)
    k = _encode_times(chunk, t)
    if layout is None:
        group = (len(t) + 3) // 4
        rows = _encode_runs(chunk, k, y, 5) - k
        columns = _encode_columns(chunk, k, x) + _encode_polarities(chunk, k, p) - 2 * k
        sizes = {ROWS_COLUMNS_POLARITIES: rows + columns, ROWS_PACKED: rows + 6 * group, PACKED: 12 * group}
        layout = min(sizes, key=lambda name: sizes[name])
    if layout == PACKED:
        k = _encode_packed(chunk, k, y, x, p)
    else:
        k = _encode_runs(chunk, k, y, 5)
        if layout == ROWS_PACKED:
            k = _encode_half_packed(chunk, k, x, p)
        else:
            k = _encode_polarities(chunk, _encode_columns(chunk, k, x), p)
    chunk[:4] = np.array([len(t) << 2 | layout], "<u4").view(np.uint8)
    return chunk[:k]


def _plain(column: NDArray) -> NDArray:
    """A contiguous read-only view or copy: one type for the compiled encoder, whoever made the column."""
    column = np.ascontiguousarray(column).view()
    column.flags.writeable = False
    return column


@njit(cache=True, nogil=True)
def _encode_times(chunk, t):
    for byte in range(8):
        chunk[4 + byte] = t[0] >> (8 * byte) & 255
    now, k, i = t[0], HEAD_BYTES, 0
    while i < len(t):
        step = t[i] - now
        now = t[i]
        if step < 0 or step >= 15:
            rest = np.uint64(step)
            while rest:
                chunk[k] = np.uint64(0xF0) | rest & np.uint64(15)
                rest >>= np.uint64(4)
                k += 1
            step = 0
        run = 1
        while i + run < len(t) and t[i + run] == now:
            run += 1
        k = _encode_run(chunk, k, step, run, 4, 1)
        i += run
    return k


@njit(cache=True, nogil=True)
def _encode_run(chunk, k, value, run, bits, size):
    """value << bits | run in `size` bytes; a run that fills the bits follows as u16."""
    full = (1 << bits) - 1
    head = np.int64(value) << bits | min(run, full)
    for byte in range(size):
        chunk[k + byte] = head >> (8 * byte) & 255
    k += size
    if run >= full:
        chunk[k], chunk[k + 1] = run & 255, run >> 8
        k += 2
    return k


@njit(cache=True, nogil=True)
def _encode_runs(chunk, k, values, bits):
    """Rows (5 bits of run in 2 bytes) or polarities (7 bits in 1 byte)."""
    i = 0
    while i < len(values):
        run = 1
        while i + run < len(values) and values[i + run] == values[i]:
            run += 1
        k = _encode_run(chunk, k, values[i], run, bits, 2 if bits == 5 else 1)
        i += run
    return k


@njit(cache=True, nogil=True)
def _encode_columns(chunk, k, x):
    i = 0
    while i < len(x):
        first, last, mask = np.int64(x[i]), np.int64(x[i]), 0
        i += 1
        while i < len(x) and last < x[i] <= first + 5:
            last = np.int64(x[i])
            mask |= 1 << (5 - (last - first))
            i += 1
        head = first << 5 | mask
        chunk[k], chunk[k + 1] = head & 255, head >> 8
        k += 2
    return k


@njit(cache=True, nogil=True)
def _encode_polarities(chunk, k, p):
    return _encode_runs(chunk, k, p, 7)


@njit(cache=True, nogil=True)
def _encode_half_packed(chunk, k, x, p):
    v = np.zeros(4, np.int64)
    for i in range(0, len(x), 4):
        for j in range(4):
            v[j] = np.int64(x[i + j]) << 1 | p[i + j] if i + j < len(x) else 0
        words = (v[0] << 4 | v[1] & 15, (v[1] >> 4) << 8 | v[2] & 255, (v[2] >> 8) << 12 | v[3])
        for word in words:
            chunk[k], chunk[k + 1] = word & 255, word >> 8
            k += 2
    return k


@njit(cache=True, nogil=True)
def _encode_packed(chunk, k, y, x, p):
    v = np.zeros(4, np.int64)
    for i in range(0, len(x), 4):
        for j in range(4):
            v[j] = np.int64(y[i + j]) << 12 | np.int64(x[i + j]) << 1 | p[i + j] if i + j < len(x) else 0
        words = (v[0] << 8 | v[1] & 255, (v[1] >> 8) << 16 | v[2] & 0xFFFF, (v[2] >> 16) << 24 | v[3])
        for word in words:
            for byte in range(4):
                chunk[k + byte] = word >> (8 * byte) & 255
            k += 4
    return k
