"""Surroundings: the picture of everything in a street that neither drives nor walks.

Station: a layout, a light, a first camera and a seed come in; out come pictures (H, W) for any camera: the linear
intensity, the albedo and the depth, and apart from these the light of street lamps. Everything is planned once, fixed
to the world, so that cameras at all places see the same street; leaves move in the wind as a function of time alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spiketrack.traffic.camera import NEAREST_M, Camera
from spiketrack.traffic.layout import Layout, Road
from spiketrack.traffic.light import Light

STREAM = 4201
Point = tuple[float, float]
Region = tuple[int, int, int, int]

_PLAIN, _FACADE, _FENCE, _SIGN, _CAR_SIDE, _SIGNAL = range(6)
TILE = 16  # pixels
_MAP_CELLS = 1_500_000  # bound of the memory of the map of sun and lamps
_STILL_PX = 0.08  # a tree whose leaves move less is not drawn again


class Surroundings:
    """A street that can be looked at. seed: all that is random follows from it."""

    def __init__(self, layout: Layout, light: Light, camera: Camera, seed: Sequence[int]) -> None:
        rng = np.random.default_rng([*seed, STREAM])
        self._light = light
        self._table = rng.uniform(-1, 1, (256, 256)).astype(np.float32)
        self._tones = _tones(rng)
        self.marking, self.asphalt = float(self._tones[1]), float(self._tones[0])  # albedos
        self._sky = _sky(light, rng)
        self._roads, self._strips, self._lines, self._bars = _paint(layout, self._tones, rng)
        street = _Street(layout, light, camera, rng)
        street.build()
        self._panels = np.array(street.panels, np.float64).reshape(-1, 32)
        self._rods = np.array(street.rods, np.float64).reshape(-1, 10)
        self._trees = np.array(street.trees, np.float64).reshape(-1, 6)
        self._winds = np.array(street.winds, np.float64).reshape(-1, 8)
        self._leaves = np.concatenate([np.zeros((0, 8)), *street.leaves])
        self._bulbs = np.array(street.bulbs, np.float64).reshape(-1, 5)
        self._maps, self._frame = self._shade(layout, street)
        self._camera: Camera | None = None
        self._lamp = np.zeros((0, 0), np.float32)
        self._bare = self._lamp  # intensity and depth without leaves, of the last camera
        self._bare_depth = self._lamp
        self._stirred: list[Region] = []
        self._stirred_tiles = np.zeros((0, 0), np.bool_)

    def _shade(self, layout: Layout, street: _Street) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """The map (N, M, 2) of the share of the sun and the light of lamps on the ground, and where it lies."""
        from spiketrack.traffic import ground_kernels as kernels

        ends = np.concatenate([road.place([0.0, road.length], [0.0, 0.0]) for road in layout.roads])
        low, high = ends.min(0) - 45.0, ends.max(0) + 45.0
        step = max(0.2, float(np.sqrt(np.prod(high - low) / _MAP_CELLS)))
        columns, rows = (np.ceil((high - low) / step)).astype(int) + 1
        maps = np.zeros((rows, columns, 2), np.float32)
        maps[..., 0] = 1
        frame = np.array([low[0], low[1], step])
        if self._light.sun > 0:
            way = -np.array(self._light.sun_direction[:2]) / max(self._light.sun_direction[2], 0.1)
            blocks = [(*wall[:4], *(wall[4] * way)) for wall in street.walls]
            kernels.cast_blocks(maps, frame, np.array(blocks, np.float64).reshape(-1, 6))
            leaves, rods = self._leaves, self._rods
            middles = leaves[:, :2] + leaves[:, 2:3] * way
            discs = np.column_stack([middles, middles, 1.15 * leaves[:, 3], np.full(len(leaves), 0.75)])
            a, b = rods[:, :2] + rods[:, 2:3] * way, rods[:, 3:5] + rods[:, 5:6] * way
            thick = 0.5 * (rods[:, 6:7] + rods[:, 7:8])
            bars = np.concatenate([a, b, thick, np.full((len(rods), 1), 0.9)], axis=1)
            kernels.cast_shadows(maps, frame, np.concatenate([discs, bars]))
        if len(self._bulbs):
            kernels.shine_lamps(maps, frame, self._bulbs, np.array(street.at_foot))
        return maps, frame

    def draw(
        self,
        camera: Camera,
        intensity: NDArray[np.float32],
        albedo: NDArray[np.float32],
        depth: NDArray[np.float32],
        quick: bool = False,
    ) -> None:
        """Fill the pictures (H, W) in place, at the time 0 of the wind.

        intensity: linear, without the light of street lamps. albedo: of ground and walls, 0 in the sky. depth: camera z
        in metres of what stands and can hide actors, inf on the ground and in the sky. quick: one sample a pixel
        instead of 2 x 2.
        """
        from spiketrack.traffic import ground_kernels as kernels

        if intensity.shape != (camera.height, camera.width):
            raise ValueError(f"pictures must have the camera's {(camera.height, camera.width)}, got {intensity.shape}")
        lamp = np.empty_like(intensity)
        if quick:
            self._draw_bare(_numbers(camera, 1), intensity, albedo, lamp, depth)
        else:
            shape = (2 * camera.height, 2 * camera.width)
            fine = [np.empty(shape, np.float32) for _ in range(4)]
            self._draw_bare(_numbers(camera, 2), *fine)
            for one, coarse in zip(fine, (intensity, albedo, lamp), strict=False):
                kernels.halve(one, coarse)
            kernels.halve_depth(fine[3], depth)
        behind = depth.copy()
        nothing = np.zeros((0, 0), np.float32)  # a moving camera is not stirred: it needs no copy
        self._bare, self._bare_depth = (nothing, nothing) if quick else (intensity.copy(), behind)
        tiles = np.ones((-(-camera.height // TILE), -(-camera.width // TILE)), np.bool_)
        self._draw_leaves(camera, 0, tiles, behind, intensity, albedo, lamp, depth, True)
        if len(self._bulbs):
            kernels.paint_bulbs(_numbers(camera, 1), self._bulbs, lamp, depth)
        self._camera, self._lamp = camera, lamp
        if not quick:
            self._plan_stirring(camera)

    def _draw_bare(
        self,
        numbers: NDArray[np.float64],
        intensity: NDArray[np.float32],
        albedo: NDArray[np.float32],
        lamp: NDArray[np.float32],
        depth: NDArray[np.float32],
    ) -> None:
        """All but leaves and bulbs."""
        from spiketrack.traffic import ground_kernels as kernels

        pictures = (intensity, albedo, lamp)
        for picture in pictures:
            picture.fill(0)
        depth.fill(np.inf)
        free, front = np.ones_like(depth), np.full_like(depth, np.inf)
        ground = (self._roads, self._strips, self._lines, self._bars)
        shade = (self._table, self._maps, self._frame)
        panels, rods, light = self._panels, self._rods, (self._tones, self._sky)
        middles = panels[:, :3] + 0.5 * (panels[:, 3:6] * panels[:, 9:10] + panels[:, 6:9] * panels[:, 10:11])
        order = _far_to_near(numbers, middles)[::-1].copy()
        kernels.paint_panels(numbers, panels, order, *light, *shade, *pictures, depth, free, front)
        kernels.paint_ground(numbers, *light, *ground, *shade, *pictures, free)
        order = _far_to_near(numbers, 0.5 * (rods[:, :3] + rods[:, 3:6]))
        kernels.paint_rods(numbers, rods, order, self._maps, self._frame, *pictures, depth)

    def _draw_leaves(
        self,
        camera: Camera,
        t_us: int,
        tiles: NDArray[np.bool_],
        behind: NDArray[np.float32],
        intensity: NDArray[np.float32],
        albedo: NDArray[np.float32],
        lamp: NDArray[np.float32],
        depth: NDArray[np.float32],
        is_full: bool,
    ) -> None:
        """Leaves on the tiles, where the wind has them at t_us."""
        from spiketrack.traffic import ground_kernels as kernels

        numbers = _numbers(camera, 1)
        trees = self._trees
        order = _far_to_near(numbers, trees[:, :3])
        moves = _moves(self._winds, t_us)
        pictures = (behind, intensity, albedo, lamp, depth)
        kernels.paint_leaves(numbers, trees, order, moves, self._leaves, self._table, tiles, *pictures, is_full)

    def _plan_stirring(self, camera: Camera) -> None:
        """Find the tiles on which trees are seen to move."""
        trees, winds = self._trees, self._winds
        tiles = np.zeros((-(-camera.height // TILE), -(-camera.width // TILE)), np.bool_)
        for tree, amplitude in zip(trees, winds[:, 0], strict=True):
            leaves = self._leaves[int(tree[4]) : int(tree[5])]
            seen = camera.to_camera(leaves[:, :3])
            reach = 3.2 * amplitude
            # the ball in which a leaf moves, against the sides of the view
            ball = reach + leaves[:, 3] + 2 * np.maximum(seen[:, 2], 0) / camera.focal_px
            in_front = seen[:, 2] + reach > 2 * NEAREST_M
            for axis, size in ((0, camera.width / 2), (1, camera.height / 2)):
                beyond = np.abs(seen[:, axis]) * camera.focal_px - seen[:, 2] * size
                in_front &= beyond < ball * np.hypot(camera.focal_px, size)
            if not in_front.any():
                continue
            x, y, z = seen[in_front].T
            near = np.maximum(z - reach, 2 * NEAREST_M)
            if amplitude * camera.focal_px / near.min() < _STILL_PX:
                continue
            cx, cy = camera.width / 2 + camera.focal_px * x / z, camera.height / 2 + camera.focal_px * y / z
            slant = np.hypot(x, y) / near
            ring = camera.focal_px * (reach * (1 + slant) + leaves[in_front, 3]) / near + 2
            # a leaf nearer than its way may be anywhere
            ring = np.where(z > 2 * reach + 2 * NEAREST_M, ring, 1e6)
            for left, top, right, bottom in zip(cx - ring, cy - ring, cx + ring, cy + ring, strict=True):
                if right > 0 and bottom > 0 and left < camera.width and top < camera.height:
                    rows = slice(int(max(top, 0)) // TILE, int(min(bottom, camera.height)) // TILE + 1)
                    tiles[rows, int(max(left, 0)) // TILE : int(min(right, camera.width)) // TILE + 1] = True
        self._stirred, self._stirred_tiles = _rectangles(tiles, camera.width, camera.height), tiles

    def stir(self, t_us: int, camera: Camera, intensity: NDArray[np.float32]) -> list[Region]:
        """Re-draw in place what the wind moves, for a camera that stands still; a function of t_us alone.

        intensity: the picture (H, W) that `draw` filled. Returns the regions (left, top, right, bottom), right and
        bottom exclusive, that may have changed.
        """
        if self._camera != camera or self._bare.shape != intensity.shape:
            self.draw(camera, intensity, np.empty_like(intensity), np.empty_like(intensity))
        for left, top, right, bottom in self._stirred:
            part = np.s_[top:bottom, left:right]
            intensity[part] = self._bare[part]
        if self._stirred:
            pictures = (intensity, self._lamp, self._lamp, self._bare_depth)
            self._draw_leaves(camera, t_us, self._stirred_tiles, self._bare_depth, *pictures, False)
        return list(self._stirred)

    def lamp_light(self, camera: Camera) -> NDArray[np.float32]:
        """The light of street lamps (H, W): the bulbs, and what they shine on; it flickers as a whole."""
        if not self._light.lamps:
            return np.zeros((camera.height, camera.width), np.float32)
        if self._camera != camera:
            pictures = [np.empty((camera.height, camera.width), np.float32) for _ in range(3)]
            self.draw(camera, *pictures, quick=True)
        return self._lamp.copy()


def _numbers(camera: Camera, samples: int) -> NDArray[np.float64]:
    """(16,) as the kernels want it; samples: per pixel and side."""
    numbers = np.zeros(16)
    numbers[:3], numbers[3:12] = camera.position, camera.rotation().ravel()
    numbers[12:15] = np.array([camera.focal_px, camera.width / 2, camera.height / 2]) * samples
    return numbers


def _far_to_near(numbers: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(-((points - numbers[:3]) @ numbers[9:12]), kind="stable")


def _rectangles(tiles: NDArray[np.bool_], width: int, height: int) -> list[Region]:
    """The set tiles as rectangles in pixels, none of which overlap."""
    done: list[Region] = []
    running: dict[tuple[int, int], int] = {}  # columns of a rectangle that is still growing: its first row
    for row in range(len(tiles) + 1):
        steps = np.flatnonzero(np.diff(tiles[row].astype(np.int8), prepend=0, append=0)) if row < len(tiles) else []
        runs = {(int(a), int(b)) for a, b in zip(steps[::2], steps[1::2], strict=True)}
        for run in [run for run in running if run not in runs]:
            right, bottom = min(run[1] * TILE, width), min(row * TILE, height)
            done.append((run[0] * TILE, running.pop(run) * TILE, right, bottom))
        for run in sorted(runs):
            running.setdefault(run, row)
    return done


def _moves(winds: NDArray[np.float64], t_us: int) -> NDArray[np.float64]:
    """(N, 4): push of each tree in x, y, z (metres) and the angle of its leaves' flutter, at a time.

    winds (N, 8): amplitude m, swing Hz, swing phase, gust Hz, gust phase, wind x, wind y, flutter Hz.
    """
    t = t_us * 1e-6
    a, hertz, phase, gust_hertz, gust_phase, wx, wy, flutter = winds.T
    gust = 0.15 + 0.85 * (0.5 + 0.5 * np.sin(2 * np.pi * gust_hertz * t + gust_phase)) ** 2
    swing = np.sin(2 * np.pi * hertz * t + phase) + 0.35 * np.sin(2 * np.pi * 2.3 * hertz * t + 1.7 * phase)
    push = a * gust * (0.5 + 0.6 * swing)
    lift = 0.3 * a * gust * np.sin(2 * np.pi * 1.4 * hertz * t + 2.1 * phase)
    return np.column_stack([push * wx, push * wy, lift, 2 * np.pi * flutter * t + 1e-9])


def _tones(rng: np.random.Generator) -> NDArray[np.float64]:
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


def _sky(light: Light, rng: np.random.Generator) -> NDArray[np.float64]:
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


def _paint(
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
            if all(_outside(other, at, 4.0) for other in others):
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


def _outside(road: Road, points: NDArray[np.float64], margin: float, only_carriageway: bool = False) -> bool:
    """Whether all points lie farther than `margin` beyond a road's pavement, or carriageway."""
    s, left = np.moveaxis(road.local(points), -1, 0)
    edge = road.half_width + (0.0 if only_carriageway else road.pavement) + margin
    return bool(((np.abs(left) > edge) | (s < -margin) | (s > road.length + margin)).all())


