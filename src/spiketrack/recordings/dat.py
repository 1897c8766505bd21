"""DAT, version 2: words of 8 bytes, a time of 32 bits and an address of 32 bits.

t: uint32 us, wraps after 71.6 minutes and is unwrapped; x: bits 0-13, y: bits 14-27, polarity: bit 28.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.recordings.evt import WRAP_BACK_US, count_fault, unwrap
from spiketrack.recordings.words import OFF_SENSOR, WordFormat


@njit(cache=True, nogil=True)
def decode_dat(words, columns, n, state, faults, sensor, byte):
    """64-bit words, time in the lower half. state: the unwrapped time of the last event, -1 before the first."""
    t, x, y, p = columns
    width, height = sensor
    clock = state[0]
    i = 0
    while i < len(words) and n < len(t):
        word = words[i]
        stamp, address = np.int64(word & np.uint64(0xFFFFFFFF)), np.int64(word >> np.uint64(32))
        column, row = address & 0x3FFF, (address >> 14) & 0x3FFF
        if column < width and row < height:
            clock = unwrap(clock, stamp, 1 << 32, WRAP_BACK_US)
            t[n] = clock
            x[n] = column
            y[n] = row
            p[n] = (address >> 28) & 1
            n += 1
        else:
            count_fault(faults, OFF_SENSOR, 1, byte + 8 * i)
        i += 1
    state[0] = clock
    return i, n


DAT = WordFormat("dat", np.uint64, decode_dat, (-1,), 1, 1 << 14)
