"""Kernels: the compiled passes over events. One plane after the other is cleared and filled while it is in cache.

x, y, p, t: the columns of the events. ranges: (K, 2) int64, the events of each plane. grid: see `Grid`. planes: (K, N),
one flat plane per row. Events are located a block at a time: the arithmetic is vectorised and its result stays in the
innermost cache, the scatter that follows is bound by memory.
"""

from __future__ import annotations

from math import factorial

import numpy as np
from numba import njit

from spiketrack.representations.grid import OUTSIDE

BLOCK = 1024
OFF_SENSOR = np.uint32(OUTSIDE)
SIGN = np.uint32(2**31)  # polarity bit of a place, above every pixel
PIXEL = np.uint32(2**31 - 1)
_u32 = np.uint32
OLDEST_TAU = 87  # exp(-87) is the last whole power of e that float32 holds without loss of digits
LN_2, MINUS = np.log(2), np.int32(-(2**31))
C0, C2, C3, C4, C5, C6, C7 = (np.float32(1 / factorial(k)) for k in (0, 2, 3, 4, 5, 6, 7))


@njit(cache=True, nogil=True)
def locate(x, y, p, grid, on, place, which):
    """place[:n] = p * on + pixel in the flat plane for the n events on the grid, which[:n] their indices; returns n.

    Where every event is on the grid, `which` is left as it comes, and must come as 0, 1, 2 ...
    """
    shift_x, shift_y = np.uint32(grid.shift_x), np.uint32(grid.shift_y)
    rows, columns, width = grid.rows, grid.columns, np.uint32(grid.width)
    n = 0
    if len(rows):
        for i in range(len(x)):
            row, column = rows[y[i]], columns[x[i]]
            place[n] = np.uint32(p[i]) * on + row + column
            which[n] = i
            n += (row != OFF_SENSOR) & (column != OFF_SENSOR)
        return n
    for i in range(len(x)):
        row, column = np.uint32(np.uint32(y[i]) >> shift_y), np.uint32(np.uint32(x[i]) >> shift_x)
        place[i] = np.uint32(np.uint32(p[i]) * on) + np.uint32(row * width) + column
    return len(x)


@njit(cache=True, nogil=True)
def count(x, y, p, ranges, grid, limit, planes):
    """Counts per polarity, OFF first, saturating at limit; planes: (K, 2 * H * W) of unsigned integers."""
    place, which = np.empty(BLOCK, np.uint32), np.arange(BLOCK).astype(np.uint32)
    on = np.uint32(grid.height * grid.width)
    for k in range(len(planes)):
        plane = planes[k]
        plane[:] = 0
        for first in range(ranges[k, 0], ranges[k, 1], BLOCK):
            last = min(first + BLOCK, ranges[k, 1])
            n = locate(x[first:last], y[first:last], p[first:last], grid, on, place, which)
            if limit == 1:
                for i in range(n):
                    plane[place[i]] = 1
            else:
                for i in range(n):
                    value = plane[place[i]]
                    plane[place[i]] = value + (value < limit)


@njit(cache=True, nogil=True)
def difference(x, y, p, ranges, grid, limit, planes):
    """ON minus OFF, clipped to -limit .. limit at the end; planes: (K, H * W) int8.

    A sum of -127 .. 127 is kept in place. A plane where any sum leaves that range is counted again in 32 bits.
    """
    place, which = np.empty(BLOCK, np.uint32), np.arange(BLOCK).astype(np.uint32)
    total = np.empty(0, np.int32)
    for k in range(len(planes)):
        plane = planes[k]
        plane[:] = 0
        left = False
        for first in range(ranges[k, 0], ranges[k, 1], BLOCK):
            last = min(first + BLOCK, ranges[k, 1])
            n = locate(x[first:last], y[first:last], p[first:last], grid, SIGN, place, which)
            for i in range(n):
                pixel = place[i] & PIXEL
                value = np.int32(plane[pixel]) + np.int32(np.int32(place[i] >> np.uint32(31)) * 2 - 1)
                plane[pixel] = value
                left |= np.uint32(value + 127) > np.uint32(254)
        if left:
            if not len(total):
                total = np.zeros(planes.shape[1], np.int32)
            difference_wide(x, y, p, ranges[k : k + 1], grid, limit, total, planes[k : k + 1])
        elif limit < 127:
            clip(plane, limit)


