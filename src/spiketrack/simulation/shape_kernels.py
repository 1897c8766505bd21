"""Numba kernels that render the shapes of `scene`.

Imported only where a simulation runs, so that settings stay cheap to import.
"""

from __future__ import annotations

import numpy as np
from numba import njit

DISC, SQUARE, TRIANGLE = range(3)

# Columns of a shape's row, (S, 10) float64, far to near; see scene.py.
KIND, X, Y, COS, SIN, HALF, LUMINANCE, TEXTURE, WAVE, OFFSET = range(10)


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
def render_region(background, shapes, region, frame):
    """Draw shapes over the background into a region of frame, (H, W) float32 intensity.

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
            frame[row, column] = intensity


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
