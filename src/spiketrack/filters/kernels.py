"""Kernels of the filters: each decides for every event of a run whether it stays, and carries its tables on.

Every kernel fills `keep` (N,) bool and returns how many stay. Tables are flat, pixel (x, y) of a sensor W wide lies at
y * W + x; indices are unsigned, which spares the test for negative ones, and decisions are values rather than
branches, which random events would mispredict. `NEVER` stands in a table of times where nothing was seen yet.
"""

from __future__ import annotations

import numpy as np
from numba import njit

NEVER = np.iinfo(np.int64).min


@njit(cache=True, nogil=True)
def take(t, x, y, p, keep, to_t, to_x, to_y, to_p):
    """Copy the kept events; the target has one more place, where events that go are written and overwritten."""
    at = np.uint64(0)
    for i in range(len(t)):
        to_t[at], to_x[at], to_y[at], to_p[at] = t[i], x[i], y[i], p[i]
        at += np.uint64(keep[i])


@njit(cache=True, nogil=True)
def look_up(x, y, table, width, keep):
    """Events on pixels where the table, (H * W,) bool, is true."""
    count = 0
    for i in range(len(x)):
        keep[i] = table[np.uint64(y[i]) * np.uint64(width) + np.uint64(x[i])]
        count += keep[i]
    return count


@njit(cache=True, nogil=True)
def look_up_and_count(x, y, table, width, counts, keep):
    """As `look_up`; counts (H * W,) uint32 counts every event, kept or not."""
    count = 0
    for i in range(len(x)):
        pixel = np.uint64(y[i]) * np.uint64(width) + np.uint64(x[i])
        counts[pixel] += np.uint32(1)
        keep[i] = table[pixel]
        count += keep[i]
    return count


@njit(cache=True, nogil=True)
def has_polarity(p, wanted, keep):
    """Events of one polarity."""
    count = 0
    for i in range(len(p)):
        keep[i] = p[i] == wanted
        count += keep[i]
    return count


@njit(cache=True, nogil=True)
def rested(t, x, y, p, last, width, layer, refractory_us, keep):
    """Events at least refractory_us after the last one kept; last: times of those, layer apart for each polarity."""
    count = 0
    for i in range(len(t)):
        pixel = np.uint64(p[i]) * np.uint64(layer) + np.uint64(y[i]) * np.uint64(width) + np.uint64(x[i])
        before = last[pixel]
        keeps = before <= t[i] - refractory_us
        last[pixel] = t[i] if keeps else before
        keep[i] = keeps
        count += keeps
    return count


@njit(cache=True, nogil=True)
def near_one(t, x, y, latest, stride, radius, dt_us, keep):
    """Events with another pixel's event less than dt_us ago nearby.

    latest: per pixel, the latest time of any neighbour, with a border of `radius` pixels on each side, rows `stride`
    long: an event looks at its own place and writes its time to the places of its neighbours.
    """
    count = 0
    side, row = np.uint64(2 * radius + 1), np.uint64(stride)
    for i in range(len(t)):
        corner = np.uint64(y[i]) * row + np.uint64(x[i])
        centre = corner + np.uint64(radius) * row + np.uint64(radius)
        own = latest[centre]
        for _ in range(side):
            for dx in range(side):
                latest[corner + dx] = t[i]
            corner += row
        latest[centre] = own
        keep[i] = own > t[i] - dt_us
        count += keep[i]
    return count


@njit(cache=True, nogil=True)
def near_one_in_3x3(t, x, y, latest, stride, dt_us, keep):
    """`near_one` of radius 1, unrolled."""
    count = 0
    row, one, two = np.uint64(stride), np.uint64(1), np.uint64(2)
    for i in range(len(t)):
        now = t[i]
        above = np.uint64(y[i]) * row + np.uint64(x[i])
        middle = above + row
        below = middle + row
        keep[i] = latest[middle + one] > now - dt_us
        latest[above], latest[above + one], latest[above + two] = now, now, now
        latest[middle], latest[middle + two] = now, now
        latest[below], latest[below + one], latest[below + two] = now, now, now
        count += keep[i]
    return count


