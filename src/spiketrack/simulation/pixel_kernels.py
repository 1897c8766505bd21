"""Numba kernels of the event pixel.

Station: inside `sensor`. In come a frame of intensity and the pixels' state, out go unsorted events of the interval.
Imported only where a simulation runs, so that settings stay cheap to import.

Between two frames the log intensity u runs linearly, u(t) = u0 + s t. The photoreceptor's output y follows it through
a first-order low pass with time constant tau, exactly:
    y(t) = u(t) - s tau + (y0 - u0 + s tau) exp(-t / tau)
Pixels are kept by tile, (tiles, 6, 256) float32, so that a tile is one run of memory. All pixels of a tile first pass a
loop without branches that finds the level at the end and who may have crossed a threshold; the few who may, or who
have noise or are in reset, are solved one by one in float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

TILE = 16
AREA = TILE * TILE

# The rows of a tile's state: intensity of which the log was taken last, log, output of the low pass, ...
LIGHT, LOG, OUTPUT, REFERENCE, ON, OFF = range(6)
# The columns of `pixel`, a vector of float64.
DARK, REFRACTORY, FASTEST, SLOWEST, FULL_AT, STILL = range(6)

_LEVEL_TOLERANCE = 1e-6  # log units: a crossing reached but for the rounding of float32 counts
_TIME_TOLERANCE = 0.3  # us; after a step of Newton's method this small d^2 / 2 tau is left, 0.0004 us at 1500 Hz
_SETTLED = 2e-3  # log units between a pixel and its target that are left alone once nothing changes: 1 % of a threshold

_TWO, _ONE, _HALF, _ZERO = np.float32(2), np.float32(1), np.float32(0.5), np.float32(0)
_SQRT_HALF = np.float32(0.70710678118654752440)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LOG2_E = np.float32(1.44269504088896341)
_LOG = tuple(
    np.float32(c)
    for c in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
)
_EXP = tuple(
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
_LEAST_EXPONENT = np.float32(-80)
_SERIES_BELOW = np.float32(0.03)
_SIXTH = np.float32(1 / 6)
_TINY = np.float32(1.2e-38)
_INFINITE = np.float32(np.inf)


@njit(inline="always", error_model="numpy")
def _log(v):
    """Natural logarithm of a normal positive float32 (Cephes logf: within 2 ulp), in a form that vectorises."""
    bits = np.float32(v).view(np.int32)
    exponent = np.float32((bits >> np.int32(23)) - np.int32(126))
    m = np.int32((bits & np.int32(0x007FFFFF)) | np.int32(0x3F000000)).view(np.float32)  # 0.5 .. 1
    low = m < _SQRT_HALF
    exponent = exponent - (_ONE if low else _ZERO)
    m = (m + m if low else m) - _ONE
    z = m * m
    r = _LOG[0]
    for k in range(1, 9):
        r = r * m + _LOG[k]
    r = r * m * z + exponent * _LN2_LOW - _HALF * z
    return m + r + exponent * _LN2_HIGH


@njit(inline="always", error_model="numpy")
def _exp(x):
    """Exponential of a float32 <= 0 (Cephes expf: within 2 ulp), in a form that vectorises."""
    x = _LEAST_EXPONENT if x < _LEAST_EXPONENT else x
    k = np.int32(x * _LOG2_E - _HALF)  # towards zero: the nearest, for x <= 0
    n = np.float32(k)
    x = x - n * _LN2_HIGH - n * _LN2_LOW
    r = _EXP[0]
    for j in range(1, 6):
        r = r * x + _EXP[j]
    r = r * x * x + x + _ONE
    return r * np.int32((k + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(inline="always", error_model="numpy")
def _level(t, u0, slope, y0, tau):
    """The low pass's output at t us after the frame before; tau = 0 is no low pass."""
    if tau == 0:
        return u0 + slope * t
    return u0 + slope * (t - tau) + (y0 - u0 + slope * tau) * np.exp(-t / tau)


@njit(cache=True, nogil=True, error_model="numpy")
def _solve(level, low, high, at_low, at_high, path):
    """When the output reaches a level between low and high, where it is monotonic: Newton, safeguarded by bisection.

    at_low, at_high: the output there. path: u0, slope, y0, tau.
    """
    u0, slope, y0, tau = path
    if tau == 0:
        return min(max((level - u0) / slope, low), high)
    c = y0 - u0 + slope * tau
    rising = at_high > at_low
    t = min(low + (level - at_low) / (at_high - at_low) * (high - low), high)
    for _ in range(60):
        decay = c * np.exp(-t / tau)
        error = u0 + slope * (t - tau) + decay - level
        if (error < 0) == rising:
            low = t
        else:
            high = t
        step = t - error / (slope - decay / tau)
        if not low < step < high:
            step = 0.5 * (low + high)
        if abs(step - t) < _TIME_TOLERANCE:
            return step
        t = step
    return t


