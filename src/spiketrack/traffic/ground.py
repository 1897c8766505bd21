"""Ground: how roads and the sky look, as the tables of numbers that `ground_kernels` paints.

Station: in come a layout, a light and a generator of random numbers, out go albedos, and roads with their markings.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from spiketrack.traffic.layout import Layout, Road
from spiketrack.traffic.light import Light


def draw_tones(rng: np.random.Generator) -> NDArray[np.float64]:
    """(16,) albedos and textures of the ground."""
    turf = rng.random() < 0.6
    asphalt = rng.uniform(0.08, 0.2)
    tones = np.zeros(16)
    tones[:11] = [
        asphalt, rng.uniform(0.5, 0.8), rng.uniform(0.22, 0.36), rng.uniform(0.36, 0.5),
        rng.uniform(0.1, 0.17) if turf else rng.uniform(0.15, 0.3), rng.uniform(0.4, 1.3), rng.uniform(0, 0.6),
        rng.choice([0.0, 0.1, 0.25]), rng.choice([0.4, 0.6, 1.0]), rng.uniform(150, 500), float(turf),
    ]  # fmt: skip
    return tones


def draw_sky(light: Light, rng: np.random.Generator) -> NDArray[np.float64]:
    """(10,) the light as the kernels want it."""
    sky = np.zeros(10)
    ambient, sun = light.ambient, light.sun * light.sun_direction[2]
    zenith, horizon = {"day": (0.9, 1.7), "dusk": (0.8, 2.5), "night": (0.15, 0.6)}[light.daytime]
    clouds = rng.uniform(0.0, 0.3)
    sky[:7] = [
        ambient, sun, ambient * zenith * rng.uniform(0.7, 1.3), ambient * horizon * rng.uniform(0.8, 1.2), clouds,
        0.3 * ambient + 0.06 * sun, 0.5 * ambient + 0.1 * sun,
    ]  # fmt: skip
    return sky


def paint_roads(
    layout: Layout, tones: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Roads (N, 16), strips (N, 4), lines (N, 6) and bars (N, 7) as in `ground_kernels`."""
    roads, strips, lines, bars = [], [], [], []
    white, asphalt = tones[1], tones[0]
    red = float(np.clip(asphalt * rng.choice([0.7, 1.35, 1.6]), 0.06, 0.3))
    bed, rail, has_edges = float(rng.choice([asphalt, 0.24])), float(rng.choice([0.05, 0.35])), rng.random() < 0.7
    for number, road in enumerate(layout.roads):
        row = np.zeros(16)
        # a road that ends in another's way stops there, all others go on beyond what traffic uses
        start, end = 0.0, road.length
        others = [other for other in layout.roads if other is not road]
        for s in (0.0, road.length):
            at = road.place(s, 0.0)
            if all(is_outside(other, at, 4.0) for other in others):
                start, end = (start - 300.0, end) if s == 0 else (start, end + 300.0)
        row[:8] = [
            *road.start, np.cos(road.heading), np.sin(road.heading), start, end, road.half_width,
            road.half_width + road.pavement,
        ]  # fmt: skip
        roads.append(row)
        lanes = sorted(road.lanes, key=lambda lane: lane.offset)
        for lane in lanes:
            low, high = lane.offset - lane.width / 2, lane.offset + lane.width / 2
            if lane.kind == "bicycle":
                strips.append((number, low, high, red))
            elif lane.kind == "tram":
                strips.append((number, low, high, bed))
                lines += [(number, lane.offset + side * 0.75, 0.04, 0.0, 0.0, rail) for side in (-1, 1)]
        for right, left in itertools.pairwise(lanes):
            a, b = right.offset + right.width / 2, left.offset - left.width / 2
            if b - a > 0.3:  # a painted island
                lines += [(number, a, 0.06, 0.0, 0.0, white), (number, b, 0.06, 0.0, 0.0, white)]
                continue
            period = 0.0
            if right.kind == left.kind == "car" and (right.direction == left.direction or len(lanes) < 4):
                period = 9.0
            lines.append((number, (a + b) / 2, 0.06, period, 3.0, white))
        if has_edges and lanes:
            outer = (lanes[0].offset - lanes[0].width / 2, lanes[-1].offset + lanes[-1].width / 2)
            lines += [
                (number, side * min(abs(at), road.half_width - 0.15), 0.07, 0.0, 0.0, white)
                for side, at in zip((-1, 1), outer, strict=True)
            ]
        half = road.half_width - 0.25
        for s in road.crossings:
            ends = (s - road.crossing_width / 2, s + road.crossing_width / 2)
            bars.append((number, *ends, -half, half, 1.0, white))
        for s, direction in road.stop_lines:
            same = [lane for lane in lanes if lane.direction == direction and lane.kind != "tram"]
            if same:
                low, high = same[0].offset - same[0].width / 2, same[-1].offset + same[-1].width / 2
                bars.append((number, s - 0.2, s + 0.2, low + 0.1, high - 0.1, 0.0, white))
    return (
        np.array(roads, np.float64).reshape(-1, 16),
        np.array(strips, np.float64).reshape(-1, 4),
        np.array(lines, np.float64).reshape(-1, 6),
        np.array(bars, np.float64).reshape(-1, 7),
    )


def is_outside(road: Road, points: NDArray[np.float64], margin: float, only_carriageway: bool = False) -> bool:
    """Whether all points lie farther than `margin` beyond a road's pavement, or carriageway."""
    s, left = np.moveaxis(road.local(points), -1, 0)
    edge = road.half_width + (0.0 if only_carriageway else road.pavement) + margin
    return bool(((np.abs(left) > edge) | (s < -margin) | (s > road.length + margin)).all())