@njit(cache=True, nogil=True)
def difference_wide(x, y, p, ranges, grid, limit, total, planes):
    """The same through `total`, (H * W,) int32 of zeros, into planes of int8, float32, or float16 as uint16."""
    place, which = np.empty(BLOCK, np.uint32), np.arange(BLOCK).astype(np.uint32)
    for k in range(len(planes)):
        for first in range(ranges[k, 0], ranges[k, 1], BLOCK):
            last = min(first + BLOCK, ranges[k, 1])
            n = locate(x[first:last], y[first:last], p[first:last], grid, SIGN, place, which)
            for i in range(n):
                total[place[i] & PIXEL] += np.int32(place[i] >> np.uint32(31)) * 2 - 1
        clip(total, limit)
        convert(total, planes[k])
        total[:] = 0


@njit(cache=True, nogil=True)
def count_wide(x, y, p, ranges, grid, limit, total, planes):
    """Counts through `total`, (1, 2 * H * W) unsigned, into planes of float32, or float16 as uint16."""
    for k in range(len(planes)):
        count(x, y, p, ranges[k : k + 1], grid, limit, total)
        convert(total[0], planes[k])


@njit(cache=True, nogil=True)
def clip(plane, limit):
    """Clip to -limit .. limit in place."""
    high, low = plane.dtype.type(limit), plane.dtype.type(-limit)
    for i in range(len(plane)):
        plane[i] = max(low, min(high, plane[i]))


@njit(cache=True, nogil=True)
def convert(source, plane):
    """plane = source; where the plane is uint16 it gets the bits of float16, rounded to nearest even, at most 65504."""
    if plane.itemsize != 2:
        for i in range(len(plane)):
            plane[i] = source[i]
        return
    values, tiny = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    bits, tiny_bits = values.view(np.uint32), tiny.view(np.uint32)
    for first in range(0, len(plane), BLOCK):
        last = min(first + BLOCK, len(plane))
        block, result = source[first:last], plane[first:last]
        for i in range(len(result)):
            value = np.float32(block[i])
            values[i] = value
            tiny[i] = abs(value) + np.float32(0.5)  # rounds to a multiple of 2^-24, as a subnormal half does
        for i in range(len(result)):
            result[i] = _half(bits[i], tiny_bits[i])


@njit(cache=True, nogil=True)
def _half(bits, tiny_bits):
    """The bits of float16 from those of a finite float32 v and of |v| + 0.5; all in 32 bits, to be vectorised."""
    size = min(_u32(bits & _u32(0x7FFFFFFF)), _u32(0x477FE000))  # 65504
    odd = _u32(_u32(size >> _u32(13)) & _u32(1))
    normal = _u32(_u32(_u32(_u32(size - _u32(0x38000000)) + _u32(0xFFF)) + odd) >> _u32(13))
    half = normal if size >= _u32(0x38800000) else _u32(tiny_bits - _u32(0x3F000000))
    return _u32(half | _u32(_u32(bits >> _u32(16)) & _u32(0x8000)))


@njit(cache=True, nogil=True)
def interpolate(t, x, y, p, ranges, grid, start_us, per_us, first_plane, planes):
    """Signed events shared between the two nearest of the planes, (K, H * W) float32, of which planes[0] is number
    first_plane. ranges: the events between each plane and the next, for all planes; per_us: planes a microsecond.
    """
    place, which = np.empty(BLOCK, np.uint32), np.arange(BLOCK).astype(np.uint32)
    weight = np.empty(BLOCK, np.float32)
    for k in range(first_plane, first_plane + len(planes)):
        plane = planes[k - first_plane]
        plane[:] = 0
        for segment in range(max(k - 1, 0), min(k + 1, len(ranges))):
            for first in range(ranges[segment, 0], ranges[segment, 1], BLOCK):
                last = min(first + BLOCK, ranges[segment, 1])
                n = locate(x[first:last], y[first:last], p[first:last], grid, SIGN, place, which)
                times = t[first:last]
                for i in range(n):
                    share = 1 - abs((times[which[i]] - start_us) * per_us - k)
                    weight[i] = share if place[i] & SIGN else -share
                for i in range(n):
                    plane[place[i] & PIXEL] += weight[i]


