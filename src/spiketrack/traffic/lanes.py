"""Lanes: who stands where on the segments of a network.

Station: inside `world`. In come vehicles on their routes, out go leaders, gaps and places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from spiketrack.traffic.drivers import Vehicle
from spiketrack.traffic.roads import Network

SIGHT_M = 100.0
Entry = tuple[float, float, float, Vehicle, bool]  # front, rear, speed, who, whether on a way that splits off


class Lanes:
    """The segments of a network with the vehicles on them: `occupied`, one list of entries a segment.

    ends: for the last segment of a route, a route that ends there.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.occupied: list[list[Entry]] = [[] for _ in network.segments]
        self.ends = {route.segments[-1]: route for routes in network.routes.values() for route in routes[:1]}

    def occupy(self, vehicles: Sequence[Vehicle]) -> None:
        """Enter each vehicle in the segments it stands on, and in those it has not yet cleared."""
        segments = self.network.segments
        for entries in self.occupied:
            entries.clear()
        for v in vehicles:
            leg, front, rear = v.leg, v.way, v.way - v.length
            while True:
                segment = segments[v.route.segments[leg]]
                self.occupied[segment.index].append((front, rear, v.speed, v, False))
                for sibling, clear in segment.splits.items():
                    if rear < clear:
                        self.occupied[sibling].append((front, rear, v.speed, v, True))
                if rear >= 0 or leg == 0:
                    break
                leg -= 1
                past = segments[v.route.segments[leg]].length
                front, rear = front + past, rear + past
            if v.old >= 0:
                self.occupied[v.old].append((v.way, v.way - v.length, v.speed, v, False))

    def leader(self, v: Vehicle, segments: Sequence[int], way: float) -> tuple[float, float]:
        """Gap and speed of the next vehicle on these segments, seen from `way` on the first; (inf, 0) for none."""
        ahead = 0.0
        for index in segments:
            best, speed = math.inf, 0.0
            for front, rear, other_speed, other, splits in self.occupied[index]:
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

    def point(self, v: Vehicle, way: float) -> tuple[float, float, float, float]:
        """x, y and direction (cosine, sine) on the vehicle's route, `way` metres along its segment."""
        leg = v.leg
        while way < 0 and leg > 0:
            leg -= 1
            way += self.network.segments[v.route.segments[leg]].length
        return self.network.segments[v.route.segments[leg]].point(way)
