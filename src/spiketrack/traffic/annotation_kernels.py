"""Numba kernels of annotations: what the mask of a frame says about an actor.

Station: in come a mask of names (see `layers.Layers`) and events, out go pixels, boxes and counts.
"""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def mask_extent(mask, name, left, top, right, bottom):
    """Number of pixels of a name within the bounds, and their tight box (left, top, right, bottom exclusive)."""
    count = 0
    x0, y0, x1, y1 = right, bottom, left, top
    for row in range(top, bottom):
        for column in range(left, right):
            if mask[row, column] == name:
                count += 1
                x0, x1 = min(x0, column), max(x1, column + 1)
                y0, y1 = min(y0, row), max(y1, row + 1)
    return count, x0, y0, x1, y1


@njit(cache=True, nogil=True, error_model="numpy")
def count_events(x, y, signal, mask, name, left, top, right, bottom):
    """Events within the bounds, on pixels of that name or of none: (those that the light caused, noise)."""
    caused, noise = 0, 0
    for i in range(len(x)):
        if left <= x[i] < right and top <= y[i] < bottom:
            seen = mask[y[i], x[i]]
            if seen == name or seen == 0:
                caused += signal[i]
                noise += not signal[i]
    return caused, noise
