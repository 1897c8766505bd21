"""People's bodies: pedestrians, riders of bicycles and motorbikes, people in wheelchairs.

Station: inside `bodies`. In come a builder, a size in metres and a random generator; out goes what they add to it.
"""

from __future__ import annotations

import numpy as np

from spiketrack.traffic.body_parts import JOINTS, TYRE, BodyBuilder, Point, paint_of

_SKIN_RANGE = 0.12, 0.55  # albedo


def _person(
    b: BodyBuilder, hip: Point, scale: float, lean: float, rng: np.random.Generator, helmet: bool = False
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


def add_pedestrian(b: BodyBuilder, height: float, rng: np.random.Generator) -> None:
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


def add_two_wheeler(
    b: BodyBuilder, length: float, width: float, height: float, rng: np.random.Generator, motor: bool
) -> None:
    """A bicycle whose rider pedals, or a motorbike with one or two on it."""
    wheel = 0.31 if motor else 0.34
    front, rear = length / 2 - wheel, -length / 2 + wheel
    frame, half = paint_of(rng), width / 2
    scale = (height - 0.1) / 1.65
    for x in (rear, front):
        b.group()
        if motor:
            hub = float(rng.uniform(0.2, 0.5))
            for side in (1, -1):
                b.disc((x, 0.06 * side, wheel), wheel, TYRE, side)
                b.disc((x, 0.065 * side, wheel), 0.55 * wheel, hub, side)
        else:
            b.ring((x, 0, wheel), wheel - 0.02, 0.05, TYRE)
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


def add_wheelchair(b: BodyBuilder, length: float, width: float, height: float, rng: np.random.Generator) -> None:
    """A person who sits in a wheelchair and pushes its wheels."""
    half, seat, frame = width / 2, 0.5, paint_of(rng)
    for side in (1, -1):
        b.group()
        b.ring((-0.1, half * side, 0.3), 0.28, 0.05, TYRE)
        b.at(b.hinge((-0.1, half * side, 0.3), turn=1 / 0.3))
        for k in range(4):
            c, s = 0.28 * np.cos(np.pi * k / 4), 0.28 * np.sin(np.pi * k / 4)
            b.limb((-0.1 - c, half * side, 0.3 - s), (-0.1 + c, half * side, 0.3 + s), 0.006, 0.4)
        b.at(-1)
        b.disc((0.35, 0.7 * half * side, 0.09), 0.09, TYRE, side)
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
