"""Numba kernels that find when the output of one pixel crosses a threshold.

Station: inside `pixel_kernels`, for the few pixels that may fire. Between two frames the log intensity u runs linearly,
u(t) = u0 + s t, and the photoreceptor's output y follows it through a first-order low pass with time constant tau:
    y(t) = u(t) - s tau + (y0 - u0 + s tau) exp(-t / tau)
Solved in float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LEVEL_TOLERANCE = 1e-6  # log units: a crossing reached but for the rounding of float32 counts
_TIME_TOLERANCE = 0.3  # us; after a step of Newton's method this small d^2 / 2 tau is left, 0.0004 us at 1500 Hz


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
    least_on, least_off = on - LEVEL_TOLERANCE, off - LEVEL_TOLERANCE
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
def run_pixel(path, at_dt, t0, dt, pixel, noise_t, noise_p, first, last, times, kinds, count):
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
