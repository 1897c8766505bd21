"""Street: the plan of all that stands along the roads: houses, trees, lamps, signs, fences, parked cars.

Station: in come a layout, a light, a first camera (little may hide what it looks at) and a generator of random numbers,
out go tables of panels, rods, trees, leaves and bulbs that `surroundings` paints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spiketrack.traffic.camera import Camera
from spiketrack.traffic.ground import is_outside
from spiketrack.traffic.layout import Layout, Road
from spiketrack.traffic.light import Light

_PLAIN, _FACADE, _FENCE, _SIGN, _CAR_SIDE, _SIGNAL = range(6)


@dataclass
class Street:
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
        return all(is_outside(road, points, margin, only_carriageway) for road in self.layout.roads)

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
