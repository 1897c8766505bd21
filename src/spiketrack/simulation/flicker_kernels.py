"""Numba kernels of lamps that flicker: a tile's light between two frames, when it cannot fire, and when it wakes.

Station: inside `pixel_kernels`. The light at a time is that of the frame plus depth * sin(2 pi t / period) times the
part of it that flickers; wave is (depth, 2 pi / period in us).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.simulation.float_kernels import ONE, TINY, ZERO, exp, log
from spiketrack.simulation.pixel_state import (
    AREA,
    DARK,
    FASTEST,
    FULL_AT,
    LAMPS,
    LIGHT,
    LOG,
    OFF,
    ON,
    OUTPUT,
    REFERENCE,
    SLOWEST,
)

_THIRD = np.float32(1 / 3)


@njit(inline="always", error_model="numpy")
def between(before, now, lamps_before, lamps, swing, share, dark, light):
    """A tile's light between two frames: each under the swing of the moment, and the log runs linearly.

    share: of the way from the frame before, 0 .. 1.
    """
    swing, share, dark = np.float32(swing), np.float32(share), np.float32(dark)
    for i in range(AREA):
        a, b = before[i] + swing * lamps_before[i] + dark, now[i] + swing * lamps[i] + dark
        a, b = (a if a > TINY else TINY), (b if b > TINY else TINY)
        low, high = (a, b) if a < b else (b, a)
        weight = ONE - share if a < b else share
        v = high * exp(weight * log(low / high)) - dark
        light[i] = v if v > ZERO else ZERO


@njit(cache=True, nogil=True, error_model="numpy")
def is_quiet(tile, pixel, wave, state):
    """Whether no pixel of a tile can fire for as long as nothing but its flicker goes on: the output swings about the
    log of the mean light by half the swing of the log intensity, damped by the low pass, and not across a threshold.

    wave: depth, 2 pi / period (us).
    """
    light, lamps, y0 = state[tile, LIGHT], state[tile, LAMPS], state[tile, OUTPUT]
    reference, on, off = state[tile, REFERENCE], state[tile, ON], state[tile, OFF]
    dark, depth = np.float32(pixel[DARK]), np.float32(wave[0])
    scale, most = np.float32(pixel[FASTEST] / pixel[FULL_AT] / wave[1]), np.float32(pixel[FASTEST] / wave[1])
    least, limited = np.float32(pixel[SLOWEST] / wave[1]), np.int32(pixel[FASTEST] > 0)
    loud = np.int32(0)
    for i in range(AREA):
        v = light[i] + dark
        r = depth * lamps[i] / v
        half = r + r * r * r * _THIRD / (ONE - r * r)  # at least atanh(r) = log((1 + r) / (1 - r)) / 2
        w = v * scale
        w = most if w > most else w
        w = least if w < least else w
        half = half * np.sqrt(w * w / (ONE + w * w)) if limited else half
        middle = log(v)
        top, bottom = middle + half, middle - half
        calm = r < ONE and top < reference[i] + on[i] and bottom > reference[i] - off[i]
        loud |= np.int32(not (calm and y0[i] <= top and y0[i] >= bottom))
    return loud == 0


@njit(cache=True, nogil=True, error_model="numpy")
def rouse(tile, t, pixel, wave, state):
    """Set log intensity and output of a tile to where its flicker has them at t us, once the low pass has settled."""
    light, lamps, u0, y0 = state[tile, LIGHT], state[tile, LAMPS], state[tile, LOG], state[tile, OUTPUT]
    dark, depth = np.float32(pixel[DARK]), np.float32(wave[0])
    sine, cosine = np.float32(np.sin(wave[1] * t)), np.float32(np.cos(wave[1] * t))
    for i in range(AREA):
        v = light[i] + dark
        u0[i] = log(v + depth * sine * lamps[i])
        y0[i] = u0[i]
        if pixel[FASTEST] > 0:
            q = np.float32(wave[1] / max(min(v * pixel[FASTEST] / pixel[FULL_AT], pixel[FASTEST]), pixel[SLOWEST]))
            # the answer of a low pass to sin(w t) is (sin(w t) - q cos(w t)) / (1 + q^2), q = w tau
            y0[i] = log(v) + depth * lamps[i] / v * (sine - q * cosine) / (ONE + q * q)
