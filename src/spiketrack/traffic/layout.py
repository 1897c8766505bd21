"""Layout: the roads of a scene, as plain records.

Station: `world` lets traffic run on them, `surroundings` paints them. All lengths in metres, on the plane Z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane along a road. offset: of its middle, left of the road's axis. direction: +1 along the axis, -1 against."""

    offset: float
    direction: int
    width: float = 3.2
    kind: str = "car"  # "car", "bicycle" or "tram"


@dataclass(frozen=True, slots=True)
class Road:
    """A straight road. start: (X, Y) of s = 0; heading: of its axis, radians; s runs from 0 to length.

    half_width: of the carriageway; pavement: width of the footpath on either side (0: none). crossings: s of the
    middle of each zebra crossing, `crossing_width` long along s. stop_lines: (s, direction) where that direction waits.
    """

    start: tuple[float, float]
    heading: float
    length: float
    half_width: float
    lanes: tuple[Lane, ...]
    pavement: float = 2.5
    crossings: tuple[float, ...] = ()
    crossing_width: float = 3.5
    stop_lines: tuple[tuple[float, int], ...] = ()

    def place(self, s: ArrayLike, left: ArrayLike) -> NDArray[np.float64]:
        """(..., 2) X, Y of the point s along the axis and `left` metres to its left."""
        s, left = np.asarray(s, np.float64), np.asarray(left, np.float64)
        c, n = np.cos(self.heading), np.sin(self.heading)
        return np.stack([self.start[0] + s * c - left * n, self.start[1] + s * n + left * c], axis=-1)

    def local(self, points: ArrayLike) -> NDArray[np.float64]:
        """(..., 2) s and left of world points (..., 2)."""
        d = np.asarray(points, np.float64)[..., :2] - self.start
        c, n = np.cos(self.heading), np.sin(self.heading)
        return np.stack([d[..., 0] * c + d[..., 1] * n, d[..., 1] * c - d[..., 0] * n], axis=-1)


@dataclass(frozen=True, slots=True)
class Layout:
    """All roads; where two cross, roads[0] and roads[1] meet at the world's origin."""

    roads: tuple[Road, ...]
    has_signals: bool = False
