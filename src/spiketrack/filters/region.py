"""Regions: parts of the sensor that count, as shapes or as a mask image.

A shape is a row of numbers: left, top, right, bottom of a rectangle, or x, y of three or more corners of a polygon
(even-odd rule). A pixel belongs to a shape if its centre, half a pixel right of and below its index, lies inside, so
that the rectangle 10, 20, 30, 40 covers columns 10 .. 29 and rows 20 .. 39.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import SettingsError
from spiketrack.events import Events
from spiketrack.filters import kernels
from spiketrack.filters.filter import Filter
from spiketrack.filters.masks import load_mask
from spiketrack.filters.settings import RegionSettings, Shape


class RegionFilter(Filter):
    """Events of chosen pixels stay. mask: (H, W) bool, true where they do."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        height, width = mask.shape
        super().__init__(width, height)
        self.mask = np.array(mask, np.bool_)
        self.mask.flags.writeable = False

    def _decide(self, events: Events, keep: NDArray[np.bool_]) -> int:
        return kernels.look_up(events.x, events.y, self.mask.ravel(), self.width, keep)


def region_mask(settings: RegionSettings, width: int, height: int) -> NDArray[np.bool_]:
    """(H, W) bool, true where events stay. Raises SettingsError where a shape or all that is left covers no pixel."""
    mask = np.full((height, width), not settings.include)
    for shape in settings.include:
        mask |= _covering(shape, width, height)
    for shape in settings.exclude:
        mask &= ~_covering(shape, width, height)
    if settings.mask is not None:
        mask &= load_mask(Path(settings.mask), width, height)
    if not mask.any():
        raise SettingsError(f"region: no pixel of the {width} x {height} sensor is left; check include, exclude, mask")
    return mask


def _covering(shape: Shape, width: int, height: int) -> NDArray[np.bool_]:
    inside = rasterize(shape, width, height)
    if not inside.any():
        raise SettingsError(f"region: the shape {list(shape)} covers no pixel of the {width} x {height} sensor")
    return inside


def rasterize(shape: Shape, width: int, height: int) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels whose centres lie inside the shape; parts beyond the sensor are cut off."""
    if len(shape) == 4:
        left, top, right, bottom = shape
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    else:
        corners = np.array(shape).reshape(-1, 2)
    flips = np.zeros((height, width + 1), np.int64)
    middle = np.arange(height) + 0.5
    for first, second in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        # always from the upper end, so that rounding does not depend on the direction of drawing
        (x0, y0), (x1, y1) = sorted((first, second), key=lambda corner: corner[1])
        rows = np.flatnonzero((y0 <= middle) != (y1 <= middle))
        crossing = x0 + (middle[rows] - y0) * (x1 - x0) / (y1 - y0) if len(rows) else np.empty(0)
        # the centres of the pixels before this one are left of the edge
        flips[rows, np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)] += 1
    edges_right_of = flips[:, ::-1].cumsum(axis=1)[:, -2::-1]
    return edges_right_of % 2 == 1
