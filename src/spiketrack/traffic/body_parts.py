"""Body parts: the record of a body, and the builder that collects its faces, discs, limbs, lamps and joints.

Station: below `vehicle_bodies` and `people_bodies`. A body stands at the origin, looks along x, y is its left, z is up;
metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

POLYGON, DISC, RING, CAPSULE, GLOW = range(5)
TYRE = 0.04  # albedo

# The fifteen joints of a person, in the order of the annotations; left is the person's left.
JOINTS = (
    "head",
    "neck",
    "pelvis",
    "left shoulder",
    "right shoulder",
    "left elbow",
    "right elbow",
    "left wrist",
    "right wrist",
    "left hip",
    "right hip",
    "left knee",
    "right knee",
    "left ankle",
    "right ankle",
)

Point = Sequence[float]


class Body(NamedTuple):
    """Arrays of one body. Vertices (V, ...), primitives (P, ...), joints that turn (J, ...).

    A vertex follows its joint (-1: none), a joint its parent. A joint's angle about the lateral axis is
    bend + turn * travelled + amplitude * sin(rate * travelled + phase). keypoints: vertices of the fifteen joints,
    none for anything but a pedestrian.
    """

    vertices: NDArray[np.float64]
    joint: NDArray[np.int64]
    kind: NDArray[np.int64]
    first: NDArray[np.int64]
    corners: NDArray[np.int64]
    shade: NDArray[np.float64]
    radius: NDArray[np.float64]
    closed: NDArray[np.bool_]
    brake: NDArray[np.bool_]
    group: NDArray[np.int64]
    groups: int
    pivot: NDArray[np.float64]
    parent: NDArray[np.int64]
    bend: NDArray[np.float64]
    turn: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    rate: NDArray[np.float64]
    phase: NDArray[np.float64]
    keypoints: NDArray[np.int64]


OUTWARDS = {"left": (0, 1, 0), "right": (0, -1, 0), "front": (1, 0, 0), "rear": (-1, 0, 0), "roof": (0, 0, 1)}


class BodyBuilder:
    """Collects the parts of a body."""

    def __init__(self) -> None:
        self.vertices: list[Point] = []
        self.joint_of: list[int] = []
        self.primitives: list[tuple[int, int, int, float, float, bool, bool, int]] = []
        self.joints: list[tuple[Point, int, float, float, float, float, float]] = []
        self.keypoints: list[int] = []
        self._group = 0
        self._joint = -1

    def group(self) -> None:
        """What follows is sorted by depth as a whole of its own."""
        self._group += 1

    def at(self, joint: int) -> None:
        """What follows moves with this joint (-1: with the body)."""
        self._joint = joint

    def hinge(
        self,
        pivot: Point,
        parent: int = -1,
        bend: float = 0.0,
        turn: float = 0.0,
        swing: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> int:
        """A joint about the lateral axis through pivot. swing: amplitude (rad), rate (rad/m), phase (rad)."""
        self.joints.append((pivot, parent, bend, turn, *swing))
        return len(self.joints) - 1

    def _add(
        self, kind: int, points: Sequence[Point], shade: float, radius: float = 0.0, closed: bool = False, brake=False
    ) -> None:
        self.primitives.append((kind, len(self.vertices), len(points), shade, radius, closed, bool(brake), self._group))
        self.vertices += [tuple(map(float, point)) for point in points]
        self.joint_of += [self._joint] * len(points)

    def face(self, points: Sequence[Point], shade: float, outwards: Point) -> None:
        """A convex polygon, seen from the side to which `outwards` points."""
        p = np.asarray(points, np.float64)
        normal = np.cross(p[1] - p[0], p[2] - p[0])
        self._add(POLYGON, points if normal @ np.asarray(outwards) > 0 else points[::-1], shade, closed=True)

    def sheet(self, points: Sequence[Point], shade: float) -> None:
        """A convex polygon seen from both sides."""
        self._add(POLYGON, points, shade)

    def hull(
        self, bottom: Sequence[float], top: Sequence[float], z: tuple[float, float], shade: float, roof: float
    ) -> dict[str, list[Point]]:
        """A box whose bottom and top are rectangles (x0, x1, half width); returns its five visible faces."""
        (a0, a1, aw), (b0, b1, bw) = bottom, top
        low, high = z
        faces: dict[str, list[Point]] = {
            "left": [(a0, aw, low), (a1, aw, low), (b1, bw, high), (b0, bw, high)],
            "right": [(a0, -aw, low), (a1, -aw, low), (b1, -bw, high), (b0, -bw, high)],
            "front": [(a1, -aw, low), (a1, aw, low), (b1, bw, high), (b1, -bw, high)],
            "rear": [(a0, -aw, low), (a0, aw, low), (b0, bw, high), (b0, -bw, high)],
            "roof": [(b0, -bw, high), (b1, -bw, high), (b1, bw, high), (b0, bw, high)],
        }
        for name, points in faces.items():
            self.face(points, roof if name == "roof" else shade, OUTWARDS[name])
        return faces

    def on(self, face: list[Point], u: tuple[float, float], v: tuple[float, float], shade: float, side: str) -> None:
        """A patch on a face: u along its first edge, v from its first edge to the opposite one, both 0 .. 1."""
        p = np.asarray(face, np.float64)

        def point(a: float, b: float) -> NDArray[np.float64]:
            return (1 - b) * ((1 - a) * p[0] + a * p[1]) + b * ((1 - a) * p[3] + a * p[2])

        corners = (point(u[0], v[0]), point(u[1], v[0]), point(u[1], v[1]), point(u[0], v[1]))
        self.face([corner.tolist() for corner in corners], shade, OUTWARDS[side])

    def limb(self, start: Point, end: Point, radius: float, shade: float) -> None:
        self._add(CAPSULE, [start, end], shade, radius)

    def disc(self, middle: Point, size: float, shade: float, side: float) -> None:
        """A disc that looks to the left (side 1) or right (-1)."""
        x, y, z = middle
        rim = [(x, y, z), (x + size, y, z), (x, y, z + size)]
        # (x, z) turns towards -y
        self._add(DISC, rim if side < 0 else [rim[0], rim[2], rim[1]], shade, closed=True)

    def ring(self, middle: Point, size: float, thick: float, shade: float) -> None:
        x, y, z = middle
        self._add(RING, [(x, y, z), (x + size, y, z), (x, y, z + size)], shade, thick)

    def lamp(self, place: Point, ahead: float, size: float, strength: float, brake: bool = False) -> None:
        """A lamp that shines forward (ahead 1) or backward (-1)."""
        x, y, z = place
        self._add(GLOW, [place, (x + ahead, y, z)], strength, size, brake=brake)

    def keypoint(self, place: Point) -> None:
        self.keypoints.append(len(self.vertices))
        self.vertices.append(tuple(map(float, place)))
        self.joint_of.append(self._joint)

    def build(self) -> Body:
        kind, first, corners, shade, radius, closed, brake, group = zip(*self.primitives, strict=True)
        joints = self.joints or [((0.0, 0.0, 0.0), -1, 0.0, 0.0, 0.0, 0.0, 0.0)]
        pivot, parent, bend, turn, amplitude, rate, phase = zip(*joints, strict=True)
        return Body(
            np.array(self.vertices, np.float64),
            np.array(self.joint_of, np.int64),
            np.array(kind, np.int64),
            np.array(first, np.int64),
            np.array(corners, np.int64),
            np.array(shade, np.float64),
            np.array(radius, np.float64),
            np.array(closed, np.bool_),
            np.array(brake, np.bool_),
            np.array(group, np.int64),
            self._group + 1,
            np.array(pivot, np.float64).reshape(-1, 3),
            np.array(parent, np.int64),
            *(np.array(column, np.float64) for column in (bend, turn, amplitude, rate, phase)),
            np.array(self.keypoints, np.int64),
        )


def paint_of(rng: np.random.Generator) -> float:
    """Albedo of a vehicle: white, silver and black are most common."""
    kind = rng.choice(4, p=(0.3, 0.25, 0.3, 0.15))
    low, high = ((0.55, 0.8), (0.3, 0.5), (0.03, 0.08), (0.08, 0.3))[kind]
    return float(rng.uniform(low, high))
