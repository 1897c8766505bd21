"""Driving: how vehicles speed up, slow down, move on and change lanes.

Station: inside `world`, a step of DT seconds at a time. Leaders are followed by the intelligent driver model
(`drivers.idm`); bends, zebra crossings, junctions and stops are places to slow down for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from spiketrack.traffic.drivers import CHANGE_S, DT, Vehicle, idm
from spiketrack.traffic.lanes import SIGHT_M, Lanes
from spiketrack.traffic.roads import Crossing


def acceleration(v: Vehicle, lanes: Lanes, is_ego: bool) -> float:
    """What the driver does in this step, m/s2. is_ego: it stops at the end of its route."""
    driver, speed, network = v.driver, v.speed, lanes.network
    left = v.route.segments[v.leg :]
    gap, other = lanes.leader(v, left, v.way)
    rate = idm(driver, speed, gap, speed - other)
    if v.old >= 0:
        gap, other = lanes.leader(v, (v.old,), v.way)
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
            rate = min(rate, _for_bend(v, ahead, segment.arc))
        if segment.role == "in" and not v.granted:
            stops.append(ahead + segment.length)
            break
        if v.pause is not None and v.pause[0] == v.leg + i:
            stops.append(ahead + v.pause[1])
        ahead += segment.length
        if ahead > SIGHT_M:
            break
    if is_ego:
        stops.append(sum(network.segments[index].length for index in left) - v.way - 2.0)
    stop = min(stops)
    if stop < SIGHT_M:
        # to stand about a metre before the place
        rate = min(rate, idm(driver, speed, max(stop + driver.gap - 1.0, 0.2), speed))
    return rate


def _for_bend(v: Vehicle, ahead: float, arc: tuple[float, float, float]) -> float:
    """The most that the bend allows, m/s2; at most 2 m/s2 to the side."""
    begin, end, radius = ahead + arc[0], ahead + arc[1], arc[2]
    if end + v.length / 2 < 0:
        return math.inf
    allowed = max(math.sqrt(2.0 * radius), 2.5)
    if begin <= 0.5:
        return idm(v.driver, v.speed, math.inf, 0.0, min(allowed, v.driver.speed))
    needed = (v.speed**2 - allowed**2) / (2 * begin)
    return -needed if needed > 0.7 * v.driver.braking else math.inf


def _blocked(crossing: Crossing, lane_left: float) -> bool:
    """Whether a walker is on this lane or will be within some 3 s."""
    return any(-1.7 < (lane_left - left) * side < 2 + 3.2 * wish for left, side, wish in crossing.walkers.values())


def move(v: Vehicle, lanes: Lanes) -> None:
    """Go on by a step with the vehicle's acceleration."""
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
    length = lanes.network.segments[v.segment].length
    if v.way >= length and v.leg + 1 < len(v.route.segments):
        v.leg, v.way = v.leg + 1, v.way - length
    if v.leg == 2 and v.way > v.length:
        v.granted = False


def has_left(v: Vehicle, lanes: Lanes) -> bool:
    """Whether all of it is beyond the end of its route."""
    last = v.leg + 1 == len(v.route.segments)
    return last and v.way - v.length > lanes.network.segments[v.segment].length


def consider_change(v: Vehicle, vehicles: Sequence[Vehicle], lanes: Lanes) -> None:
    """Change to the lane beside where the leader is slow, or back to the outer lane of a straight road."""
    segment = lanes.network.segments[v.segment]
    room = segment.length - v.way
    if (
        not segment.beside
        or v.progress < 1.0
        or v.calm > 0
        or v.pause is not None
        or v.speed < 4.0
        or v.way < v.length
        or (segment.role == "in" and (v.granted or v.route.turn != "straight" or room < 60))
        or room < 25
    ):
        return
    gap, other = lanes.leader(v, (v.segment,), v.way)
    now = idm(v.driver, v.speed, gap, v.speed - other)
    wants = gap < 60 and other < 0.8 * v.driver.speed
    for target in segment.beside:
        outer = target > segment.index
        if not (wants or (outer and segment.role == "whole")):
            continue
        ahead, ahead_speed = lanes.leader(v, (target,), v.way)
        then = idm(v.driver, v.speed, ahead, v.speed - ahead_speed)
        better = then > now + 0.4 if wants else then > max(0.0, now - 0.1) and ahead > 80
        if better and ahead > 4 + 0.4 * v.speed and _free_behind(v, target, vehicles, lanes):
            _change(v, target, lanes)
            return


def _free_behind(v: Vehicle, target: int, vehicles: Sequence[Vehicle], lanes: Lanes) -> bool:
    rear = v.way - v.length
    for front, _, speed, other, _ in lanes.occupied[target]:
        if other is v or front > v.way:
            continue
        gap = rear - front
        if gap < 3 + 0.3 * speed or idm(other.driver, speed, gap, speed - v.speed) < -1.5:
            return False
    # who moves in this very step is not yet entered
    return all(
        other is v or target not in (other.segment, other.old) or abs(other.way - v.way) > v.length + other.length
        for other in vehicles
        if other.progress < 0.1
    )


def _change(v: Vehicle, target: int, lanes: Lanes) -> None:
    here, there = lanes.network.segments[v.segment], lanes.network.segments[target]
    x, y, c, s = there.point(v.way)
    ox, oy, _, _ = here.point(v.way)
    v.shift = (oy - y) * c - (ox - x) * s
    v.old, v.progress, v.span = v.segment, 0.0, max(v.speed * CHANGE_S, 18.0 + 1.5 * v.length)
    v.route = lanes.ends[target] if here.role == "out" else lanes.network.routes[target][0]
    v.calm = 12.0
    lanes.occupied[target].append((v.way, v.way - v.length, v.speed, v, False))
