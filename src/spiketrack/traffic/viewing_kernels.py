"""Numba kernels of viewing a street: places in camera coordinates, and pictures of more samples than pixels.

A camera is (16,): position 0-2, rows of the rotation 3-11, focal length 12, principal point 13-14.
"""

from __future__ import annotations

from numba import njit

FAST = {"arcp", "contract", "nsz"}  # infinities stay what they are
NEAREST_M = 0.3
FARTHEST_M = 260.0  # things that stand farther away are not drawn


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def to_camera(camera, x, y, z):
    """Camera coordinates of a world point."""
    dx, dy, dz = x - camera[0], y - camera[1], z - camera[2]
    return (
        dx * camera[3] + dy * camera[4] + dz * camera[5],
        dx * camera[6] + dy * camera[7] + dz * camera[8],
        dx * camera[9] + dy * camera[10] + dz * camera[11],
    )


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def halve(fine, coarse):
    """Mean of 2 x 2."""
    for i in range(coarse.shape[0]):
        for j in range(coarse.shape[1]):
            a, b = fine[2 * i, 2 * j] + fine[2 * i, 2 * j + 1], fine[2 * i + 1, 2 * j] + fine[2 * i + 1, 2 * j + 1]
            coarse[i, j] = 0.25 * (a + b)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def halve_depth(fine, coarse):
    """The second nearest of 2 x 2: what covers at least half of the pixel."""
    for i in range(coarse.shape[0]):
        for j in range(coarse.shape[1]):
            a, b = fine[2 * i, 2 * j], fine[2 * i, 2 * j + 1]
            c, d = fine[2 * i + 1, 2 * j], fine[2 * i + 1, 2 * j + 1]
            coarse[i, j] = min(max(min(a, b), min(c, d)), min(max(a, b), max(c, d)))