@njit(cache=True, nogil=True, error_model="numpy")
def _next_crossing(start, at_start, end, at_end, reference, on, off, path, turn):
    """The first crossing in [start, end]: (time in us, polarity), polarity -1 for none.

    at_start, at_end: the output then. path: u0, slope, y0, tau. turn: when the output turns round, us, if it does.
    """
    u0, slope, _, _ = path
    least_on, least_off = on - _LEVEL_TOLERANCE, off - _LEVEL_TOLERANCE
    rise = at_start - reference
    if rise >= least_on or rise <= -least_off:
        return start, int(rise > 0)
    middle, at_middle = end, at_end
    if start < turn < end:
        middle, at_middle = turn, u0 + slope * turn
    for piece in range(2):
        low, high = (start, middle) if piece == 0 else (middle, end)
        at_low, at_high = (at_start, at_middle) if piece == 0 else (at_middle, at_end)
        rise = at_high - reference
        if rise >= least_on or rise <= -least_off:
            level = reference + (on if rise > 0 else -off)
            return _solve(level, low, high, at_low, at_high, path), int(rise > 0)
    return end, -1


@njit(cache=True, nogil=True, error_model="numpy")
def _run_pixel(path, at_dt, t0, dt, pixel, noise_t, noise_p, first, last, times, kinds, count):
    """Run one pixel through the interval, light and the noise events [first, last) together.

    path: u0, slope, y0, tau. at_dt: the output at the end. pixel: reference (NaN: in reset), free_at, ON and OFF
    threshold, refractory. Writes times and kinds from count on; returns their number, -1 where there was no room, the
    reference at the end and free_at.
    """
    u0, slope, y0, tau = path
    reference, free_at, on, off, refractory = pixel
    start, now = 0.0, y0
    if np.isnan(reference):
        start = max(free_at - t0, 0.0)
        if start >= dt:
            return count, reference, free_at
        now = reference = _level(start, u0, slope, y0, tau)
    turn = np.inf
    if tau > 0 and slope != 0 and (u0 > y0) != (u0 + slope * dt > at_dt):
        # where the output equals its input: exp(t / tau) = (y0 - u0) / (s tau) + 1
        ratio = (y0 - u0) / (slope * tau) + 1
        turn = tau * np.log(ratio) if ratio > 0 else np.inf
    while True:
        while first < last and noise_t[first] - t0 < start:
            first += 1  # the pixel was in reset
        end, at_end = dt, at_dt
        if first < last:
            end = noise_t[first] - t0
            at_end = _level(end, u0, slope, y0, tau)
        t, kind = _next_crossing(start, now, end, at_end, reference, on, off, path, turn)
        if kind >= 0:
            reference += on if kind == 1 else -off
            if t > start:
                now = reference
        elif first < last:
            t, kind = end, int(noise_p[first]) | 2
            first += 1
            now = reference = at_end
        else:
            return count, reference, free_at
        if count == len(times):
            return -1, reference, free_at
        times[count], kinds[count] = t0 + t, kind
        count += 1
        start = t
        if refractory > 0:
            start = t + refractory
            if start >= dt:
                return count, np.nan, t0 + start
            now = reference = _level(start, u0, slope, y0, tau)


@njit(inline="always")
def _gather(frame, tile, across, light):
    """Copy a tile's intensities; what lies beyond the frame is 1."""
    height, width = frame.shape
    top, left = tile // across * TILE, tile % across * TILE
    if top + TILE <= height and left + TILE <= width:
        for row in range(TILE):
            for column in range(TILE):
                light[row * TILE + column] = frame[top + row, left + column]
    else:
        light[:] = _ONE
        for row in range(min(TILE, height - top)):
            for column in range(min(TILE, width - left)):
                light[row * TILE + column] = frame[top + row, left + column]


