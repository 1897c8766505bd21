"""Camera: a pinhole above the road.

Station: between the world in metres and the sensor in pixels. World: X, Y on the ground, Z up. Camera: x right, y down,
z along the optical axis. No lens distortion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

NEAREST_M = 0.3  # what is nearer than this is not drawn


@dataclass(frozen=True, slots=True)
class Camera:
    """Where a camera stands and looks. Angles in radians.

    heading: direction of the view on the ground, counter-clockwise from X. pitch: downward positive. roll: clockwise
    in the picture. focal_px: focal length in pixels; the principal point is the middle of the picture.
    """

    width: int
    height: int
    focal_px: float
    position: tuple[float, float, float]
    heading: float
    pitch: float
    roll: float = 0.0

    def rotation(self) -> NDArray[np.float64]:
        """(3, 3): rows are the camera's x, y, z axes in the world."""
        ch, sh, cp, sp = np.cos(self.heading), np.sin(self.heading), np.cos(self.pitch), np.sin(self.pitch)
        forward = np.array([ch * cp, sh * cp, -sp])
        right = np.array([sh, -ch, 0.0])
        down = np.array([-sp * ch, -sp * sh, -cp])  # forward x right
        cr, sr = np.cos(self.roll), np.sin(self.roll)
        return np.stack([cr * right + sr * down, cr * down - sr * right, forward])

    def to_camera(self, points: ArrayLike) -> NDArray[np.float64]:
        """World points (..., 3) in camera coordinates (..., 3), metres."""
        return (np.asarray(points, np.float64) - self.position) @ self.rotation().T

    def project(self, points: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """World points (..., 3): their pixels (..., 2) and depths (...), metres; pixels mean nothing at depth <= 0."""
        seen = self.to_camera(points)
        depth = seen[..., 2]
        scale = self.focal_px / np.where(depth > 0, depth, np.nan)
        return seen[..., :2] * scale[..., None] + (self.width / 2, self.height / 2), depth

    def view(self, behind_m: float) -> NDArray[np.float64]:
        """(4,) as drawing kernels want it: focal length, principal point, and the depth behind which things hide it."""
        return np.array((self.focal_px, self.width / 2, self.height / 2, behind_m))

    def rays(self, columns: NDArray, rows: NDArray) -> NDArray[np.float64]:
        """Directions in the world (..., 3), depth 1, of positions in pixels (the centre of a pixel is at .5)."""
        x = (np.asarray(columns, np.float64) - self.width / 2) / self.focal_px
        y = (np.asarray(rows, np.float64) - self.height / 2) / self.focal_px
        return np.stack([x, y, np.ones_like(x)], axis=-1) @ self.rotation()
