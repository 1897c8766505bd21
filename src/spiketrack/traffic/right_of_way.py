"""Right of way: signals, who may enter a junction, and who may cross a road on foot.

Station: inside `world`, asked at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from spiketrack.traffic.drivers import DT, Vehicle
from spiketrack.traffic.lanes import Lanes
from spiketrack.traffic.layout import Layout
from spiketrack.traffic.roads import Crossing
from spiketrack.traffic.walkers import Walker

AMBER_S, CLEAR_S = 3.0, 2.5

Light = Literal["green", "amber", "red"]


class RightOfWay:
    """The rules of a layout's junction and crossings; its signals' times are drawn from rng."""

    def __init__(self, layout: Layout, lanes: Lanes, rng: np.random.Generator) -> None:
        self._layout, self._lanes, self._network = layout, lanes, lanes.network
        self._greens = [float(rng.uniform(12, 25)), float(rng.uniform(10, 20))]
        self._cycle = sum(self._greens) + 2 * (AMBER_S + CLEAR_S)
        self._phase = float(rng.uniform(0, self._cycle))

    def light(self, road: int, now: float) -> tuple[Light, float]:
        """What the road's signals show and the seconds until its next green (0 while green)."""
        if not self._layout.has_signals:
            return "green", 0.0
        start = 0.0 if road == 0 else self._greens[0] + AMBER_S + CLEAR_S
        part = (now + self._phase - start) % self._cycle
        if part < self._greens[road]:
            return "green", 0.0
        return ("amber" if part < self._greens[road] + AMBER_S else "red"), self._cycle - part

    def grant(self, vehicles: Sequence[Vehicle], now: float) -> None:
        """Let vehicles into the junction, each when no way of those inside crosses its own."""
        segments = self._network.segments
        lights = [self.light(road, now)[0] for road in (0, 1)]
        waiting = []
        heads: dict[int, Vehicle] = {}
        for v in vehicles:
            if v.leg == 0 and segments[v.segment].role == "in":
                rest = segments[v.segment].length - v.way
                if v.granted and lights[segments[v.segment].road] != "green" and v.speed**2 / 6 + 1 < rest:
                    v.granted = False
                if not v.granted:
                    waiting.append((rest, v))
                    head = heads.get(v.segment)
                    if head is None or v.way > head.way:
                        heads[v.segment] = v
        for v in vehicles:
            if v.granted and v.leg == 0 and v.segment in heads and heads[v.segment].way > v.way:
                v.granted = False  # who is behind one that has to wait waits too
        inside = [v for v in vehicles if v.granted]
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
        segments = self._network.segments
        way, goal = segments[v.route.segments[1]], v.route.segments[2]
        light = lights[way.road]
        if light == "red" or (light == "amber" and v.speed**2 / 6 < rest):
            return False
        if any(other.route.segments[1] in way.conflicts for other in inside):
            return False
        if any(
            rear < v.length + 3 and speed < 2
            for _, rear, speed, other, _ in self._lanes.occupied[goal]
            if other is not v
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

    def may_cross(self, walker: Walker, crossing: Crossing, vehicles: Sequence[Vehicle], step: int) -> bool:
        """Whether one who stands at a crossing may go: the signals, and no vehicle that could not stop."""
        if (step + walker.track_id) % 4:
            return False
        if crossing.jaywalk:
            self._network.add_jaywalk(crossing)
        elif crossing.at_junction and self._layout.has_signals:
            light, until = self.light(crossing.road, step * DT)
            road = self._layout.roads[crossing.road]
            if light != "red" or until < road.half_width * 2 / max(walker.wish, 0.9):
                return False
        ways = {index: place for index, place, _ in crossing.marks}
        patient = crossing.jaywalk and walker.waited < 12
        need = (2 * self._layout.roads[crossing.road].half_width / walker.wish + 1) if patient else 0.0
        for v in vehicles:
            ahead = -v.way
            for leg in range(len(v.route.segments)):
                index = v.route.segments[leg]
                if leg < v.leg:
                    offset = -v.way - sum(self._network.segments[i].length for i in v.route.segments[leg : v.leg])
                else:
                    offset = ahead
                    ahead += self._network.segments[index].length
                if index not in ways or (leg > v.leg and v.leg == 0 and not v.granted and len(v.route.segments) > 1):
                    continue
                rest = offset + ways[index] - crossing.half
                if rest + 2 * crossing.half + v.length + 0.3 < 0:
                    continue  # it has passed
                if rest < 0.1 + min(v.speed, 0.5) + v.speed**2 / 5 or rest < v.speed * need:
                    return False
        return True
