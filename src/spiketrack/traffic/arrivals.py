"""Arrivals: vehicles and walkers that enter a world, and those that are on their way when it begins.

Station: inside `world`. In come settings, a network and a random generator, out go vehicles and walkers.
"""

from __future__ import annotations

import math

import numpy as np

from spiketrack.traffic.actors import BICYCLE, BUS, CAR, MOTORBIKE, TRAM, TRUCK
from spiketrack.traffic.drivers import Driver, Vehicle, draw_body, draw_driver
from spiketrack.traffic.layout import Layout
from spiketrack.traffic.roads import Network, Route, WorldSettings
from spiketrack.traffic.walkers import Walker, draw_group


class Arrivals:
    """Who comes when. limit: of speed, m/s. Times are seconds since the warm-up began."""

    def __init__(
        self, settings: WorldSettings, layout: Layout, network: Network, limit: float, rng: np.random.Generator
    ) -> None:
        self.settings, self.layout, self.network = settings, layout, network
        self._limit, self._rng = limit, rng
        self._next_id = 1
        self._rates = {index: self._rate(index) for index in network.routes}
        self._due = {index: self._gap(rate) for index, rate in self._rates.items()}
        self._walk_rate = settings.pedestrians_per_minute / 60 / 1.4  # groups per second; 1.4 walkers are a group
        self._walk_due = self._gap(self._walk_rate)

    def arrive(self, now: float, vehicles: list[Vehicle], walkers: list[Walker]) -> None:
        """Add who enters at this time to vehicles and walkers."""
        for entry, due in self._due.items():
            if now < due:
                continue
            rear, speed = math.inf, math.inf
            for v in vehicles:
                if (v.leg == 0 and v.segment == entry) or v.old == entry:
                    rear, speed = min((rear, speed), (v.way - v.length, v.speed))
            if rear < 5:
                continue
            v = self._draw_vehicle(entry, 0.0)
            # slow enough to stop behind the last
            v.speed = min(v.driver.speed, math.sqrt(speed**2 + 2 * 1.5 * (rear - 4)), max(rear - 3, 0.0) / 0.8)
            vehicles.append(v)
            self._due[entry] = now + self._gap(self._rates[entry])
        if now >= self._walk_due:
            self._walk_due = now + max(self._gap(self._walk_rate) - 1.5, 0.05)
            self._add_group(walkers, somewhere=False)

    def populate(self, vehicles: list[Vehicle], walkers: list[Walker]) -> None:
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
                vehicles.append(v)
                way -= v.length + 4
        crossing_time = max(road.length for road in self.layout.roads) / 1.35
        for _ in range(int(self._rng.poisson(self._walk_rate * crossing_time * 0.7))):
            self._add_group(walkers, somewhere=True)

    def enter_ego(self, vehicles: list[Vehicle]) -> Vehicle:
        """A car at the beginning of road 0's first car lane; who is too near behind or before it makes room."""
        entry = next(i for i in self.network.routes if self.network.segments[i].kind == "car")
        driver = Driver(self._limit, 1.4, 2.0, 1.4, 2.2)
        ego = Vehicle(0, CAR, 4.5, 1.8, 1.5, 0, driver, self.network.routes[entry][0], 0, 8.0, self._limit)
        vehicles[:] = [
            v
            for v in vehicles
            if entry not in (v.segment, v.old) or v.way - v.length > 8 + 0.5 * self._limit + 3 or v.leg > 0
        ]
        ahead = [(v.way - v.length, v.speed) for v in vehicles if v.segment == entry and v.leg == 0]
        if ahead:
            rear, speed = min(ahead)
            ego.speed = min(self._limit, math.sqrt(speed**2 + 2 * 1.5 * max(rear - 11, 0)))
        vehicles.append(ego)
        return ego

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

    def _add_group(self, walkers: list[Walker], somewhere: bool) -> None:
        group = draw_group(self.settings, self.network, self._rng, self._next_id, somewhere)
        self._next_id += len(group)
        walkers += group