@njit(cache=True, nogil=True)
def remember(t, x, y, p, first, last, grid, latest):
    """latest: (2 * H * W,) int64, the time of the last event of each pixel and polarity."""
    place, which = np.empty(BLOCK, np.uint32), np.arange(BLOCK).astype(np.uint32)
    on = np.uint32(grid.height * grid.width)
    for a in range(first, last, BLOCK):
        b = min(a + BLOCK, last)
        n = locate(x[a:b], y[a:b], p[a:b], grid, on, place, which)
        for i in range(n):
            latest[place[i]] = t[a + which[i]]


@njit(cache=True, nogil=True)
def decay(latest, end_us, tau_us, scale, half, plane):
    """plane = exp(-(end_us - latest) / tau_us) * scale + half, and 0 + half beyond OLDEST_TAU time constants.

    exp(-age / tau) = 2^n * exp(r), n whole and |r| <= ln(2) / 2, so 7 terms of the series are exact to float32.
    """
    oldest, per_us = np.int64(OLDEST_TAU * tau_us), -1 / (tau_us * LN_2)
    rest, shift = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    value = np.empty(BLOCK, np.float32)
    bits = value.view(np.int32)
    for first in range(0, len(plane), BLOCK):
        last = min(first + BLOCK, len(plane))
        times, result = latest[first:last], plane[first:last]
        for i in range(len(result)):
            age = np.int32(min(end_us - times[i], oldest))
            power = age * per_us
            whole = np.int32(power - 0.5)  # power <= 0, so this rounds to the nearest
            rest[i] = (power - whole) * LN_2
            shift[i] = np.int32(whole << 23) if age < oldest else MINUS  # a negative value becomes 0
        for i in range(len(result)):
            r = rest[i]
            series = C2 + r * (C3 + r * (C4 + r * (C5 + r * (C6 + r * C7))))
            value[i] = C0 + r * (C0 + r * series)
        for i in range(len(result)):
            bits[i] += shift[i]
        for i in range(len(result)):
            result[i] = max(value[i], np.float32(0)) * scale + half


@njit(cache=True, nogil=True)
def collect(x, y, p, ranges, grid, limit, entry, first_entry, pixel, number):
    """The touched pixels of each slice in order of their first event, and their counts, saturating at limit.

    first_entry: (K + 1,) where the entries of each slice begin. pixel, number: room for one an event.
    entry: (2 * H * W,) uint32, any content: the entry of each pixel. One that belongs to another pixel or an earlier
    slice is stale, so nothing is ever cleared (a sparse set, Briggs and Torczon 1993).
    """
    place, which = np.empty(BLOCK, np.uint32), np.arange(BLOCK).astype(np.uint32)
    on = np.uint32(grid.height * grid.width)
    entries = np.int64(0)
    for k in range(len(ranges)):
        first_entry[k] = entries
        for first in range(ranges[k, 0], ranges[k, 1], BLOCK):
            last = min(first + BLOCK, ranges[k, 1])
            n = locate(x[first:last], y[first:last], p[first:last], grid, on, place, which)
            for i in range(n):
                e = np.int64(entry[place[i]])
                if first_entry[k] <= e < entries and pixel[e] == place[i]:
                    number[e] += number[e] < limit
                else:
                    entry[place[i]] = entries
                    pixel[entries], number[entries] = place[i], 1
                    entries += 1
    first_entry[len(ranges)] = entries


@njit(cache=True, nogil=True)
def scatter(first_entry, pixel, number, planes):
    """planes[k, pixel] = number of slice k's entries."""
    for k in range(len(planes)):
        plane = planes[k]
        for i in range(first_entry[k], first_entry[k + 1]):
            plane[pixel[i]] = number[i]