@njit(cache=True, nogil=True, error_model="numpy")
def log_of(frame, across, dark, state):
    """Intensity and the log of it plus dark into the state of all tiles; False where a value is not fit for it."""
    dark = np.float32(dark)
    bad = 0
    for tile in range(len(state)):
        light, target = state[tile, LIGHT], state[tile, LOG]
        _gather(frame, tile, across, light)
        for i in range(AREA):
            v = light[i] + dark
            bad |= np.int32(not (light[i] >= _ZERO and v >= _TINY and v < _INFINITE))
            target[i] = _log(v)
    return bad == 0


@njit(inline="always", error_model="numpy")
def _moves(now, before, share, dark):
    """Whether any of a tile's intensities differs from that of before by more than share (log units), or is unfit."""
    moved = np.int32(0)
    for i in range(AREA):
        moved |= np.int32(not (now[i] >= _ZERO and abs(now[i] - before[i]) <= share * (before[i] + dark)))
    return moved != 0


@njit(cache=True, nogil=True, error_model="numpy")
def _advance(light, u0, y0, reference, on, off, dark, dt, fastest, slowest, u1, y1, tells):
    """The loop without branches over a tile.

    fastest, slowest: most and least of 1 / tau, per us; a pixel's is fastest times its intensity (scaled to 1 where the
    most is reached). Fills u1, y1 and tells (who must be looked at); returns (all fit, any to look at, any unsettled).
    """
    bad, any_tell, any_unsettled = np.int32(0), np.int32(0), np.int32(0)
    tolerance, settled = np.float32(_LEVEL_TOLERANCE), np.float32(_SETTLED)
    dt, least, most = np.float32(dt), np.float32(slowest * dt), np.float32(fastest[0] * dt)
    scale = np.float32(fastest[1] * dt)
    for i in range(AREA):
        v = light[i] + dark
        bad |= np.int32(not (light[i] >= _ZERO and v >= _TINY and v < _INFINITE))
        u = _log(v)
        x = v * scale
        x = most if x > most else x
        x = least if x < least else x
        e = _exp(-x)
        share = _ONE - x * (_HALF - x * _SIXTH) if x < _SERIES_BELOW else (_ONE - e) / x  # (1 - exp(-x)) / x
        y = u + (y0[i] - u0[i]) * e - (u - u0[i]) * share
        u1[i] = u
        y1[i] = y
        # where the output turns round it equals its input, u0 + s tau log(1 - (u0 - y0) / s tau); 2z / (2 + z) is
        # less than log(1 + z) and so bounds its way
        ahead, left, way = u0[i] - y0[i], u - y, u - u0[i]
        turns = (ahead > _ZERO) != (left > _ZERO)
        top, bottom = (y if y > y0[i] else y0[i]), (y if y < y0[i] else y0[i])
        peak = u0[i] - ahead * (_TWO * way) / (_TWO * way - ahead * x + _TINY)  # ahead and way differ in sign
        top = peak if turns and peak > top else top
        bottom = peak if turns and peak < bottom else bottom
        r = reference[i]
        tell = np.int32(not (top < r + on[i] - tolerance and bottom > r - off[i] + tolerance))  # NaN tells too
        tells[i] = tell
        any_tell |= tell
        any_unsettled |= np.int32(left > settled or -left > settled)
    return bad == 0, any_tell != 0, any_unsettled != 0


@njit(cache=True, nogil=True, error_model="numpy")
def _advance_at_once(light, u0, reference, on, off, dark, u1, tells):
    """`_advance` without a low pass: (all fit, any to look at)."""
    bad, any_tell = np.int32(0), np.int32(0)
    tolerance = np.float32(_LEVEL_TOLERANCE)
    for i in range(AREA):
        v = light[i] + dark
        bad |= np.int32(not (light[i] >= _ZERO and v >= _TINY and v < _INFINITE))
        u = _log(v)
        u1[i] = u
        r = reference[i]
        tell = np.int32(not (u < r + on[i] - tolerance and u > r - off[i] + tolerance))
        tells[i] = tell
        any_tell |= tell
    return bad == 0, any_tell != 0


