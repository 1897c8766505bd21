"""Walkers: pedestrians and wheelchairs on pavements and over the roads.

Station: `world` draws them here and moves them; whether one may step on the road is asked of the world.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spiketrack.traffic.actors import PEDESTRIAN, WHEELCHAIR
from spiketrack.traffic.layout import Layout
from spiketrack.traffic.roads import Crossing, Network, WorldSettings

TURN_RATE = 2.2  # rad/s
ABREAST_M = 0.65  # between those who walk side by side


class Leg(NamedTuple):
    """A straight way to x, y in the direction c, s. crossing: the place where it leads over a road."""

    x: float
    y: float
    cos: float
    sin: float
    crossing: Crossing | None


@dataclass(slots=True, eq=False)
class Walker:
    """One on foot or in a wheelchair. wish: speed in m/s. pause_at: metres of way after which it stands pause_s."""

    track_id: int
    class_id: int
    length: float
    width: float
    height: float
    look: int
    wish: float
    legs: list[Leg]
    x: float
    y: float
    heading: float
    speed: float = 0.0
    leg: int = 0
    travelled: float = 0.0
    pause_at: float = math.inf
    pause_s: float = 0.0
    on_road: bool = False
    waited: float = 0.0
    before: tuple | None = None
    after: tuple | None = None

    @property
    def done(self) -> bool:
        return self.leg >= len(self.legs)

    def step(self, dt: float, network: Network, may_cross: Callable[[Walker, Crossing], bool]) -> None:
        """Move by dt seconds."""
        target = self.legs[self.leg]
        if target.crossing is not None and not self.on_road:
            self.on_road = may_cross(self, target.crossing)
            self.waited += dt
        rest = (target.x - self.x) * target.cos + (target.y - self.y) * target.sin
        aside = (self.x - target.x) * -target.sin + (self.y - target.y) * target.cos
        error = math.remainder(math.atan2(target.sin, target.cos) - math.atan2(aside, 2.0) - self.heading, 2 * math.pi)
        wish = self.wish * max(0.35, math.cos(error))
        if target.crossing is not None:
            wish = wish if self.on_road else 0.0
        elif self.travelled >= self.pause_at:
            wish, self.pause_s = 0.0, self.pause_s - dt
            self.pause_at = math.inf if self.pause_s <= 0 else self.pause_at
        elif self.leg + 1 < len(self.legs) and self.legs[self.leg + 1].crossing is not None:
            wish = min(wish, max(0.3, math.sqrt(2.4 * max(rest, 0.0))))
        change = min(max(wish - self.speed, -2.0 * dt), 1.3 * dt)
        way = (self.speed + change / 2) * dt
        self.speed += change
        if self.speed > 0.02:
            turn = TURN_RATE * dt * min(1.0, self.speed)
            self.heading += min(max(error, -turn), turn)
        self.x += way * math.cos(self.heading)
        self.y += way * math.sin(self.heading)
        self.travelled += way
        if target.crossing is not None:
            self._tell(target, network.layout)
        if rest - way < 0.3 and (target.crossing is None or self.on_road):
            if target.crossing is not None:
                self.leave(network)
            self.leg += 1

    def leave(self, network: Network) -> None:
        """Step off the road."""
        crossing = self.legs[self.leg].crossing
        if crossing is not None:
            crossing.walkers.pop(self.track_id, None)
            if crossing.jaywalk:
                network.remove_jaywalk(crossing)
        self.on_road, self.waited = False, 0.0

    def _tell(self, target: Leg, layout: Layout) -> None:
        """Tell the crossing where this walker is; who waits without right of way is not told of."""
        crossing = target.crossing
        if crossing is None or (
            not self.on_road and (crossing.jaywalk or (crossing.at_junction and layout.has_signals))
        ):
            return
        road = layout.roads[crossing.road]
        c, n = math.cos(road.heading), math.sin(road.heading)
        left = (self.y - road.start[1]) * c - (self.x - road.start[0]) * n
        crossing.walkers[self.track_id] = (left, 1 if target.sin * c - target.cos * n > 0 else -1, self.wish)

    def pose(self) -> tuple:
        """x, y, heading, speed, velocity x and y, travelled, steer, braking."""
        c, s = self.speed * math.cos(self.heading), self.speed * math.sin(self.heading)
        return self.x, self.y, self.heading, self.speed, c, s, self.travelled, 0.0, False


def draw_group(
    settings: WorldSettings, network: Network, rng: np.random.Generator, first_id: int, somewhere: bool
) -> list[Walker]:
    """One walker or some side by side, at a road's end or `somewhere` on their first way."""
    number = int(rng.choice((1, 2, 3, 4), p=(0.72, 0.2, 0.05, 0.03)))
    plan, part = int(rng.integers(2**31)), float(rng.random()) if somewhere else 0.0
    runs = rng.random() < 0.04
    wish = float(rng.uniform(2.2, 3.4) if runs else np.clip(rng.normal(1.35, 0.25), 0.7, 2.0))
    pause_at = float(rng.uniform(5, 120)) if rng.random() < 0.25 else math.inf
    pause_s = float(rng.uniform(3, 15))
    group = []
    for i in range(number):
        wheels = rng.random() < settings.wheelchairs
        if wheels:
            size = (float(rng.uniform(1.0, 1.2)), float(rng.uniform(0.6, 0.7)), float(rng.uniform(1.25, 1.4)))
        else:
            child = rng.random() < 0.1
            height = float(rng.uniform(1.0, 1.5) if child else np.clip(rng.normal(1.71, 0.09), 1.5, 1.95))
            broad = float(rng.uniform(0.42, 0.6)) * (0.75 if child else 1.0)
            size = (broad, broad, height)
        points = plan_walk(settings, network, np.random.default_rng(plan), i * ABREAST_M)
        (x, y, _), legs = points[0], []
        for (ax, ay, _), (bx, by, crossing) in itertools.pairwise(points):
            far = math.hypot(bx - ax, by - ay)
            if far > 0.01:
                legs.append(Leg(bx, by, (bx - ax) / far, (by - ay) / far, crossing))
        x, y = x + part * (legs[0].x - x), y + part * (legs[0].y - y)
        own = min(wish, 1.6) if wheels else wish
        look = int(rng.integers(2**32))
        class_id = WHEELCHAIR if wheels else PEDESTRIAN
        heading = math.atan2(legs[0].sin, legs[0].cos)
        group.append(
            Walker(
                first_id + i, class_id, *size, look, own, legs, x, y, heading, own, pause_at=pause_at, pause_s=pause_s
            )
        )
    return group


