"""Numba kernels of the simulator: the event pixel, and the rendering of shapes.

Imported only where a simulation runs, so that settings stay cheap to import.
"""

from __future__ import annotations

import numpy as np
from numba import njit

DISC, SQUARE, TRIANGLE = range(3)

# Columns of a shape's row, (S, 10) float64, far to near; see scene.py.
KIND, X, Y, COS, SIN, HALF, LUMINANCE, TEXTURE, WAVE, OFFSET = range(10)

_LEVEL_TOLERANCE = 1e-9  # log units: a crossing reached but for rounding counts


@njit(cache=True, nogil=True)
def expose_region(log_now, t0_us, t1_us, region, log_before, reference, free_at, on, off, refractory_us):
    """Run every pixel of a region from t0_us to t1_us, log intensity linear in time from log_before to log_now.

    region: left, top, right, bottom. log_before, reference, free_at: (H, W) float64 state, updated in place; a NaN
    reference means that the pixel is held in reset until free_at. Returns times (float64 us), x, y, p, unsorted.
    """
    left, top, right, bottom = region
    capacity = 256
    t = np.empty(capacity, np.float64)
    x, y = np.empty(capacity, np.uint16), np.empty(capacity, np.uint16)
    p = np.empty(capacity, np.uint8)
    count = 0
    for row in range(top, bottom):
        for column in range(left, right):
            before, now = log_before[row, column], log_now[row, column]
            if before == now:
                continue
            if not np.isfinite(now):
                raise ValueError("sensor: log intensity is not finite; add the dark intensity before the log")
            log_before[row, column] = now
            slope = (now - before) / (t1_us - t0_us)  # log units / us
            ref = reference[row, column]
            if np.isnan(ref):
                free = free_at[row, column]
                if free >= t1_us:
                    continue
                ref = before + slope * max(free - t0_us, 0.0)
            while True:
                level = ref + on[row, column] if slope > 0 else ref - off[row, column]
                if (level - now) * slope > _LEVEL_TOLERANCE * abs(slope):
                    break
                crossing = min(max(t0_us + (level - before) / slope, t0_us), t1_us)
                if count == capacity:
                    capacity *= 2
                    t = np.append(t, np.empty(count, np.float64))
                    x, y = np.append(x, np.empty(count, np.uint16)), np.append(y, np.empty(count, np.uint16))
                    p = np.append(p, np.empty(count, np.uint8))
                t[count], x[count], y[count], p[count] = crossing, column, row, slope > 0
                count += 1
                ref = level
                if refractory_us > 0:
                    free = crossing + refractory_us
                    if free >= t1_us:
                        ref = np.nan
                        free_at[row, column] = free
                        break
                    ref = before + slope * (free - t0_us)
            reference[row, column] = ref
    return t[:count], x[:count], y[:count], p[:count]


@njit(cache=True, nogil=True)
def _distance(shape, x, y):
    """Signed distance in pixels from (x, y) to the outline, negative inside."""
    u = shape[COS] * (x - shape[X]) + shape[SIN] * (y - shape[Y])
    v = shape[COS] * (y - shape[Y]) - shape[SIN] * (x - shape[X])
    half = shape[HALF]
    if shape[KIND] == DISC:
        return np.sqrt(u * u + v * v) - half
    if shape[KIND] == SQUARE:
        return max(abs(u), abs(v)) - half
    # equilateral, corners on the circle of radius half, one of them at (0, -half)
    return max(v, -0.5 * v + np.sqrt(0.75) * abs(u)) - 0.5 * half


@njit(cache=True, nogil=True)
def render_region(background, shapes, region, log_frame):
    """Draw shapes over the background into a region of log_frame, (H, W) float64 natural log of intensity.

    background: (H, W) float64 intensity. Edges are blended over one pixel by the covered share of the pixel.
    """
    left, top, right, bottom = region
    for row in range(top, bottom):
        for column in range(left, right):
            x, y = column + 0.5, row + 0.5
            intensity = background[row, column]
            for i in range(len(shapes)):
                shape = shapes[i]
                reach = 1.5 * shape[HALF] + 1
                if abs(x - shape[X]) > reach or abs(y - shape[Y]) > reach:
                    continue
                covered = min(max(0.5 - _distance(shape, x, y), 0.0), 1.0)
                if covered > 0:
                    own = shape[LUMINANCE]
                    if shape[TEXTURE] > 0:
                        u = shape[COS] * (x - shape[X]) + shape[SIN] * (y - shape[Y])
                        v = shape[COS] * (y - shape[Y]) - shape[SIN] * (x - shape[X])
                        wave = np.sin(shape[WAVE] * u + shape[OFFSET]) * np.sin(shape[WAVE] * v)
                        own *= 1 + shape[TEXTURE] * wave
                    intensity += covered * (own - intensity)
            log_frame[row, column] = np.log(intensity)


@njit(cache=True, nogil=True)
def visible_shares(shapes, width, height):
    """For each shape the share of its pixel centres on the canvas and outside all nearer shapes: (S,) float64."""
    shares = np.zeros(len(shapes))
    for i in range(len(shapes)):
        shape = shapes[i]
        reach = 1.5 * shape[HALF] + 1
        whole = seen = 0
        for row in range(int(np.floor(shape[Y] - reach)), int(np.ceil(shape[Y] + reach))):
            for column in range(int(np.floor(shape[X] - reach)), int(np.ceil(shape[X] + reach))):
                if _distance(shape, column + 0.5, row + 0.5) >= 0:
                    continue
                whole += 1
                visible = 0 <= column < width and 0 <= row < height
                for j in range(i + 1, len(shapes)):
                    if visible and _distance(shapes[j], column + 0.5, row + 0.5) < 0:
                        visible = False
                seen += visible
        if whole:
            shares[i] = seen / whole
    return shares
