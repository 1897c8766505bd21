"""Numba kernel of the read-out's queue; see readout.py."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def serve(t, y, height, free_at, until, row_us, per_event_us, longest_wait):
    """Read requests, sorted by time t (N,) float64 us, from rows y until the time `until`.

    Returns order (M,) of what was read, its times (M,) float64 us, the state of all (N,) uint8: 0 waits, 1 read, 2
    lost, and when the read-out is free again.
    """
    size = len(t)
    state = np.zeros(size, np.uint8)
    order, times = np.empty(size, np.int64), np.empty(size, np.float64)
    count = 0
    head, tail = np.full(height, -1), np.full(height, -1)
    behind = np.full(size, -1)
    arrived = 0
    for oldest in range(size):
        if state[oldest]:
            continue
        now = max(free_at, t[oldest])
        if now > until:
            break
        if now - t[oldest] > longest_wait:
            state[oldest] = 2
            continue
        if row_us == 0:
            state[oldest] = 1
            order[count], times[count] = oldest, now
            count += 1
            free_at = now + per_event_us
            continue
        while arrived < size and t[arrived] <= now:
            row = y[arrived]
            if head[row] < 0:
                head[row] = arrived
            else:
                behind[tail[row]] = arrived
            tail[row] = arrived
            arrived += 1
        row = y[oldest]
        i, before = head[row], count
        while i >= 0:
            if not state[i]:
                state[i] = 1
                order[count], times[count] = i, now
                count += 1
            i = behind[i]
        head[row] = -1
        free_at = now + max(row_us, (count - before) * per_event_us)
    return order[:count], times[:count], state, free_at