def plan_walk(
    settings: WorldSettings, network: Network, rng: np.random.Generator, abreast: float
) -> list[tuple[float, float, Crossing | None]]:
    """Points of a walk: x, y and the crossing that leads to the point. abreast: metres beside the first of a group."""
    if len(network.layout.roads) > 1:
        return _walk_at_junction(network, rng, abreast)
    road = network.layout.roads[0]
    side, direction = (int(v) for v in rng.choice((-1, 1), 2))
    aside = road.half_width + _within(road.pavement, float(rng.random()), abreast)
    begin, end = (0.0, road.length) if direction > 0 else (road.length, 0.0)
    points: list[tuple[float, float, Crossing | None]] = [(begin, side * aside, None)]
    draw, place = rng.random(), float(rng.uniform(0.2, 0.8)) * road.length
    zebras = [c for c in network.crossings if not c.jaywalk]
    crossing, jay = None, draw < settings.jaywalkers
    if jay:
        crossing = Crossing(0, place + abreast, 0.8, jaywalk=True)  # marked when the walker starts to cross
    elif zebras and draw < settings.jaywalkers + 0.5:
        crossing = zebras[int(rng.integers(len(zebras)))]
    if crossing is not None:
        s = crossing.s if jay else crossing.s + min(float(rng.uniform(-1.3, 0.9)) + abreast, 1.4)
        end = begin if rng.random() < 0.3 else end
        points += [(s, side * aside, None), (s, -side * aside, crossing), (end, -side * aside, None)]
    else:
        points.append((end, side * aside, None))
    placed = road.place([p[0] for p in points], [p[1] for p in points]).tolist()
    return [(x, y, point[2]) for (x, y), point in zip(placed, points, strict=True)]


def _within(pavement: float, part: float, abreast: float) -> float:
    """Metres from the kerb of one who walks on a pavement, or beside the road where there is none."""
    wide = max(pavement, 1.6)
    place = 0.5 + part * (wide - 1.0)
    return place + abreast if place + abreast < wide - 0.3 else max(place - abreast, 0.3)


def _walk_at_junction(
    network: Network, rng: np.random.Generator, abreast: float
) -> list[tuple[float, float, Crossing | None]]:
    """A walk from the end of one arm to that of another, over up to two zebra crossings. Road 0 lies along X."""
    first, second = network.layout.roads
    y = first.half_width + _within(first.pavement, float(rng.random()), abreast)
    x = second.half_width + _within(second.pavement, float(rng.random()), abreast)
    sx, sy, arm = (int(v) for v in rng.choice((-1, 1), 3))
    end_x, end_y = first.length / 2, second.length / 2
    points: list[tuple[float, float, Crossing | None]] = [
        (sx * end_x, sy * y, None) if arm > 0 else (sx * x, sy * end_y, None),
        (sx * x, sy * y, None),
    ]
    along_x = arm > 0
    exit_x = not along_x
    for crossed in range(2):
        if crossed == 0 and rng.random() < 0.3:
            break
        along_x = along_x if crossed == 0 and rng.random() < 0.65 else not along_x
        if along_x:  # over the second road
            sx = -sx
            points.append((sx * x, sy * y, network.crossings[2 + (sy > 0)]))
        else:
            sy = -sy
            points.append((sx * x, sy * y, network.crossings[0 + (sx > 0)]))
        exit_x = bool(rng.random() < 0.5)
        if rng.random() < 0.8:
            break
    points.append((sx * end_x, sy * y, None) if exit_x else (sx * x, sy * end_y, None))
    return points
