"""Numba kernels of textures: patterns and noise on the ground, on walls and in leaves.

Station: below everything that paints a street. Patterns are averaged over the footprint of a pixel in closed form, and
noise fades with it (Perlin's "clamping" of octaves), so that a far texture is grey and does not alias when a camera
moves.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.traffic.viewing_kernels import FAST


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def cover(x, w, a, b):
    """Share of [a, b] in a box of width w around x."""
    both = min(b, x + 0.5 * w) - max(a, x - 0.5 * w)
    return both / w if both > 0.0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def comb(x, w, period, on):
    """Mean, over a box of width w around x, of a comb that is 1 on [0, on) of every period."""
    a, b, share = x / period - 0.5 * w / period, x / period + 0.5 * w / period, on / period
    whole_a, whole_b = np.floor(a), np.floor(b)
    return ((whole_b - whole_a) * share + min(b - whole_b, share) - min(a - whole_a, share)) / (b - a)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def hash_of(i, j, k):
    """A number in [0, 1) that follows from three integers."""
    h = (i * 374761393 + j * 668265263 + k * 974634777) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 739982445) & 0xFFFFFFFF
    h = ((h ^ (h >> 12)) * 695872825) & 0xFFFFFFFF
    return ((h ^ (h >> 15)) & 0xFFFFFF) / 16777216.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def noise(table, x, y):
    """Value noise: table (256, 256) of numbers in [-1, 1], one a unit, repeated, between them linear."""
    fx, fy = np.floor(x), np.floor(y)
    i, j = np.int64(fy), np.int64(fx)
    u, v = x - fx, y - fy
    i0, j0 = np.uint64(i & 255), np.uint64(j & 255)  # unsigned: spares the test for negative indices
    i1, j1 = np.uint64((i + 1) & 255), np.uint64((j + 1) & 255)
    top = table[i0, j0] + u * (table[i0, j1] - table[i0, j0])
    low = table[i1, j0] + u * (table[i1, j1] - table[i1, j0])
    return top + v * (low - top)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def octave(table, x, y, cell, footprint):
    """Noise with cells of `cell` metres, faded where the footprint of a pixel is as large as a cell."""
    weight = 1.5 - footprint / cell
    if weight <= 0.0:
        return 0.0
    return min(weight, 1.0) * noise(table, x / cell, y / cell)