@njit(cache=True, nogil=True)
def near_several(t, x, y, last, stride, radius, dt_us, needed, keep):
    """Events with at least `needed` other pixels nearby that fired less than dt_us ago.

    last: the time of the last event of each pixel, bordered as in `near_one`.
    """
    count = 0
    side, row = np.uint64(2 * radius + 1), np.uint64(stride)
    for i in range(len(t)):
        since = t[i] - dt_us
        corner = np.uint64(y[i]) * row + np.uint64(x[i])
        centre = corner + np.uint64(radius) * row + np.uint64(radius)
        found = -np.int64(last[centre] > since)
        for _ in range(side):
            for dx in range(side):
                found += last[corner + dx] > since
            corner += row
        last[centre] = t[i]
        keep[i] = found >= needed
        count += keep[i]
    return count


@njit(cache=True, nogil=True)
def steady(t, x, y, p, width, table, shortest_us, longest_us, needed, keep):
    """Events of pixels that do not turn from OFF to ON periodically.

    table: (H * W, 4) int64: the time of the pixel's last rise (OFF, then ON), the interval before it, the number of
    like intervals in a row, and the polarity of its last event. A rise less than shortest_us after the last is part
    of the same flash.
    """
    count = 0
    for i in range(len(t)):
        pixel = np.uint64(y[i]) * np.uint64(width) + np.uint64(x[i])
        if p[i] == 1 and table[pixel, 3] == 0:
            known = table[pixel, 0] != NEVER
            interval = t[i] - table[pixel, 0] if known else longest_us + 1
            if interval >= shortest_us:
                if interval > longest_us:
                    table[pixel, 2] = 0
                elif abs(interval - table[pixel, 1]) * 4 <= table[pixel, 1]:
                    table[pixel, 2] = min(table[pixel, 2] + 1, needed)
                else:
                    table[pixel, 2] = 1
                table[pixel, 0], table[pixel, 1] = t[i], interval
        table[pixel, 3] = p[i]
        keep[i] = table[pixel, 2] < needed or t[i] - table[pixel, 0] > longest_us
        count += keep[i]
    return count


@njit(cache=True, nogil=True)
def within_rate(t, state, period_us, budget, evenly, keep):
    """Events within the budget of each period.

    state: (5,) int64: the end of the present period, its events so far, those kept, the events of the period before,
    and what has been saved up for the next event to keep.
    """
    end, seen, kept, before, saved = state[0], state[1], state[2], state[3], state[4]
    count = 0
    for i in range(len(t)):
        if t[i] >= end:
            start = t[i] // period_us * period_us
            before = seen if start == end else 0
            end, seen, kept, saved = start + period_us, 0, 0, 0
        seen += 1
        keeps = kept < budget
        if evenly and before > budget:
            # of `before` events, `budget` come through: every k-th, k = before / budget
            saved += budget
            due = saved >= before
            saved -= before * due
            keeps = keeps and due
        kept += keeps
        keep[i] = keeps
        count += keeps
    state[0], state[1], state[2], state[3], state[4] = end, seen, kept, before, saved
    return count


@njit(cache=True, nogil=True)
def stand_out(counts, candidates, factor, radius, rivals, hot):
    """Candidates of which at most `rivals` neighbours have 1 / factor of their events, or more.

    counts: (H, W) uint32; candidates: (N,) indices into the flattened counts; hot: (H, W) bool, set true there.
    """
    height, width = counts.shape
    for pixel in candidates:
        y, x = pixel // width, pixel % width
        busy = -1  # the pixel itself
        for near_y in range(max(y - radius, 0), min(y + radius + 1, height)):
            for near_x in range(max(x - radius, 0), min(x + radius + 1, width)):
                busy += factor * counts[near_y, near_x] >= counts[y, x]
        hot[y, x] = busy <= rivals