@dataclass
class _Street:
    """The plan: tables of panels, rods, trees and bulbs, filled by `build`."""

    layout: Layout
    light: Light
    camera: Camera
    rng: np.random.Generator
    panels: list[NDArray[np.float64]] = field(default_factory=list)
    rods: list[tuple[float, ...]] = field(default_factory=list)
    trees: list[tuple[float, ...]] = field(default_factory=list)
    winds: list[tuple[float, ...]] = field(default_factory=list)
    leaves: list[NDArray[np.float64]] = field(default_factory=list)
    bulbs: list[tuple[float, ...]] = field(default_factory=list)
    at_foot: list[float] = field(default_factory=list)
    walls: list[tuple[float, ...]] = field(default_factory=list)  # corner, edge (x, y each), height: for shadows
    hidden: float = 0.0

    def build(self) -> None:
        """Plan everything; each road's sides one after the other."""
        rng = self.rng
        style = rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])  # town, avenue, suburb, open country
        self.built = float((0.92, 0.75, 0.6, 0.15)[style])
        self.green = float((0.35, 0.9, 0.7, 0.8)[style])
        self.storeys = ((3, 7), (3, 6), (2, 3), (2, 3))[style]
        self.contrast = float(rng.uniform(0.15, 1.0))
        self.wind = float(np.exp(rng.uniform(np.log(0.05), np.log(4.0))))  # pixels, of a tree in the middle distance
        bearing = rng.uniform(0, 2 * np.pi)
        self.blows = (float(np.cos(bearing)), float(np.sin(bearing)))
        self.targets = self._targets()
        for road in self.layout.roads:
            lamps = int(rng.integers(3))  # on the left, on the right, on both sides
            spacing, high = float(rng.uniform(20, 34)), float(rng.uniform(5.5, 9.0))
            for side in (-1, 1):
                self._buildings(road, side)
                self._trees_along(road, side)
                if self.light.lamps or rng.random() < 0.7:
                    self._lamps(road, side, spacing * rng.uniform(0.95, 1.05), high, lamps in (2, (side + 1) // 2))
                self._furniture(road, side)
                self._parked(road, side)
            self._signals(road)
            self._wires(road)
        if self.camera.position[2] > 2.5:
            self._foreground()

    def _targets(self) -> NDArray[np.float64]:
        """(N, 3) points on the lanes and pavements that the camera looks at: little may hide them."""
        points = [np.zeros((0, 3))]
        for road in self.layout.roads:
            edge = road.half_width + road.pavement / 2
            lefts = [-edge, *(lane.offset for lane in road.lanes), edge]
            s, left = np.meshgrid(np.arange(0.0, road.length, 3.0), lefts)
            ground = road.place(s.ravel(), left.ravel())
            points.append(np.column_stack([ground, np.full(len(ground), 0.8)]))
        world = np.concatenate(points)
        pixels, depth = self.camera.project(world)
        inside = (depth > 1) & (depth < 65)
        inside[inside] &= ((pixels[inside] > 0) & (pixels[inside] < (self.camera.width, self.camera.height))).all(-1)
        return world[inside]

    def _hides(self, road: Road, low: Sequence[float], high: Sequence[float]) -> float:
        """Share of the targets that a box in the coordinates (s, left, z) of a road hides."""
        if not len(self.targets):
            return 0.0
        eye = np.array([*road.local(self.camera.position[:2]), self.camera.position[2]])
        ways = np.column_stack([road.local(self.targets), self.targets[:, 2]]) - eye
        ways = np.where(np.abs(ways) < 1e-9, 1e-9, ways)
        a, b = (np.asarray(low) - eye) / ways, (np.asarray(high) - eye) / ways
        enter, leave = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
        return float(((enter < leave) & (leave > 0) & (enter < 1)).mean())

    def _free(self, points: NDArray[np.float64], margin: float, only_carriageway: bool = False) -> bool:
        return all(_outside(road, points, margin, only_carriageway) for road in self.layout.roads)

    def _panel(
        self,
        corner: ArrayLike,
        u: ArrayLike,
        v: ArrayLike,
        albedo: float,
        kind: int = _PLAIN,
        details: Sequence[float] = (),
        texture: float = 0.3,
        one_sided: bool = True,
    ) -> None:
        """A rectangle from a corner along the edges u and v (metres); its normal is u x v."""
        row = np.zeros(32)
        width, height = float(np.linalg.norm(u)), float(np.linalg.norm(v))
        unit_u, unit_v = np.asarray(u) / width, np.asarray(v) / height
        normal = np.cross(unit_u, unit_v)
        row[:3], row[3:6], row[6:9], row[9], row[10], row[11:14] = corner, unit_u, unit_v, width, height, normal
        sun = float(normal @ self.light.sun_direction)
        bright = self.light.ambient * (0.75 + 0.25 * normal[2]) + self.light.sun * max(sun, 0.0)
        if not one_sided:
            bright = self.light.ambient * 0.75 + self.light.sun * 0.5 * abs(sun)
        row[14:17] = albedo, kind, bright
        row[17 : 17 + len(details)] = details
        row[24], row[26], row[27] = float(self.rng.integers(1000)), texture, float(one_sided)
        self.panels.append(row)

    def _box(
        self,
        road: Road,
        low: Sequence[float],
        high: Sequence[float],
        albedo: float,
        kind: int = _PLAIN,
        details: Sequence[float] = (),
        roof: float | None = None,
    ) -> None:
        """A block in the coordinates (s, left, z) of a road: four walls and a roof; a shadow."""
        (s0, l0, z0), (s1, l1, z1) = low, high
        corners = road.place([s0, s1, s1, s0], [l0, l0, l1, l1])
        for k in range(4):
            a, b = corners[k], corners[(k + 1) % 4]
            on_wall = kind if k % 2 == 0 or kind == _FACADE else _PLAIN
            edge, tall = (*(b - a), 0.0), (0.0, 0.0, z1 - z0)
            self._panel((*a, z0), edge, tall, albedo, on_wall, details, 0.6 * self.contrast)
            if z0 < 0.5 and z1 > 1.0:
                self.walls.append((*a, *(b - a), z1))
        side, across = corners[1] - corners[0], corners[3] - corners[0]
        self._panel((*corners[0], z1), (*side, 0.0), (*across, 0.0), albedo if roof is None else roof)

    def _buildings(self, road: Road, side: int) -> None:
        rng, s = self.rng, -20.0
        edge = road.half_width + road.pavement
        setback = float(rng.uniform(0.3, 2.0) if self.built > 0.7 else rng.uniform(3.0, 9.0))
        lit, glow = {"day": (0.0, 0.0), "dusk": (0.3, 0.12), "night": (0.3, 0.07)}[self.light.daytime]
        lit *= float(rng.uniform(0.3, 1.4))
        while s < road.length + 20:
            width, deep = float(rng.uniform(8, 24)), float(rng.uniform(8, 13))
            floor, storeys = float(rng.uniform(2.8, 3.5)), int(rng.integers(self.storeys[0], self.storeys[1] + 1))
            back, gap = setback + float(rng.uniform(0, 1.2)), float(rng.choice([0.0, 0.0, 2.0, 6.0]))
            has_shops = rng.random() < 0.4
            albedo = float(rng.uniform(0.15, 0.6))
            pitch = width / max(2, round(width / rng.uniform(2.2, 4.0)))
            first = 3.8 if has_shops else 0.0
            high = first + storeys * floor + 0.8
            details = (
                pitch, floor, rng.uniform(0.3, 0.6), rng.uniform(0.45, 0.65), first, lit * rng.uniform(0.3, 1.5),
                glow * rng.uniform(0.4, 1.6), 0.0, rng.uniform(0.1, 0.6),
            )  # fmt: skip
            build = rng.random() < self.built
            near, far = side * (edge + back), side * (edge + back + deep)
            low = (s, min(near, far), 0.0)
            up = (s + width, max(near, far), high)
            grid = np.meshgrid(np.linspace(s, s + width, 9), np.linspace(near, far, 6))
            clear = self._free(road.place(*grid).reshape(-1, 2), 0.2)
            eye = np.array([*road.local(self.camera.position[:2]), self.camera.position[2]])
            away = np.linalg.norm(np.maximum(0.0, np.maximum(np.array(low) - eye, eye - np.array(up))))
            if build and clear and away > 4.0 and self._hides(road, low, up) < 0.03:
                self._box(road, low, up, albedo, details=details, kind=_FACADE, roof=float(rng.uniform(0.08, 0.3)))
            s += width + gap

    def _trees_along(self, road: Road, side: int) -> None:
        rng, s = self.rng, float(self.rng.uniform(-10, 5))
        edge = road.half_width + road.pavement
        spacing = float(rng.uniform(7, 16))
        off = edge + 0.6 if road.pavement < 2 or rng.random() < 0.5 else road.half_width + 0.7
        size = float(rng.uniform(0.7, 1.3))
        while s < road.length + 10:
            s += spacing * float(rng.uniform(0.8, 1.3))
            at = road.place(s, side * (off + rng.uniform(-0.1, 0.3)))
            if rng.random() < self.green:
                radius = float(size * rng.uniform(1.3, 2.3))
                self._tree(at, radius, float(size * rng.uniform(2.4, 3.6)) + radius)
            if rng.random() < 0.35 * self.green:
                at = road.place(s + rng.uniform(2, 5), side * (edge + rng.uniform(1.0, 5.0)))
                radius = float(rng.uniform(0.4, 0.9))
                self._tree(at, radius, 0.75 * radius)

    def _tree(self, at: NDArray[np.float64], radius: float, high: float) -> None:
        """A crown of leaves around `high` metres, on a trunk where it is off the ground."""
        middle = np.array([*at, high])
        eye = np.asarray(self.camera.position)
        if np.linalg.norm(middle - eye) < 1.6 * radius + 2.5 or not self._free(at[None], 0.5, True):
            return
        ways = self.targets - eye
        share = np.clip(((middle - eye) * ways).sum(1) / np.maximum((ways * ways).sum(1), 1e-9), 0, 1)
        hit = np.linalg.norm(eye + share[:, None] * ways - middle, axis=1) < 1.15 * radius
        hides = float(hit.mean()) if len(hit) else 0.0
        if hides > 0.08 or self.hidden + hides > 0.16:
            return
        self.hidden += hides
        rng = self.rng
        if high > radius:
            lean = rng.uniform(-0.3, 0.3, 2)
            top = (at[0] + lean[0], at[1] + lean[1], high)
            dark = float(rng.uniform(0.04, 0.12))
            bright = self.light.ambient * 0.5 + self.light.sun * 0.25
            thick = 0.045 * radius + 0.04
            self.rods.append((*at, 0.0, *top, 1.2 * thick, 0.6 * thick, dark, bright))
            for _ in range(4):
                way = rng.normal(size=3)
                way[2] = abs(way[2]) + 0.4
                end = middle + 0.75 * radius * way / np.linalg.norm(way)
                fork = np.array([*at, 0.0]) + (np.array(top) - (*at, 0.0)) * rng.uniform(0.6, 0.95)
                self.rods.append((*fork, *end, 0.5 * thick, 0.2 * thick, dark, bright))
        count = int(np.clip(110 * radius**1.5, 40, 420))
        self._crown(middle, radius, count, 0.16 * radius**0.5 + 0.05)

    def _crown(self, middle: NDArray[np.float64], radius: float, count: int, size: float) -> None:
        """Leaves in clumps around a middle, brighter towards the light."""
        rng = self.rng
        clumps = rng.normal(size=(9, 3))
        clumps *= (0.62 * radius * rng.uniform(0.5, 1.0, 9) / np.linalg.norm(clumps, axis=1))[:, None]
        way = rng.normal(size=(count, 3))
        way *= (0.45 * radius * rng.uniform(0.1, 1.0, count) ** 0.5 / np.linalg.norm(way, axis=1))[:, None]
        offset = (clumps[rng.integers(9, size=count)] + way) * (1.0, 1.0, 0.9)
        offset[:, 2] = np.maximum(offset[:, 2], 0.1 - middle[2])
        to_light = np.asarray(self.light.sun_direction if self.light.sun > 0 else (0.0, 0.0, 1.0))
        lit = np.clip(0.5 + 0.6 * (offset @ to_light) / radius, 0.05, 1.1)
        tone = rng.uniform(0.05, 0.13) * rng.lognormal(0.0, 0.5, count).clip(0.3, 3.0)
        bright = tone * (self.light.ambient * (0.3 + 0.7 * lit) + 1.3 * self.light.sun * lit**1.5)
        if self.light.lamps and self.bulbs:
            far = np.linalg.norm(np.array(self.bulbs)[:, :2] - middle[:2], axis=1).min()
            bright += tone * 0.012 * lit / (1 + (far / 6) ** 2) ** 2
        sizes = size * rng.uniform(0.6, 1.4, count)
        sway = np.clip((offset[:, 2] + radius) / (2 * radius), 0.1, 1.0) * rng.uniform(0.6, 1.4, count)
        first = float(sum(len(part) for part in self.leaves))
        self.leaves.append(
            np.column_stack([middle + offset, sizes, bright, sway, rng.uniform(0, 2 * np.pi, count), tone])
        )
        distance = float(np.linalg.norm(middle - self.camera.position))
        amplitude = min(self.wind * rng.uniform(0.5, 1.5) * max(distance, 5.0) / self.camera.focal_px, 0.25)
        # bound of all leaves, pushed by at most 2.1 amplitudes (gust 1, swing 1.31, sway 1.4, flutter 1.6)
        reach = float((np.linalg.norm(offset, axis=1) + sizes).max()) + 3.2 * amplitude
        self.trees.append((*middle, reach, first, first + count))
        phase = float(middle[0] * self.blows[0] + middle[1] * self.blows[1]) / 8.0  # gusts travel
        self.winds.append((
            amplitude, rng.uniform(0.3, 1.1), rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.25), phase,
            *self.blows, rng.uniform(0.8, 2.0),
        ))  # fmt: skip

    def _lamps(self, road: Road, side: int, spacing: float, high: float, has: bool) -> None:
        rng, s = self.rng, float(self.rng.uniform(0, spacing))
        arm, steel = float(rng.uniform(0.4, 2.0)), float(rng.uniform(0.15, 0.4))
        foot = float({"day": 0.0, "dusk": 0.02, "night": 0.035}[self.light.daytime] * rng.uniform(0.5, 1.6))
        while has and s < road.length:
            at, end = road.place([s, s], [side * (road.half_width + 0.5), side * (road.half_width + 0.5 - arm)])
            if self._free(at[None], 0.3, True) and np.linalg.norm(at - self.camera.position[:2]) > 2.0:
                bright = self.light.ambient * 0.6 + 0.4 * self.light.sun
                self.rods.append((*at, 0.0, *at, high, 0.09, 0.055, steel, bright))
                self.rods.append((*at, high, *end, high + 0.15, 0.05, 0.05, steel, bright))
                head = end + 0.35 * (end - at) / arm
                self.rods.append((*end, high + 0.17, *head, high + 0.17, 0.1, 0.1, steel, bright))
                if self.light.lamps:
                    self.bulbs.append((*(0.5 * (end + head)), high, 0.13, 60.0 * foot))
                    self.at_foot.append(foot)
            s += spacing

    def _post(self, at: NDArray[np.float64], high: float, radius: float, albedo: float) -> None:
        bright = self.light.ambient * 0.6 + 0.4 * self.light.sun
        self.rods.append((*at, 0.0, *at, high, radius, radius, albedo, bright))

    def _furniture(self, road: Road, side: int) -> None:
        """Signs, and a fence along a part of the road."""
        rng, edge = self.rng, road.half_width + road.pavement
        along = np.array([np.cos(road.heading), np.sin(road.heading), 0.0])
        across = np.array([-along[1], along[0], 0.0])
        for _ in range(int(rng.integers(1, 5) * road.length / 100)):
            at = road.place(rng.uniform(0, road.length), side * (road.half_width + 0.4))
            size, high = float(rng.uniform(0.5, 0.8)), float(rng.uniform(2.0, 2.6))
            if not self._free(at[None], 0.3, True) or np.linalg.norm(at - self.camera.position[:2]) < 3:
                continue
            self._post(at, high + size, 0.035, 0.35)
            # faces the traffic that comes along on this side
            corner = np.array([*at, high]) - 0.5 * size * across + 0.05 * side * along
            light = (float(rng.uniform(0.15, 0.3)), float(rng.uniform(0.4, 0.7)))
            rim, inner = light if rng.random() < 0.5 else light[::-1]
            details = (1.0, 1.0, float(rng.random() < 0.6), 0.0, 0.0, 0.0, 0.0, 0.0, inner)
            self._panel(corner, size * across, (0.0, 0.0, size), rim, _SIGN, details, 0.0, one_sided=False)
        if rng.random() < 0.45:
            start, length = float(rng.uniform(0, road.length)), float(rng.uniform(15, 50))
            off, high = side * (edge + 0.15), float(rng.uniform(0.9, 1.5))
            pitch = float(rng.choice([0.12, 0.25, 0.5]))
            s = start
            while s < min(start + length, road.length):
                ends = road.place([s, s + 5.0], [off, off])
                if self._free(ends, 0.05) and self._hides(road, (s, off, 0.0), (s + 5.0, off + 0.1, high)) < 0.02:
                    edge_way = (*(ends[1] - ends[0]), 0.0)
                    tone = float(rng.uniform(0.1, 0.4))
                    self._panel((*ends[0], 0.0), edge_way, (0.0, 0.0, high), tone, _FENCE, (pitch,), one_sided=False)
                s += 5.0

    def _parked(self, road: Road, side: int) -> None:
        """Cars that stand beyond the pavement."""
        rng = self.rng
        if rng.random() < 0.4:
            return
        edge = road.half_width + road.pavement + 0.25
        for _ in range(int(rng.integers(1, 6))):
            s, length = float(rng.uniform(0, road.length)), float(rng.uniform(3.9, 4.8))
            high, paint = float(rng.uniform(1.4, 1.7)), float(rng.choice([0.05, 0.1, 0.2, 0.35, 0.6]))
            near, far = sorted((side * edge, side * (edge + 1.75)))
            corners = road.place([s, s + length, s, s + length], [near, near, far, far])
            walls = np.array([wall[:2] for wall in self.walls]).reshape(-1, 2)
            taken = len(walls) and np.linalg.norm(walls - corners.mean(0), axis=1).min() < 4.0
            low, up = (s, near, 0.0), (s + length, far, high)
            eye_far = np.linalg.norm(corners.mean(0) - self.camera.position[:2]) > 4.0
            if taken or not eye_far or not self._free(corners, 0.1) or self._hides(road, low, up) > 0.02:
                continue
            self._box(road, (s, near, 0.22), (s + length, far, 0.55 * high), paint, kind=_CAR_SIDE)
            cabin = (s + 0.22 * length, near + 0.12, 0.55 * high), (s + 0.85 * length, far - 0.12, high)
            self._box(road, *cabin, 0.06, roof=paint)
            self.walls.append((*corners[0], *(corners[1] - corners[0]), 0.8 * high))
            self.walls.append((*corners[0], *(corners[2] - corners[0]), 0.8 * high))

    def _signals(self, road: Road) -> None:
        along = np.array([np.cos(road.heading), np.sin(road.heading), 0.0])
        across = np.array([-along[1], along[0], 0.0])
        for s, direction in road.stop_lines if self.layout.has_signals else ():
            lanes = [lane.offset for lane in road.lanes if lane.direction == direction]
            side = 1.0 if lanes and np.mean(lanes) > 0 else -1.0
            at = road.place(s + 0.5 * direction, side * (road.half_width + 0.35))
            if np.linalg.norm(at - self.camera.position[:2]) < 2.0:
                continue
            self._post(at, 3.4, 0.06, 0.15)
            u = -direction * 0.3 * across
            corner = np.array([*at, 2.4]) - 0.5 * u - 0.1 * direction * along
            self._panel(corner, u, (0.0, 0.0, 0.95), 0.04, _SIGNAL, texture=0.0, one_sided=False)

    def _wires(self, road: Road) -> None:
        trams = [lane.offset for lane in road.lanes if lane.kind == "tram"]
        for left in trams:
            for s in np.arange(0.0, road.length, 10.0):
                a, b = road.place([s, s + 10.0], [left, left])
                self.rods.append((*a, 5.6, *b, 5.6, 0.012, 0.012, 0.05, self.light.ambient))

    def _foreground(self) -> None:
        """Sometimes a pole or a branch near the camera, at the rim of the picture."""
        rng, camera = self.rng, self.camera
        right, down, forward = camera.rotation()
        eye = np.asarray(camera.position)
        rim = 0.5 * camera.width / camera.focal_px
        high = 0.5 * camera.height / camera.focal_px
        if rng.random() < 0.2:
            far = float(rng.uniform(2.5, 6.0))
            at = (eye + far * (forward + rng.choice([-1, 1]) * rng.uniform(0.6, 0.95) * rim * right))[:2]
            if self._free(at[None], 0.2, True):
                self._post(at, camera.position[2] + 3.0, float(rng.uniform(0.04, 0.09)), float(rng.uniform(0.1, 0.4)))
        if rng.random() < 0.25:
            far = float(rng.uniform(3.0, 6.0))
            side = rng.choice([-1, 1])
            middle = eye + far * (forward + side * rim * right - 0.9 * high * down)
            if middle[2] > 1.5:
                self._crown(middle, 0.22 * far * rim + 0.25, 60, 0.05)
                end = middle + far * rim * (side * right - 0.4 * down)
                self.rods.append((*middle, *end, 0.01, 0.03, 0.08, 0.5 * self.light.ambient))
