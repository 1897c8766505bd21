"""World: where every actor of a traffic scene is at any time.

Station: settings, a layout and a seed go in; out come the `Actor`s present at a time. Inside, everything moves in
steps of 50 ms; between two steps a position is a cubic Hermite curve, so that velocities have no jumps. Whoever left
is forgotten: the memory does not grow with the scene.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spiketrack.traffic.actors import Actor
from spiketrack.traffic.arrivals import Arrivals
from spiketrack.traffic.drivers import DT, STEP_US, Vehicle
from spiketrack.traffic.driving import acceleration, consider_change, has_left, move
from spiketrack.traffic.lanes import Lanes
from spiketrack.traffic.layout import Layout
from spiketrack.traffic.right_of_way import Light, RightOfWay
from spiketrack.traffic.roads import Crossing, Network, WorldSettings, plan_layout
from spiketrack.traffic.walkers import Walker

__all__ = ["STEP_US", "World", "WorldSettings", "plan_layout"]

WORLD_STREAM = 42
WARM_STEPS = 400  # before t = 0


class World:
    """Traffic on a layout. With `ego`, one car carries the camera: it is in `ego_pose` and not in `at`.

    The ego car enters at the beginning of road 0 at t = 0, keeps its lane and stops at that road's end.
    """

    def __init__(self, settings: WorldSettings, layout: Layout, seed: Sequence[int], ego: bool = False) -> None:
        self.settings = settings
        self.layout = layout
        self.network = Network(layout)
        rng = np.random.default_rng([*seed, WORLD_STREAM])
        limit = float(rng.uniform(*settings.speed_kmh)) / 3.6
        self._lanes = Lanes(self.network)
        self._rules = RightOfWay(layout, self._lanes, rng)
        self._arrivals = Arrivals(settings, layout, self.network, limit, rng)
        self._step = -WARM_STEPS
        self._vehicles: list[Vehicle] = []
        self._walkers: list[Walker] = []
        self._last_us = 0
        self._ego: Vehicle | None = None
        self._sway = rng.uniform((0.25, 0.6, 0, 0), (0.45, 1.1, 2 * math.pi, 2 * math.pi)).tolist()
        self._arrivals.populate(self._vehicles, self._walkers)
        while self._step < 0:
            self._advance()
        if ego:
            self._ego = self._arrivals.enter_ego(self._vehicles)
        for mover in (*self._vehicles, *self._walkers):
            self._note(mover)
        self._advance()

    def at(self, t_us: int) -> list[Actor]:
        """The actors present at t_us >= 0. Raises ValueError where time runs backward."""
        u = self._reach(t_us)
        actors = []
        for m in (*self._vehicles, *self._walkers):
            if m.before is not None and m.after is not None and m is not self._ego:
                x, y, heading, speed, way, steer, braking = _between(m.before, m.after, u)
                actors.append(
                    Actor(
                        m.track_id, m.class_id, x, y, heading, speed, way,
                        m.length, m.width, m.height, m.look, braking, steer,
                    )
                )  # fmt: skip
        return actors

    def ego_pose(self, t_us: int) -> tuple[float, float, float, float]:
        """x, y, heading, speed of the ego car. Raises ValueError where there is none or time runs backward."""
        if self._ego is None:
            raise ValueError("this world has no ego car: make it with ego=True")
        u = self._reach(t_us)
        assert self._ego.before is not None
        assert self._ego.after is not None
        x, y, heading, speed, *_ = _between(self._ego.before, self._ego.after, u)
        slow, fast, a, b = self._sway
        t = 2 * math.pi * t_us / 1e6
        sway = (0.004 * math.sin(slow * t + a) + 0.0015 * math.sin(fast * t + b)) * min(1.0, speed / 6)
        return x, y, heading + sway, speed

    def light(self, road: int, t_us: int) -> Light:
        """What the signals of a road show; green where there are none."""
        return self._rules.light(road, t_us / 1e6)[0]

    @property
    def kept(self) -> int:
        """Number of actors held in memory."""
        return len(self._vehicles) + len(self._walkers)

    def _reach(self, t_us: int) -> float:
        """Compute up to the step after t_us; the part of the step that has passed at t_us."""
        if t_us < self._last_us:
            raise ValueError(f"times must not decrease: {t_us} us after {self._last_us} us")
        self._last_us = t_us
        step = t_us // STEP_US
        while self._step <= step:
            self._advance()
        return (t_us - step * STEP_US) / STEP_US

    def _advance(self) -> None:
        """From self._step to the next."""
        now = self._step * DT
        self._lanes.occupy(self._vehicles)
        if self.layout.roads[1:]:
            self._rules.grant(self._vehicles, now)
        rates = [acceleration(v, self._lanes, v is self._ego) for v in self._vehicles]
        for vehicle, rate in zip(self._vehicles, rates, strict=True):
            vehicle.acceleration = rate
            move(vehicle, self._lanes)
            if vehicle is not self._ego and (self._step + vehicle.track_id) % 10 == 0:
                consider_change(vehicle, self._vehicles, self._lanes)
        for walker in self._walkers:
            walker.step(DT, self.network, self._may_cross)
        self._vehicles = [v for v in self._vehicles if v is self._ego or not has_left(v, self._lanes)]
        self._walkers = [w for w in self._walkers if not w.done]
        self._arrivals.arrive(now + WARM_STEPS * DT, self._vehicles, self._walkers)
        self._step += 1
        if self._step >= 0:
            for mover in (*self._vehicles, *self._walkers):
                self._note(mover)

    def _may_cross(self, walker: Walker, crossing: Crossing) -> bool:
        return self._rules.may_cross(walker, crossing, self._vehicles, self._step)

    def _note(self, mover: Vehicle | Walker) -> None:
        pose = _pose(mover, self._lanes) if isinstance(mover, Vehicle) else mover.pose()
        if mover.after is not None:  # a heading has no jump by a full turn
            turned = math.remainder(pose[2] - mover.after[2], 2 * math.pi)
            pose = (*pose[:2], mover.after[2] + turned, *pose[3:])
        mover.before, mover.after = mover.after, pose


def _pose(v: Vehicle, lanes: Lanes) -> tuple:
    """The chord between the axles carries the body: x, y, heading, speed, velocity, travelled, steer, braking."""
    fx, fy, fc, fs = lanes.point(v, v.way - 0.2 * v.length)
    rx, ry, rc, rs = lanes.point(v, v.way - 0.8 * v.length)
    far = math.hypot(fx - rx, fy - ry)
    c, s = (fx - rx) / far, (fy - ry) / far
    aside, slope, bend = v.side, 0.0, 0.0
    if v.progress < 1.0:
        p = v.progress
        aside += v.shift * (1 - p * p * p * (10 - 15 * p + 6 * p * p))
        slope = -v.shift * 30 * p * p * (1 - p) ** 2 / v.span
        bend = -v.shift * 60 * p * (1 - p) * (1 - 2 * p) / v.span**2
    heading = math.atan2(s, c) + math.atan(slope)
    steer = math.remainder(math.atan2(s, c) - math.atan2(fs, fc), 2 * math.pi) - math.atan(0.6 * v.length * bend)
    vx = v.speed * ((fc + rc) / 2 - s * slope)
    vy = v.speed * ((fs + rs) / 2 + c * slope)
    x, y = (fx + rx) / 2 - s * aside, (fy + ry) / 2 + c * aside
    return x, y, heading, v.speed, vx, vy, v.travelled, steer, v.acceleration < -0.8


def _between(before: tuple, after: tuple, u: float) -> tuple[float, float, float, float, float, float, bool]:
    """x, y, heading, speed, travelled, steer, braking at the part u of a step."""
    x0, y0, h0, s0, vx0, vy0, w0, e0, braking = before
    x1, y1, h1, s1, vx1, vy1, w1, e1, _ = after
    p = 1.0 - u
    a, b = u * u * (3.0 - 2.0 * u), u * p * p * DT
    d = u * u * p * DT
    return (
        x0 + a * (x1 - x0) + b * vx0 - d * vx1,
        y0 + a * (y1 - y0) + b * vy0 - d * vy1,
        h0 + u * (h1 - h0),
        s0 + u * (s1 - s0),
        w0 + u * (w1 - w0),
        e0 + u * (e1 - e0),
        braking,
    )