@njit(cache=True, nogil=True, error_model="numpy")
def expose_tiles(frame, tiles, active, t0, t1, pixel, state, free_at, noise, unsettled):
    """Run the pixels of some tiles from t0 to t1 us.

    frame: (H, W) float32 intensity. tiles: (N,) tile numbers in order, row by row; active: (N,) whether the tile's
    light may change. Where it does not by more than pixel[STILL] log units since it last did, and nothing is unsettled,
    only pixels with noise are looked at; small changes add up. pixel: see DARK and the names after it; rates in 1/us,
    FASTEST 0 is no low pass. state: (tiles, 6, 256) float32, see LIGHT and the names after it; a NaN reference is a
    pixel in reset until free_at, (tiles, 256) float64 us. noise: times (float64 us), places (tile * 256 + pixel, sorted
    by place and time), polarities. unsettled: (tiles,) bool, set for the tiles that are run. Returns (times, places,
    kinds, whether all intensities were fit); a kind is the polarity, plus 2 for noise.
    """
    noise_t, noise_place, noise_p = noise
    across = -(-frame.shape[1] // TILE)
    dark, dt, refractory = np.float32(pixel[DARK]), t1 - t0, pixel[REFRACTORY]
    still = np.float32(pixel[STILL])
    limited = pixel[FASTEST] > 0
    rates = (pixel[FASTEST], pixel[FASTEST] / pixel[FULL_AT])
    light, u1, y1 = np.empty(AREA, np.float32), np.empty(AREA, np.float32), np.empty(AREA, np.float32)
    tells, look = np.empty(AREA, np.int32), np.empty(AREA + 1, np.int64)
    room = 1024
    times, places, kinds = np.empty(room, np.float64), np.empty(room, np.int32), np.empty(room, np.uint8)
    count = 0
    for n in range(len(tiles)):
        tile = tiles[n]
        u0, y0, reference = state[tile, LOG], state[tile, OUTPUT], state[tile, REFERENCE]
        on, off = state[tile, ON], state[tile, OFF]
        first = np.searchsorted(noise_place, tile * AREA)
        last = first
        while last < len(noise_place) and noise_place[last] < (tile + 1) * AREA:
            last += 1
        runs = unsettled[tile]
        if active[n] or runs:
            _gather(frame, tile, across, light)
        if active[n] and _moves(light, state[tile, LIGHT], still, dark):
            runs = True
            state[tile, LIGHT][:] = light
        if runs:
            if limited:
                fit, any_tell, waits = _advance(
                    light, u0, y0, reference, on, off, dark, dt, rates, pixel[SLOWEST], u1, y1, tells
                )
                unsettled[tile] = waits
            else:
                fit, any_tell = _advance_at_once(light, u0, reference, on, off, dark, u1, tells)
            if not fit:
                return times[:0], places[:0], kinds[:0], False
            if first == last and not any_tell:
                u0[:] = u1
                if limited:
                    y0[:] = y1
                continue
            for k in range(first, last):
                tells[noise_place[k] - tile * AREA] = 1
        looked = 0
        if runs:
            for i in range(AREA):
                look[looked] = i
                looked += tells[i]
        else:  # only those with noise
            for k in range(first, last):
                if k == first or noise_place[k] != noise_place[k - 1]:
                    look[looked] = noise_place[k] - tile * AREA
                    looked += 1
        begin = first
        for m in range(looked):
            i = look[m]
            stop = begin
            while stop < last and noise_place[stop] == tile * AREA + i:
                stop += 1
            tau = 0.0
            before, after, out = np.float64(u0[i]), np.float64(u0[i]), np.float64(u0[i])
            if runs:
                after = np.float64(u1[i])
            if limited:
                out = np.float64(y0[i])
                if runs:
                    v = np.float64(light[i] + dark)
                    tau = 1 / max(min(v * rates[1], rates[0]), pixel[SLOWEST])
                else:
                    before = after = out
            path = (before, (after - before) / dt, out, tau)
            end = np.float64(y1[i]) if runs and limited else after
            free = free_at[tile, i] if np.isnan(reference[i]) else 0.0
            own = (np.float64(reference[i]), free, np.float64(on[i]), np.float64(off[i]), refractory)
            done, held, free = _run_pixel(path, end, t0, dt, own, noise_t, noise_p, begin, stop, times, kinds, count)
            while done < 0:
                times = np.append(times, np.empty(room, np.float64))
                places, kinds = np.append(places, np.empty(room, np.int32)), np.append(kinds, np.empty(room, np.uint8))
                room *= 2
                done, held, free = _run_pixel(
                    path, end, t0, dt, own, noise_t, noise_p, begin, stop, times, kinds, count
                )
            places[count:done] = tile * AREA + i
            count = done
            reference[i] = held
            if np.isnan(held):
                free_at[tile, i] = free
            begin = stop
        if runs:
            u0[:] = u1
            if limited:
                y0[:] = y1
    return times[:count], places[:count], kinds[:count], True
