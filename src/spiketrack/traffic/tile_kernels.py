"""Numba kernels of tiles: which were drawn on, and putting them back.

Station: below everything that draws. Layers are those of `layers.Layers`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

TILE = 16  # pixels a side


@njit(cache=True, nogil=True, error_model="numpy")
def touch(touched, left, top, right, bottom):
    """Set the tiles of the pixels [left, right) x [top, bottom)."""
    if right > left and bottom > top:
        for row in range(top // TILE, (bottom - 1) // TILE + 1):
            for column in range(left // TILE, (right - 1) // TILE + 1):
                touched[row, column] = True


@njit(cache=True, nogil=True, error_model="numpy")
def any_tile(tiles, left, top, right, bottom):
    """Whether any tile of the pixels [left, right) x [top, bottom) is set."""
    for row in range(top // TILE, min((bottom - 1) // TILE + 1, tiles.shape[0])):
        for column in range(left // TILE, min((right - 1) // TILE + 1, tiles.shape[1])):
            if tiles[row, column]:
                return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def restore(picture, background, tiles):
    """Copy the background into the marked tiles of the picture."""
    height, width = picture.shape
    for i in range(tiles.shape[0]):
        j = 0
        while j < tiles.shape[1]:
            first = j
            while j < tiles.shape[1] and tiles[i, j]:
                j += 1
            if j > first:
                left, right = first * TILE, min(j * TILE, width)
                for row in range(i * TILE, min((i + 1) * TILE, height)):
                    picture[row, left:right] = background[row, left:right]
            j += 1


@njit(cache=True, nogil=True, error_model="numpy")
def light_up(picture, base, lamps, factor, tiles):
    """picture = base + factor * lamps in the marked tiles."""
    height, width = picture.shape
    factor = np.float32(factor)
    for i in range(tiles.shape[0]):
        j = 0
        while j < tiles.shape[1]:
            first = j
            while j < tiles.shape[1] and tiles[i, j]:
                j += 1
            if j > first:
                left, right = first * TILE, min(j * TILE, width)
                for row in range(i * TILE, min((i + 1) * TILE, height)):
                    line, even, lamp = picture[row, left:right], base[row, left:right], lamps[row, left:right]
                    for k in range(len(line)):
                        line[k] = even[k] + factor * lamp[k]
            j += 1
