"""Drivers: what vehicles are like and how they follow each other.

Station: `world` draws vehicles here and asks for their accelerations. Intelligent driver model: Treiber, Hennecke,
Helbing, "Congested traffic states in empirical observations and microscopic simulations", Phys. Rev. E 62 (2000).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spiketrack.traffic.actors import BICYCLE, BUS, CAR, MOTORBIKE, TRAM, TRUCK
from spiketrack.traffic.roads import Route

STEP_US = 50_000  # of the world
DT = STEP_US / 1e6
HARDEST_BRAKE = 8.0  # m/s2
CHANGE_S = 3.0  # a change of lane at constant speed


@dataclass(frozen=True, slots=True)
class Driver:
    """speed: wished, m/s. acceleration, braking: comfortable, m/s2. headway: s. gap: when standing, m."""

    speed: float
    acceleration: float = 1.4
    braking: float = 2.0
    headway: float = 1.2
    gap: float = 2.0


def idm(driver: Driver, speed: float, gap: float, closing: float, wished: float | None = None) -> float:
    """Acceleration, m/s2, behind a leader `gap` metres ahead that comes nearer by `closing` m/s (inf gap: none)."""
    v0 = driver.speed if wished is None else wished
    free = 1.0 - (speed / v0) ** 4 if v0 > 0.1 else -1.0
    if gap == math.inf:
        return max(driver.acceleration * free, -driver.braking)
    dynamic = speed * driver.headway + speed * closing / (2.0 * math.sqrt(driver.acceleration * driver.braking))
    wish = driver.gap + max(0.0, dynamic)
    near = wish / max(gap, 0.1)
    return max(driver.acceleration * (free - near * near), -HARDEST_BRAKE)


def equilibrium_gap(driver: Driver, speed: float) -> float:
    """Metres behind a leader of the same constant speed, below the driver's own."""
    return (driver.gap + speed * driver.headway) / math.sqrt(1.0 - (speed / driver.speed) ** 4)


@dataclass(slots=True, eq=False)
class Vehicle:
    """A vehicle on its route. way: of its front, on segment route.segments[leg]; side: metres left of the middle line.

    shift: metres by which a change of lane began to the left; progress: of that change, 1 is done; old: the segment
    left behind, while it still counts there. pause: (leg, way, seconds) of a stop to come.
    """

    track_id: int
    class_id: int
    length: float
    width: float
    height: float
    look: int
    driver: Driver
    route: Route
    leg: int
    way: float
    speed: float
    side: float = 0.0
    travelled: float = 0.0
    acceleration: float = 0.0
    granted: bool = False
    waited: float = 0.0
    shift: float = 0.0
    progress: float = 1.0
    span: float = 1.0
    old: int = -1
    calm: float = 0.0
    pause: tuple[int, float, float] | None = None
    before: tuple | None = None
    after: tuple | None = None

    @property
    def segment(self) -> int:
        return self.route.segments[self.leg]


def draw_body(rng: np.random.Generator, class_id: int) -> tuple[float, float, float]:
    """Length, width, height in metres of a vehicle of a class."""
    low, high = {
        CAR: ((3.6, 1.70, 1.40), (4.9, 1.95, 1.58)),
        BICYCLE: ((1.65, 0.55, 1.62), (1.85, 0.66, 1.85)),
        BUS: ((10.0, 2.50, 3.0), (12.5, 2.55, 3.3)),
        MOTORBIKE: ((1.95, 0.72, 1.4), (2.25, 0.9, 1.62)),
        TRUCK: ((6.0, 2.2, 2.6), (12.0, 2.5, 3.8)),
        TRAM: ((20.0, 2.3, 3.3), (35.0, 2.6, 3.6)),
    }[class_id]
    length, width, height = (float(v) for v in rng.uniform(low, high))
    if class_id == CAR and rng.random() < 0.35:  # sport utility vehicles and vans
        length, width, height = length + 0.3, 1.95 + 0.05 * float(rng.random()), float(rng.uniform(1.6, 2.1))
    if class_id == BUS and rng.random() < 0.2:
        length = 18.0  # articulated
    return length, width, height


def draw_driver(rng: np.random.Generator, class_id: int, limit: float) -> Driver:
    """A driver of a class on a road of `limit` m/s."""
    own = float(np.clip(rng.normal(1.0, 0.12), 0.65, 1.35))
    if class_id == BICYCLE:
        return Driver(float(np.clip(rng.normal(4.8, 1.1), 2.5, 8.0)), 0.9, 1.6, 0.8, 1.0)
    if class_id == TRAM:
        return Driver(min(limit, 14.0) * own, 0.9, 1.2, 2.0, 3.0)
    if class_id in (BUS, TRUCK):
        return Driver(min(limit * 0.88, 24.0) * own, 0.9, 1.5, 1.5, 2.5)
    if class_id == MOTORBIKE:
        return Driver(limit * 1.08 * own, 2.2, 2.5, 0.9, 1.5)
    return Driver(
        limit * own, float(rng.uniform(1.1, 2.0)), 2.0, float(rng.uniform(0.9, 1.6)), float(rng.uniform(1.5, 2.6))
    )
