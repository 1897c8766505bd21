"""Vehicle bodies: cars, buses, trams and trucks.

Station: inside `bodies`. In come a builder, a size in metres and a random generator; out goes what they add to it.
"""

from __future__ import annotations

import numpy as np

from spiketrack.traffic.body_parts import TYRE, BodyBuilder, paint_of


def _wheel(b: BodyBuilder, x: float, half_width: float, size: float, rng: np.random.Generator) -> None:
    """A wheel on either side, tyre, rim and spokes."""
    rim, spokes = float(rng.uniform(0.15, 0.6)), int(rng.choice((3, 4, 5)))
    hinge = b.hinge((x, 0, size), turn=1 / size)
    for side in (1, -1):
        y = side * (half_width + 0.01)
        b.disc((x, y, size), size, TYRE, side)
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


def _lamps(b: BodyBuilder, length: float, width: float, z: float, rng: np.random.Generator) -> None:
    head, tail = float(rng.uniform(0.6, 2.5)), float(rng.uniform(0.05, 0.2))
    for side in (1, -1):
        b.lamp((length / 2 + 0.03, side * 0.38 * width, z), 1, 0.07, head)
        b.lamp((-length / 2 - 0.03, side * 0.4 * width, z + 0.1), -1, 0.07, tail, brake=True)


def add_car(b: BodyBuilder, length: float, width: float, height: float, rng: np.random.Generator) -> None:
    paint, glass = paint_of(rng), float(rng.uniform(0.02, 0.25))
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


def add_coach(
    b: BodyBuilder, length: float, width: float, height: float, rng: np.random.Generator, rails: bool
) -> None:
    """A bus, or a tram: one or several bodies with rows of windows."""
    paint, second = paint_of(rng), paint_of(rng)
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


def add_truck(b: BodyBuilder, length: float, width: float, height: float, rng: np.random.Generator) -> None:
    cab, load = paint_of(rng), float(rng.choice((paint_of(rng), rng.uniform(0.5, 0.8))))
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
            b.on(cargo[side], (u, u + float(rng.uniform(0.2, 0.5))), (0.3, 0.75), paint_of(rng), side)
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
