"""World: where every actor of a traffic scene is at any time.

Station: settings, a layout and a seed go in; out come the `Actor`s present at a time. Inside, everything moves in
steps of 50 ms; between two steps a position is a cubic Hermite curve, so that velocities have no jumps. Whoever left
is forgotten: the memory does not grow with the scene.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from spiketrack.traffic.actors import BICYCLE, BUS, CAR, MOTORBIKE, TRAM, TRUCK, Actor
from spiketrack.traffic.drivers import CHANGE_S, Driver, Vehicle, draw_body, draw_driver, idm
from spiketrack.traffic.layout import Layout
from spiketrack.traffic.roads import Crossing, Network, Route, WorldSettings, plan_layout
from spiketrack.traffic.walkers import Walker, draw_group

__all__ = ["STEP_US", "World", "WorldSettings", "plan_layout"]

WORLD_STREAM = 42
STEP_US = 50_000
DT = STEP_US / 1e6
WARM_STEPS = 400  # before t = 0
AMBER_S, CLEAR_S = 3.0, 2.5
SIGHT_M = 100.0

Light = Literal["green", "amber", "red"]
Entry = tuple[float, float, float, Vehicle, bool]  # front, rear, speed, who, whether on a way that splits off


class World:
    """Traffic on a layout. With `ego`, one car carries the camera: it is in `ego_pose` and not in `at`.

    The ego car enters at the beginning of road 0 at t = 0, keeps its lane and stops at that road's end.
    """

    def __init__(self, settings: WorldSettings, layout: Layout, seed: Sequence[int], ego: bool = False) -> None:
        self.settings = settings
        self.layout = layout
        self.network = Network(layout)
        self._rng = rng = np.random.default_rng([*seed, WORLD_STREAM])
        self._limit = float(rng.uniform(*settings.speed_kmh)) / 3.6
        self._greens = [float(rng.uniform(12, 25)), float(rng.uniform(10, 20))]
        self._cycle = sum(self._greens) + 2 * (AMBER_S + CLEAR_S)
        self._phase = float(rng.uniform(0, self._cycle))
        self._step = -WARM_STEPS
        self._next_id = 1
        self._vehicles: list[Vehicle] = []
        self._walkers: list[Walker] = []
        self._occupied: list[list[Entry]] = [[] for _ in self.network.segments]
        self._ends = {route.segments[-1]: route for routes in self.network.routes.values() for route in routes[:1]}
        self._rates = {index: self._rate(index) for index in self.network.routes}
        self._due = {index: self._gap(rate) for index, rate in self._rates.items()}
        self._walk_rate = settings.pedestrians_per_minute / 60 / 1.4  # groups per second; 1.4 walkers are a group
        self._walk_due = self._gap(self._walk_rate)
        self._last_us = 0
        self._ego: Vehicle | None = None
        self._sway = rng.uniform((0.25, 0.6, 0, 0), (0.45, 1.1, 2 * math.pi, 2 * math.pi)).tolist()
        self._populate()
        while self._step < 0:
            self._advance()
        if ego:
            self._enter_ego()
        for mover in (*self._vehicles, *self._walkers):
            self._note(mover)
        self._advance()

    # what others ask

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
        return self._light(road, t_us / 1e6)[0]

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

    # the steps

    def _advance(self) -> None:
        """From self._step to the next."""
        now = self._step * DT
        self._occupy()
        if self.layout.roads[1:]:
            self._grant(now)
        rates = [self._acceleration(v) for v in self._vehicles]
        for vehicle, rate in zip(self._vehicles, rates, strict=True):
            vehicle.acceleration = rate
            self._move(vehicle)
        for walker in self._walkers:
            walker.step(DT, self.network, self._may_cross)
        self._vehicles = [v for v in self._vehicles if not self._left(v)]
        self._walkers = [w for w in self._walkers if not w.done]
        self._arrive(now)
        self._step += 1
        if self._step >= 0:
            for mover in (*self._vehicles, *self._walkers):
                self._note(mover)

    def _note(self, mover: Vehicle | Walker) -> None:
        pose = self._vehicle_pose(mover) if isinstance(mover, Vehicle) else mover.pose()
        if mover.after is not None:  # a heading has no jump by a full turn
            turned = math.remainder(pose[2] - mover.after[2], 2 * math.pi)
            pose = (*pose[:2], mover.after[2] + turned, *pose[3:])
        mover.before, mover.after = mover.after, pose

    def _occupy(self) -> None:
        """Enter each vehicle in the segments it stands on, and in those it has not yet cleared."""
        segments = self.network.segments
        for entries in self._occupied:
            entries.clear()
        for v in self._vehicles:
            leg, front, rear = v.leg, v.way, v.way - v.length
            while True:
                segment = segments[v.route.segments[leg]]
                self._occupied[segment.index].append((front, rear, v.speed, v, False))
                for sibling, clear in segment.splits.items():
                    if rear < clear:
                        self._occupied[sibling].append((front, rear, v.speed, v, True))
                if rear >= 0 or leg == 0:
                    break
                leg -= 1
                past = segments[v.route.segments[leg]].length
                front, rear = front + past, rear + past
            if v.old >= 0:
                self._occupied[v.old].append((v.way, v.way - v.length, v.speed, v, False))

    def _leader(self, v: Vehicle, segments: Sequence[int], way: float) -> tuple[float, float]:
        """Gap and speed of the next vehicle on these segments, seen from `way` on the first; (inf, 0) for none."""
        ahead = 0.0
        for index in segments:
            best, speed = math.inf, 0.0
            for front, rear, other_speed, other, splits in self._occupied[index]:
                if other is not v and front + ahead > way and rear + ahead - way < best:
                    if splits and rear + ahead < way:
                        continue  # beside it already
                    best, speed = rear + ahead - way, other_speed
            if best < math.inf:
                return best, speed
            ahead += self.network.segments[index].length
            if ahead - way > SIGHT_M:
                break
        return math.inf, 0.0

    def _acceleration(self, v: Vehicle) -> float:
        driver, speed, network = v.driver, v.speed, self.network
        left = v.route.segments[v.leg :]
        gap, other = self._leader(v, left, v.way)
        rate = idm(driver, speed, gap, speed - other)
        if v.old >= 0:
            gap, other = self._leader(v, (v.old,), v.way)
            rate = min(rate, idm(driver, speed, gap, speed - other))
        stops = [math.inf]
        ahead = -v.way
        for i, index in enumerate(left):
            segment = network.segments[index]
            for place, lane_left, crossing in segment.zebras:
                if crossing.walkers:
                    stop = ahead + place - crossing.half - 0.3
                    if stop > speed * speed / 15 - 0.2 and _blocked(crossing, lane_left):
                        stops.append(stop)
            if segment.arc is not None:
                rate = min(rate, self._for_bend(v, ahead, segment.arc))
            if segment.role == "in" and not v.granted:
                stops.append(ahead + segment.length)
                break
            if v.pause is not None and v.pause[0] == v.leg + i:
                stops.append(ahead + v.pause[1])
            ahead += segment.length
            if ahead > SIGHT_M:
                break
        if v is self._ego:
            stops.append(sum(network.segments[index].length for index in left) - v.way - 2.0)
        stop = min(stops)
        if stop < SIGHT_M:
            # to stand about a metre before the place
            rate = min(rate, idm(driver, speed, max(stop + driver.gap - 1.0, 0.2), speed))
        return rate

    def _for_bend(self, v: Vehicle, ahead: float, arc: tuple[float, float, float]) -> float:
        """The most that the bend allows, m/s2; at most 2 m/s2 to the side."""
        begin, end, radius = ahead + arc[0], ahead + arc[1], arc[2]
        if end + v.length / 2 < 0:
            return math.inf
        allowed = max(math.sqrt(2.0 * radius), 2.5)
        if begin <= 0.5:
            return idm(v.driver, v.speed, math.inf, 0.0, min(allowed, v.driver.speed))
        needed = (v.speed**2 - allowed**2) / (2 * begin)
        return -needed if needed > 0.7 * v.driver.braking else math.inf

    def _move(self, v: Vehicle) -> None:
        speed = v.speed + v.acceleration * DT
        if speed < 0.0:
            way, speed = v.speed**2 / (2 * -v.acceleration), 0.0
        else:
            way = (v.speed + speed) / 2 * DT
        v.waited = v.waited + DT if speed < 0.5 else 0.0
        v.speed = speed
        v.way += way
        v.travelled += way
        v.calm -= DT
        if v.pause is not None and v.leg == v.pause[0] and v.pause[1] - v.way < 2.5 and speed < 0.3:
            rest = v.pause[2] - DT
            v.pause = (v.pause[0], v.pause[1], rest) if rest > 0 else None
        if v.progress < 1.0:
            v.progress = min(1.0, v.progress + way / v.span)
            if v.progress > 0.85:
                v.old = -1
        length = self.network.segments[v.segment].length
        if v.way >= length and v.leg + 1 < len(v.route.segments):
            v.leg, v.way = v.leg + 1, v.way - length
        if v.leg == 2 and v.way > v.length:
            v.granted = False
        if (self._step + v.track_id) % 10 == 0:
            self._consider_change(v)

    def _left(self, v: Vehicle) -> bool:
        last = v.leg + 1 == len(v.route.segments)
        return v is not self._ego and last and v.way - v.length > self.network.segments[v.segment].length

    # the junction

    def _light(self, road: int, now: float) -> tuple[Light, float]:
        """What the road's signals show and the seconds until its next green (0 while green)."""
        if not self.layout.has_signals:
            return "green", 0.0
        start = 0.0 if road == 0 else self._greens[0] + AMBER_S + CLEAR_S
        part = (now + self._phase - start) % self._cycle
        if part < self._greens[road]:
            return "green", 0.0
        return ("amber" if part < self._greens[road] + AMBER_S else "red"), self._cycle - part

    def _grant(self, now: float) -> None:
        """Let vehicles into the junction, each when no way of those inside crosses its own."""
        segments = self.network.segments
        lights = [self._light(road, now)[0] for road in (0, 1)]
        waiting = []
        heads: dict[int, Vehicle] = {}
        for v in self._vehicles:
            if v.leg == 0 and segments[v.segment].role == "in":
                rest = segments[v.segment].length - v.way
                if v.granted and lights[segments[v.segment].road] != "green" and v.speed**2 / 6 + 1 < rest:
                    v.granted = False
                if not v.granted:
                    waiting.append((rest, v))
                    head = heads.get(v.segment)
                    if head is None or v.way > head.way:
                        heads[v.segment] = v
        for v in self._vehicles:
            if v.granted and v.leg == 0 and v.segment in heads and heads[v.segment].way > v.way:
                v.granted = False  # who is behind one that has to wait waits too
        inside = [v for v in self._vehicles if v.granted]
        for rest, v in sorted(waiting, key=lambda pair: pair[0]):
            if (
                heads[v.segment] is v
                and rest < v.speed**2 / 3 + 10
                and self._may_enter(v, rest, lights, inside, waiting)
            ):
                v.granted = True
                inside.append(v)

    def _may_enter(
        self, v: Vehicle, rest: float, lights: list[Light], inside: list[Vehicle], waiting: list[tuple[float, Vehicle]]
    ) -> bool:
        segments = self.network.segments
        way, goal = segments[v.route.segments[1]], v.route.segments[2]
        light = lights[way.road]
        if light == "red" or (light == "amber" and v.speed**2 / 6 < rest):
            return False
        if any(other.route.segments[1] in way.conflicts for other in inside):
            return False
        if any(
            rear < v.length + 3 and speed < 2 for _, rear, speed, other, _ in self._occupied[goal] if other is not v
        ):
            return False
        for far, other in waiting:
            theirs = segments[other.route.segments[1]]
            if other is v or theirs.index not in way.conflicts or lights[theirs.road] != "green":
                continue
            if other.waited > 20 and other.waited > v.waited:
                return False
            if theirs.rank > way.rank and v.waited < 20 and far / max(other.speed, 2.0) < 4.5:
                return False
        return True

    # changes of lane

    def _consider_change(self, v: Vehicle) -> None:
        """Change to the lane beside where the leader is slow, or back to the outer lane of a straight road."""
        segment = self.network.segments[v.segment]
        room = segment.length - v.way
        if (
            v is self._ego
            or not segment.beside
            or v.progress < 1.0
            or v.calm > 0
            or v.pause is not None
            or v.speed < 4.0
            or v.way < v.length
            or (segment.role == "in" and (v.granted or v.route.turn != "straight" or room < 60))
            or room < 25
        ):
            return
        gap, other = self._leader(v, (v.segment,), v.way)
        now = idm(v.driver, v.speed, gap, v.speed - other)
        wants = gap < 60 and other < 0.8 * v.driver.speed
        for target in segment.beside:
            outer = target > segment.index
            if not (wants or (outer and segment.role == "whole")):
                continue
            ahead, ahead_speed = self._leader(v, (target,), v.way)
            then = idm(v.driver, v.speed, ahead, v.speed - ahead_speed)
            better = then > now + 0.4 if wants else then > max(0.0, now - 0.1) and ahead > 80
            if better and ahead > 4 + 0.4 * v.speed and self._free_behind(v, target):
                self._change(v, target)
                return

    def _free_behind(self, v: Vehicle, target: int) -> bool:
        rear = v.way - v.length
        for front, _, speed, other, _ in self._occupied[target]:
            if other is v or front > v.way:
                continue
            gap = rear - front
            if gap < 3 + 0.3 * speed or idm(other.driver, speed, gap, speed - v.speed) < -1.5:
                return False
        # who moves in this very step is not yet entered
        return all(
            other is v or target not in (other.segment, other.old) or abs(other.way - v.way) > v.length + other.length
            for other in self._vehicles
            if other.progress < 0.1
        )

    def _change(self, v: Vehicle, target: int) -> None:
        here, there = self.network.segments[v.segment], self.network.segments[target]
        x, y, c, s = there.point(v.way)
        ox, oy, _, _ = here.point(v.way)
        v.shift = (oy - y) * c - (ox - x) * s
        v.old, v.progress, v.span = v.segment, 0.0, max(v.speed * CHANGE_S, 18.0 + 1.5 * v.length)
        v.route = self._ends[target] if here.role == "out" else self.network.routes[target][0]
        v.calm = 12.0
        self._occupied[target].append((v.way, v.way - v.length, v.speed, v, False))

    # walkers on the road

    def _may_cross(self, walker: Walker, crossing: Crossing) -> bool:
        """Whether one who stands at a crossing may go: the signals, and no vehicle that could not stop."""
        if (self._step + walker.track_id) % 4:
            return False
        if crossing.jaywalk:
            self.network.add_jaywalk(crossing)
        elif crossing.at_junction and self.layout.has_signals:
            light, until = self._light(crossing.road, self._step * DT)
            road = self.layout.roads[crossing.road]
            if light != "red" or until < road.half_width * 2 / max(walker.wish, 0.9):
                return False
        ways = {index: place for index, place, _ in crossing.marks}
        patient = crossing.jaywalk and walker.waited < 12
        need = (2 * self.layout.roads[crossing.road].half_width / walker.wish + 1) if patient else 0.0
        for v in self._vehicles:
            ahead = -v.way
            for leg in range(len(v.route.segments)):
                index = v.route.segments[leg]
                if leg < v.leg:
                    offset = -v.way - sum(self.network.segments[i].length for i in v.route.segments[leg : v.leg])
                else:
                    offset = ahead
                    ahead += self.network.segments[index].length
                if index not in ways or (leg > v.leg and v.leg == 0 and not v.granted and len(v.route.segments) > 1):
                    continue
                rest = offset + ways[index] - crossing.half
                if rest + 2 * crossing.half + v.length + 0.3 < 0:
                    continue  # it has passed
                if rest < 0.1 + min(v.speed, 0.5) + v.speed**2 / 5 or rest < v.speed * need:
                    return False
        return True

    # arrivals

    def _rate(self, entry: int) -> float:
        """Vehicles per second that enter here."""
        s, segments = self.settings, self.network.segments
        here = segments[entry]
        flow, motor = s.flow / 60, s.car + s.truck + s.bus + s.motorbike
        if len(self.layout.roads) > 1:
            flow *= 0.65 if self.layout.has_signals else 0.45  # what a junction can pass on
        if here.kind == "tram":
            return s.trams_per_minute / 60
        if here.kind == "car":
            return flow if motor > 0 else 0.0
        lanes = sum(
            segments[i].kind == "car" and (segments[i].road, segments[i].direction) == (here.road, here.direction)
            for i in self.network.routes
        )
        return min(flow * max(lanes, 1) * s.bicycle / max(motor, 0.1), 0.5)

    def _gap(self, rate: float) -> float:
        return 1.5 + float(self._rng.exponential(max(1 / rate - 1.5, 0.1))) if rate > 0 else math.inf

    def _draw_vehicle(self, entry: int, way: float) -> Vehicle:
        rng, s, kind = self._rng, self.settings, self.network.segments[entry].kind
        shares = np.array([s.car, s.truck, s.bus, s.motorbike])
        class_id = BICYCLE if kind == "bicycle" else TRAM
        if kind == "car":
            class_id = (CAR, TRUCK, BUS, MOTORBIKE)[int(rng.choice(4, p=shares / shares.sum()))]
        length, width, height = draw_body(rng, class_id)
        driver = draw_driver(rng, class_id, self._limit)
        routes = self.network.routes[entry]
        route = routes[0]
        if len(routes) > 1 and length < 13 and rng.random() < 0.35:
            route = routes[1 + int(rng.integers(len(routes) - 1))]
            if route.turn == "near" and length > 9.5:
                route = routes[0]  # too long for the tight bend
        reach = {MOTORBIKE: 0.5, BICYCLE: 0.1, CAR: 0.2}.get(class_id, 0.05)
        v = Vehicle(
            self._new_id(), class_id, length, width, height, int(rng.integers(2**32)), driver, route, 0, way,
            driver.speed, side=float(rng.uniform(-reach, reach)),
        )  # fmt: skip
        v.pause = self._draw_pause(class_id, route)
        return v

    def _draw_pause(self, class_id: int, route: Route) -> tuple[int, float, float] | None:
        """A stop for passengers or for whatever: leg, way and seconds; clear of the junction and zebra crossings."""
        often = {BUS: 0.5, TRAM: 0.5, CAR: 0.03, TRUCK: 0.05}.get(class_id, 0.0)
        draw, part, seconds = self._rng.random(), float(self._rng.uniform(0.3, 0.7)), float(self._rng.uniform(5, 14))
        leg = 0 if len(route.segments) == 1 or self._rng.random() < 0.5 else 2
        segment = self.network.segments[route.segments[leg]]
        way = part * segment.length
        clear = all(c.jaywalk or not -8 < way - at < 22 for at, _, c in segment.zebras)
        return (leg, way, seconds) if draw < often and clear else None

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _arrive(self, now: float) -> None:
        now += WARM_STEPS * DT
        for entry, due in self._due.items():
            if now < due:
                continue
            rear, speed = math.inf, math.inf
            for v in self._vehicles:
                if (v.leg == 0 and v.segment == entry) or v.old == entry:
                    rear, speed = min((rear, speed), (v.way - v.length, v.speed))
            if rear < 5:
                continue
            v = self._draw_vehicle(entry, 0.0)
            # slow enough to stop behind the last
            v.speed = min(v.driver.speed, math.sqrt(speed**2 + 2 * 1.5 * (rear - 4)), max(rear - 3, 0.0) / 0.8)
            self._vehicles.append(v)
            self._due[entry] = now + self._gap(self._rates[entry])
        if now >= self._walk_due:
            self._walk_due = now + max(self._gap(self._walk_rate) - 1.5, 0.05)
            self._add_group(somewhere=False)

    def _add_group(self, somewhere: bool) -> None:
        group = draw_group(self.settings, self.network, self._rng, self._next_id, somewhere)
        self._next_id += len(group)
        self._walkers += group

    def _populate(self) -> None:
        """Vehicles and walkers on their way when the warm-up begins."""
        for entry, rate in self._rates.items():
            if rate <= 0:
                continue
            segment = self.network.segments[entry]
            way = segment.length - 30.0 if segment.role == "in" else segment.length
            while True:
                v = self._draw_vehicle(entry, way)
                way -= v.driver.speed * self._gap(rate)
                if way < v.length + 3:
                    break
                v.way = way
                v.pause = None
                self._vehicles.append(v)
                way -= v.length + 4
        crossing_time = max(road.length for road in self.layout.roads) / 1.35
        for _ in range(int(self._rng.poisson(self._walk_rate * crossing_time * 0.7))):
            self._add_group(somewhere=True)

    def _enter_ego(self) -> None:
        """A car at the beginning of road 0's first car lane; who is too near behind or before it makes room."""
        entry = next(i for i in self.network.routes if self.network.segments[i].kind == "car")
        driver = Driver(self._limit, 1.4, 2.0, 1.4, 2.2)
        ego = Vehicle(0, CAR, 4.5, 1.8, 1.5, 0, driver, self.network.routes[entry][0], 0, 8.0, self._limit)
        self._vehicles = [
            v
            for v in self._vehicles
            if entry not in (v.segment, v.old) or v.way - v.length > 8 + 0.5 * self._limit + 3 or v.leg > 0
        ]
        ahead = [(v.way - v.length, v.speed) for v in self._vehicles if v.segment == entry and v.leg == 0]
        if ahead:
            rear, speed = min(ahead)
            ego.speed = min(self._limit, math.sqrt(speed**2 + 2 * 1.5 * max(rear - 11, 0)))
        self._ego = ego
        self._vehicles.append(ego)

    def _vehicle_pose(self, v: Vehicle) -> tuple:
        """The chord between the axles carries the body: x, y, heading, speed, velocity, travelled, steer, braking."""
        fx, fy, fc, fs = self._point(v, v.way - 0.2 * v.length)
        rx, ry, rc, rs = self._point(v, v.way - 0.8 * v.length)
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

    def _point(self, v: Vehicle, way: float) -> tuple[float, float, float, float]:
        leg = v.leg
        while way < 0 and leg > 0:
            leg -= 1
            way += self.network.segments[v.route.segments[leg]].length
        return self.network.segments[v.route.segments[leg]].point(way)


def _blocked(crossing: Crossing, lane_left: float) -> bool:
    """Whether a walker is on this lane or will be within some 3 s."""
    return any(-1.7 < (lane_left - left) * side < 2 + 3.2 * wish for left, side, wish in crossing.walkers.values())


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
