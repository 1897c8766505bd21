"""Bodies: the shape, the look and the moving parts of every kind of actor.

Station: in comes an Actor (class, size, seed of its look), out goes a Body: faces, discs, limbs, lamps, as arrays that
`placing_kernels` places and `body_kernels` draws. A body stands at the origin, looks along x, y is its left, z is up,
in metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiketrack.traffic.actors import BICYCLE, BUS, CAR, MOTORBIKE, PEDESTRIAN, TRAM, TRUCK, Actor

POLYGON, DISC, RING, CAPSULE, GLOW = range(5)  # as in body_kernels

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


class _Builder:
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
            self.face(points, roof if name == "roof" else shade, _OUTWARDS[name])
        return faces

    def on(self, face: list[Point], u: tuple[float, float], v: tuple[float, float], shade: float, side: str) -> None:
        """A patch on a face: u along its first edge, v from its first edge to the opposite one, both 0 .. 1."""
        p = np.asarray(face, np.float64)

        def point(a: float, b: float) -> NDArray[np.float64]:
            return (1 - b) * ((1 - a) * p[0] + a * p[1]) + b * ((1 - a) * p[3] + a * p[2])

        corners = (point(u[0], v[0]), point(u[1], v[0]), point(u[1], v[1]), point(u[0], v[1]))
        self.face([corner.tolist() for corner in corners], shade, _OUTWARDS[side])

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


_OUTWARDS = {"left": (0, 1, 0), "right": (0, -1, 0), "front": (1, 0, 0), "rear": (-1, 0, 0), "roof": (0, 0, 1)}
_TYRE, _SKIN_RANGE = 0.04, (0.12, 0.55)


def body_of(actor: Actor) -> Body:
    """The body of an actor; the same for the same class, size and look."""
    rng = np.random.default_rng([actor.look, actor.class_id])
    builder = _Builder()
    size = (actor.length, actor.width, actor.height)
    if actor.class_id == PEDESTRIAN:
        _pedestrian(builder, actor.height, rng)
    elif actor.class_id == CAR:
        _car(builder, *size, rng)
    elif actor.class_id in (BUS, TRAM):
        _coach(builder, *size, rng, rails=actor.class_id == TRAM)
    elif actor.class_id == TRUCK:
        _truck(builder, *size, rng)
    elif actor.class_id == BICYCLE:
        _two_wheeler(builder, *size, rng, motor=False)
    elif actor.class_id == MOTORBIKE:
        _two_wheeler(builder, *size, rng, motor=True)
    else:
        _wheelchair(builder, *size, rng)
    return builder.build()


def _paint(rng: np.random.Generator) -> float:
    """Albedo of a vehicle: white, silver and black are most common."""
    kind = rng.choice(4, p=(0.3, 0.25, 0.3, 0.15))
    low, high = ((0.55, 0.8), (0.3, 0.5), (0.03, 0.08), (0.08, 0.3))[kind]
    return float(rng.uniform(low, high))


def _wheel(b: _Builder, x: float, half_width: float, size: float, rng: np.random.Generator) -> None:
    """A wheel on either side, tyre, rim and spokes."""
    rim, spokes = float(rng.uniform(0.15, 0.6)), int(rng.choice((3, 4, 5)))
    hinge = b.hinge((x, 0, size), turn=1 / size)
    for side in (1, -1):
        y = side * (half_width + 0.01)
        b.disc((x, y, size), size, _TYRE, side)
        b.disc((x, y + 0.005 * side, size), 0.62 * size, rim, side)
        b.at(hinge)
        for k in range(spokes):
            angle = 2 * np.pi * k / spokes
            c, s, w = np.cos(angle), np.sin(angle), 0.09 * size
            reach = 0.58 * size
            b.face(
                [
                    (x + s * w, y + 0.01 * side, size - c * w),
                    (x + c * reach + s * w, y + 0.01 * side, size + s * reach - c * w),
                    (x + c * reach - s * w, y + 0.01 * side, size + s * reach + c * w),
                    (x - s * w, y + 0.01 * side, size + c * w),
                ],
                rim * 0.35,
                (0, side, 0),
            )
        b.at(-1)


def _lamps(b: _Builder, length: float, width: float, z: float, rng: np.random.Generator) -> None:
    head, tail = float(rng.uniform(0.6, 2.5)), float(rng.uniform(0.05, 0.2))
    for side in (1, -1):
        b.lamp((length / 2 + 0.03, side * 0.38 * width, z), 1, 0.07, head)
        b.lamp((-length / 2 - 0.03, side * 0.4 * width, z + 0.1), -1, 0.07, tail, brake=True)


def _car(b: _Builder, length: float, width: float, height: float, rng: np.random.Generator) -> None:
    paint, glass = _paint(rng), float(rng.uniform(0.02, 0.25))
    shape = rng.choice(("saloon", "hatch", "van"), p=(0.4, 0.4, 0.2))
    belt, clear, half = float(rng.uniform(0.54, 0.62)) * height, 0.2, width / 2
    base, roof = {
        "saloon": ((-0.36, 0.26), (-0.22, 0.08)),
        "hatch": ((-0.49, 0.26), (-0.42, 0.08)),
        "van": ((-0.495, 0.36), (-0.48, 0.22)),
    }[str(shape)]
    lower = b.hull(
        (-0.5 * length, 0.5 * length, half), (-0.49 * length, 0.47 * length, 0.98 * half), (clear, belt), paint, paint
    )
    dark = 0.35 * paint
    for side in ("left", "right"):
        b.on(lower[side], (0.0, 1.0), (0.0, 0.14), 0.05, side)
        for u in (0.36, 0.58):
            b.on(lower[side], (u, u + 0.006), (0.1, 0.95), dark, side)
        b.on(lower[side], (0.45, 0.48), (0.72, 0.78), dark, side)
    b.on(lower["front"], (0.25, 0.75), (0.2, 0.6), 0.05, "front")
    b.on(lower["front"], (0.36, 0.64), (0.14, 0.3), 0.6, "front")
    b.on(lower["rear"], (0.36, 0.64), (0.45, 0.62), 0.6, "rear")
    for u in ((0.02, 0.2), (0.8, 0.98)):
        b.on(lower["front"], u, (0.6, 0.88), 0.75, "front")
        b.on(lower["rear"], u, (0.55, 0.9), 0.12, "rear")
    b.on(lower["roof"], (0.72, 0.725), (0.08, 0.92), dark, "roof")
    cabin = b.hull(
        (base[0] * length, base[1] * length, 0.96 * half),
        (roof[0] * length, roof[1] * length, 0.8 * half),
        (belt, height),
        paint,
        paint if rng.uniform() < 0.8 else glass,
    )
    for side in ("left", "right"):
        posts = (0.07, 0.47, 0.52, 0.9) if shape != "van" or rng.uniform() < 0.6 else (0.55, 0.7, 0.72, 0.93)
        b.on(cabin[side], posts[0:2], (0.08, 0.86), glass, side)
        b.on(cabin[side], posts[2:4], (0.08, 0.86), glass, side)
    b.on(cabin["front"], (0.05, 0.95), (0.06, 0.92), glass * float(rng.uniform(0.8, 2)), "front")
    b.on(cabin["rear"], (0.08, 0.92), (0.1, 0.88), glass, "rear")
    wheel = float(rng.uniform(0.29, 0.36))
    _wheel(b, 0.31 * length, half, wheel, rng)
    _wheel(b, -0.3 * length, half, wheel, rng)
    _lamps(b, length, width, 0.45 * belt + 0.25, rng)


def _coach(b: _Builder, length: float, width: float, height: float, rng: np.random.Generator, rails: bool) -> None:
    """A bus, or a tram: one or several bodies with rows of windows."""
    paint, second = _paint(rng), _paint(rng)
    glass, clear, half = float(rng.uniform(0.02, 0.2)), 0.3, width / 2
    parts = max(1, round(length / (9.5 if rails else 14)))
    piece = length / parts
    stripe = rng.uniform() < 0.7
    for k in range(parts):
        if k:
            b.group()
        x0 = -length / 2 + k * piece
        x1 = x0 + piece - (0.35 if k < parts - 1 else 0)
        nose = 0.5 if rails and k == parts - 1 else 0.05
        tail = 0.5 if rails and k == 0 else 0.0
        faces = b.hull(
            (x0, x1, half), (x0 + tail, x1 - nose, half), (clear, height), paint, float(rng.uniform(0.2, 0.6))
        )
        doors = set(rng.choice(8, 2, replace=False).tolist())
        count = max(4, round((x1 - x0) / 1.5))
        for side in ("left", "right"):
            if stripe:
                b.on(faces[side], (0, 1), (0.05, 0.25), second, side)
            for w in range(count):
                u = (w + 0.08) / count, (w + 0.92) / count
                low = 0.04 if side == "right" and w % 8 in doors else 0.4
                b.on(faces[side], u, (low, 0.82), glass * float(rng.uniform(0.7, 1.5)), side)
        if k == parts - 1:
            b.on(faces["front"], (0.06, 0.94), (0.3, 0.8), glass, "front")
            b.on(faces["front"], (0.2, 0.8), (0.84, 0.96), 0.02 if rng.uniform() < 0.5 else 0.5, "front")
        if k == 0:
            b.on(faces["rear"], (0.12, 0.88), (0.45, 0.8), glass, "rear")
        if not rails:
            for x in (x0 + 0.22 * piece, x1 - 0.18 * piece):
                _wheel(b, x, half, 0.48, rng)
    _lamps(b, length, width, 0.8, rng)


def _truck(b: _Builder, length: float, width: float, height: float, rng: np.random.Generator) -> None:
    cab, load = _paint(rng), float(rng.choice((_paint(rng), rng.uniform(0.5, 0.8))))
    half, clear, nose = width / 2, 0.45, float(rng.uniform(1.5, 2.2))
    front = length / 2
    cab_height = height * float(rng.uniform(0.72, 1.0))
    kind = rng.choice(("box", "flat", "tank"), p=(0.65, 0.2, 0.15))
    rear_top = height if kind == "box" else height * (0.45 if kind == "flat" else 0.75)
    b.hull((-front, front - nose, 0.42 * width), (-front, front - nose, 0.42 * width), (0.5, 0.9), 0.05, 0.05)
    cargo = b.hull(
        (-front, front - nose - 0.3, half), (-front, front - nose - 0.3, half), (0.9, rear_top), load, load * 0.9
    )
    for side in ("left", "right"):
        if rng.uniform() < 0.7:
            u = float(rng.uniform(0.05, 0.4))
            b.on(cargo[side], (u, u + float(rng.uniform(0.2, 0.5))), (0.3, 0.75), _paint(rng), side)
        for u in np.linspace(0.1, 0.9, 5):
            b.on(cargo[side], (u, u + 0.005), (0.02, 0.98), 0.6 * load, side)
    b.on(cargo["rear"], (0.495, 0.505), (0.03, 0.97), 0.4 * load, "rear")
    b.group()
    faces = b.hull(
        (front - nose, front, half), (front - nose, front - 0.15, 0.96 * half), (clear, cab_height), cab, cab
    )
    glass = float(rng.uniform(0.02, 0.2))
    for side in ("left", "right"):
        b.on(faces[side], (0.35, 0.92), (0.5, 0.85), glass, side)
    b.on(faces["front"], (0.05, 0.95), (0.48, 0.85), glass, "front")
    b.on(faces["front"], (0.2, 0.8), (0.12, 0.4), 0.05, "front")
    b.group()
    _wheel(b, front - 0.6 * nose, half, 0.5, rng)
    _wheel(b, -0.32 * length, half, 0.5, rng)
    if length > 8:
        _wheel(b, -0.32 * length + 1.2, half, 0.5, rng)
    _lamps(b, length, width, 0.8, rng)


def _person(
    b: _Builder, hip: Point, scale: float, lean: float, rng: np.random.Generator, helmet: bool = False
) -> dict[str, Point]:
    """Torso, head and neck of a person whose hips are at `hip`; returns the middle of the shoulders and the head."""
    top, skin = float(rng.uniform(0.03, 0.75)), float(rng.uniform(*_SKIN_RANGE))
    hair = float(rng.uniform(0.02, 0.25)) if not helmet else float(rng.uniform(0.05, 0.8))
    x, y, z = hip
    c, s = np.cos(lean), np.sin(lean)
    shoulder = (x + 0.5 * scale * s, y, z + 0.5 * scale * c)
    head = (x + 0.72 * scale * s + 0.02, y, z + 0.72 * scale * c)
    b.group()
    for side in (-1, 1):
        b.limb((x, y + 0.07 * side * scale, z), (shoulder[0], y + 0.12 * side * scale, shoulder[2]), 0.1 * scale, top)
    b.group()
    b.limb((shoulder[0], y, shoulder[2] + 0.1 * scale), head, 0.055 * scale, skin)
    b.limb(head, (head[0] + 0.01, y, head[2] + 0.04 * scale), 0.1 * scale, skin)
    b.limb(
        (head[0] - 0.03 * scale, y, head[2] + 0.05 * scale),
        (head[0] - 0.01, y, head[2] + 0.07 * scale),
        0.1 * scale * (1.25 if helmet else 1.0),
        hair,
    )
    return {"shoulder": shoulder, "head": head, "sleeve": (top, skin, 0.0)}


def _pedestrian(b: _Builder, height: float, rng: np.random.Generator) -> None:
    """A walking person: legs and arms swing with the way, knees and elbows bend."""
    scale = height / 1.75
    hip_z, thigh, shin = 0.92 * scale, 0.45 * scale, 0.45 * scale
    stride = float(rng.uniform(1.25, 1.6)) * scale  # metres for two steps
    rate, start = 2 * np.pi / stride, float(rng.uniform(0, 2 * np.pi))
    trousers, shoe = float(rng.uniform(0.02, 0.5)), float(rng.uniform(0.02, 0.6))
    skirt = rng.uniform() < 0.15
    torso = _person(b, (0, 0, hip_z), scale, float(rng.uniform(-0.02, 0.1)), rng)
    top, skin, _ = torso["sleeve"]
    sx, _, sz = torso["shoulder"]
    points: dict[str, tuple[Point, int]] = {
        "head": (torso["head"], -1),
        "neck": ((sx, 0, sz + 0.08 * scale), -1),
        "pelvis": ((0, 0, hip_z), -1),
    }
    reach = float(rng.uniform(0.35, 0.55))
    for side, name, phase in ((1, "left", start), (-1, "right", start + np.pi)):
        y = 0.1 * side * scale
        b.group()
        hip = b.hinge((0, y, hip_z), swing=(reach, rate, phase))
        knee = b.hinge((0, y, hip_z - thigh), hip, bend=0.35, swing=(0.35, rate, phase - 1.4))
        b.at(hip)
        b.limb((0, y, hip_z), (0, y, hip_z - thigh), 0.075 * scale, trousers)
        points[f"{name} hip"] = ((0, y, hip_z), hip)
        points[f"{name} knee"] = ((0, y, hip_z - thigh), hip)
        b.at(knee)
        ankle = hip_z - thigh - shin + 0.05 * scale
        b.limb((0, y, hip_z - thigh), (0, y, ankle), 0.055 * scale, skin if skirt else trousers)
        b.limb((-0.04, y, ankle - 0.02), (0.16 * scale, y, ankle - 0.03), 0.04 * scale, shoe)
        points[f"{name} ankle"] = ((0, y, ankle), knee)
        b.at(-1)
        b.group()
        y = 0.21 * side * scale
        shoulder = b.hinge((sx, y, sz), swing=(0.8 * reach, rate, phase + np.pi))
        elbow = b.hinge((sx, y, sz - 0.28 * scale), shoulder, bend=-0.3, swing=(0.2, rate, phase + np.pi))
        b.at(shoulder)
        b.limb((sx, y, sz), (sx, y, sz - 0.28 * scale), 0.05 * scale, top)
        points[f"{name} shoulder"] = ((sx, y, sz), shoulder)
        points[f"{name} elbow"] = ((sx, y, sz - 0.28 * scale), shoulder)
        b.at(elbow)
        b.limb(
            (sx, y, sz - 0.28 * scale), (sx, y, sz - 0.53 * scale), 0.04 * scale, skin if rng.uniform() < 0.5 else top
        )
        points[f"{name} wrist"] = ((sx, y, sz - 0.53 * scale), elbow)
        b.at(-1)
    if skirt:
        b.group()
        b.limb((0, 0, hip_z - 0.05), (0, 0, hip_z - 0.3 * scale), 0.17 * scale, trousers)
    if rng.uniform() < 0.3:
        b.group()
        b.limb((sx - 0.18, 0, sz - 0.1), (-0.16, 0, hip_z + 0.15), 0.13 * scale, float(rng.uniform(0.02, 0.6)))
    if rng.uniform() < 0.2:
        b.group()
        side = float(rng.choice((-1, 1)))
        b.limb((0, 0.3 * side, hip_z - 0.1), (0, 0.3 * side, hip_z - 0.3), 0.12 * scale, float(rng.uniform(0.02, 0.7)))
    for name in JOINTS:
        place, joint = points[name]
        b.at(joint)
        b.keypoint(place)
    b.at(-1)


def _two_wheeler(
    b: _Builder, length: float, width: float, height: float, rng: np.random.Generator, motor: bool
) -> None:
    """A bicycle whose rider pedals, or a motorbike with one or two on it."""
    wheel = 0.31 if motor else 0.34
    front, rear = length / 2 - wheel, -length / 2 + wheel
    frame, half = _paint(rng), width / 2
    scale = (height - 0.1) / 1.65
    for x in (rear, front):
        b.group()
        if motor:
            hub = float(rng.uniform(0.2, 0.5))
            for side in (1, -1):
                b.disc((x, 0.06 * side, wheel), wheel, _TYRE, side)
                b.disc((x, 0.065 * side, wheel), 0.55 * wheel, hub, side)
        else:
            b.ring((x, 0, wheel), wheel - 0.02, 0.05, _TYRE)
            b.at(b.hinge((x, 0, wheel), turn=1 / wheel))
            for k in range(3):
                c, s = np.cos(np.pi * k / 3) * wheel, np.sin(np.pi * k / 3) * wheel
                b.limb((x - c, 0, wheel - s), (x + c, 0, wheel + s), 0.006, 0.4)
            b.at(-1)
    b.group()
    seat = (rear + 0.35 * (front - rear), 0.0, 0.95 if not motor else 0.8)
    bar = (front - 0.22, 0.0, 1.02 if not motor else 1.0)
    crank = ((front + rear) / 2 - 0.05, 0.0, 0.3)
    tube = 0.02 if not motor else 0.05
    for start, end in (
        ((rear, 0, wheel), crank),
        (crank, seat),
        (crank, bar),
        (seat, bar),
        ((rear, 0, wheel), seat),
        (bar, (front, 0, wheel)),
    ):
        b.limb(start, end, tube, frame)
    b.limb((bar[0], -half, bar[2]), (bar[0], half, bar[2]), 0.02, 0.05)
    if motor:
        b.limb((rear, 0, 0.62), (crank[0], 0, 0.5), 0.17, frame)
        b.limb((crank[0] + 0.1, 0, 0.75), (bar[0], 0, 0.85), 0.15, frame)
        b.lamp((front + 0.1, 0, 0.85), 1, 0.07, float(rng.uniform(0.6, 2.0)))
        b.lamp((rear - 0.2, 0, 0.7), -1, 0.05, 0.1, brake=True)
    elif rng.uniform() < 0.7:
        b.lamp((front, 0, 0.9), 1, 0.03, float(rng.uniform(0.1, 0.5)))
        b.lamp((rear - 0.1, 0, 0.7), -1, 0.03, 0.05)
    riders = 2 if motor and rng.uniform() < 0.15 else 1
    for r in range(riders):
        hip = (seat[0] - 0.4 * r, 0.0, seat[2] + 0.05)
        lean = float(rng.uniform(0.1, 0.7)) if r == 0 else 0.1
        torso = _person(b, hip, scale, lean, rng, helmet=motor or rng.uniform() < 0.5)
        top, skin, _ = torso["sleeve"]
        legs = float(rng.uniform(0.02, 0.5))
        shoulder = torso["shoulder"]
        for side, phase in ((1, 0.0), (-1, np.pi)):
            b.group()
            y = 0.12 * side
            hands = (bar[0], half * 0.8 * side, bar[2]) if r == 0 else (hip[0] + 0.3, 0.15 * side, hip[2] + 0.2)
            bent = (0.5 * (shoulder[0] + hands[0]), 0.22 * side, 0.5 * (shoulder[2] + hands[2]) - 0.08)
            b.limb((shoulder[0], 0.19 * side * scale, shoulder[2]), bent, 0.05 * scale, top)
            b.limb(bent, hands, 0.04 * scale, skin if rng.uniform() < 0.5 else top)
            b.group()
            swing = (0.0, 0.0, 0.0) if motor else (0.35, 2 * np.pi / 5.0, phase)  # a turn of the crank in 5 m
            thigh = b.hinge(hip, bend=-1.05 if not motor else -1.3, swing=swing)
            knee_z = hip[2] - 0.44 * scale
            shin = b.hinge((hip[0], 0, knee_z), thigh, bend=1.15, swing=(0.7 * swing[0], swing[1], phase + 1.0))
            b.at(thigh)
            b.limb((hip[0], y, hip[2]), (hip[0], y, knee_z), 0.08 * scale, legs)
            b.at(shin)
            b.limb((hip[0], y, knee_z), (hip[0], y, knee_z - 0.42 * scale), 0.055 * scale, legs)
            b.at(-1)


def _wheelchair(b: _Builder, length: float, width: float, height: float, rng: np.random.Generator) -> None:
    """A person who sits in a wheelchair and pushes its wheels."""
    half, seat, frame = width / 2, 0.5, _paint(rng)
    for side in (1, -1):
        b.group()
        b.ring((-0.1, half * side, 0.3), 0.28, 0.05, _TYRE)
        b.at(b.hinge((-0.1, half * side, 0.3), turn=1 / 0.3))
        for k in range(4):
            c, s = 0.28 * np.cos(np.pi * k / 4), 0.28 * np.sin(np.pi * k / 4)
            b.limb((-0.1 - c, half * side, 0.3 - s), (-0.1 + c, half * side, 0.3 + s), 0.006, 0.4)
        b.at(-1)
        b.disc((0.35, 0.7 * half * side, 0.09), 0.09, _TYRE, side)
    b.group()
    b.sheet([(-0.25, -half, seat), (0.2, -half, seat), (0.2, half, seat), (-0.25, half, seat)], frame * 0.5)
    b.sheet([(-0.25, -half, seat), (-0.25, half, seat), (-0.33, half, 0.98), (-0.33, -half, 0.98)], frame)
    scale = (height - seat) / 0.86
    torso = _person(b, (-0.15, 0, seat + 0.1), scale, 0.05, rng)
    top, skin, _ = torso["sleeve"]
    shoulder, legs = torso["shoulder"], float(rng.uniform(0.02, 0.5))
    rate = 2 * np.pi / 1.2
    for side in (1, -1):
        b.group()
        y = 0.22 * side * scale
        arm = b.hinge(shoulder, swing=(0.5, rate, 0.0))
        b.at(arm)
        b.limb((shoulder[0], y, shoulder[2]), (shoulder[0] - 0.08, half * side, shoulder[2] - 0.27), 0.05 * scale, top)
        b.limb((shoulder[0] - 0.08, half * side, shoulder[2] - 0.27), (0.1, half * side, seat + 0.1), 0.04, skin)
        b.at(-1)
        b.group()
        b.limb((-0.1, 0.1 * side, seat + 0.1), (0.35, 0.1 * side, seat + 0.08), 0.08 * scale, legs)
        b.limb((0.35, 0.1 * side, seat + 0.08), (0.45, 0.1 * side, 0.15), 0.06 * scale, legs)
