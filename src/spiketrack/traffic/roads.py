"""Roads: what the roads of a scene look like, and the ways that traffic takes on them.

Station: settings and a seed go in; out come the `Layout` that is painted, and the `Network` of segments, routes,
conflicts and zebra crossings in which `world` lets traffic run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from spiketrack.traffic.layout import Lane, Layout, Road

LAYOUT_STREAM = 41
EDGE_M = 0.7  # from the outermost lane to the kerb
CLEARANCE_M = 2.9  # ways through the crossing that come nearer than this exclude each other

Share = Annotated[float, Field(ge=0, le=1)]


def rising(pair: tuple[float, float]) -> tuple[float, float]:
    """A range as it is. Raises ValueError where it falls."""
    if pair[0] > pair[1]:
        raise ValueError(f"a range must rise, got {pair[0]} .. {pair[1]}")
    return pair


class WorldSettings(BaseModel):
    """A traffic world: its roads and who is on them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["road", "crossing"] = Field("crossing", description="one straight road, or two that cross")
    length_m: Annotated[tuple[float, float], AfterValidator(rising)] = Field(
        (160.0, 240.0), description="range of the roads' length; for a moving camera at least its way"
    )
    lanes_per_direction: tuple[int, int] = Field(
        (1, 3), description="range of the car lanes of one direction (a crossing takes at most 2)"
    )
    signals: bool | None = Field(None, description="whether the crossing has signals; null: drawn, two of three have")
    zebras: tuple[int, int] = Field((0, 2), description="range of the number of zebra crossings of a straight road")
    left_hand: bool = Field(False, description="traffic keeps to the left")
    flow: float = Field(6.0, ge=0, le=30, description="vehicles per car lane and minute")
    pedestrians_per_minute: float = Field(12.0, ge=0, le=120, description="walkers and wheelchairs per minute")
    trams_per_minute: float = Field(1.5, ge=0, le=6, description="trams per tram lane and minute")
    tram_lanes: Share = Field(0.3, description="probability that a road has tram lanes")
    bicycle_lanes: Share = Field(0.5, description="probability that a road has bicycle lanes")
    car: Share = Field(0.55, description="relative share of cars")
    truck: Share = Field(0.08, description="relative share of trucks")
    bus: Share = Field(0.06, description="relative share of buses")
    motorbike: Share = Field(0.08, description="relative share of motorbikes")
    bicycle: Share = Field(0.15, description="relative share of bicycles")
    wheelchairs: Share = Field(0.05, description="share of wheelchairs among those on the pavement")
    jaywalkers: Share = Field(0.05, description="share of walkers who cross where there is no zebra crossing")
    speed_kmh: Annotated[tuple[float, float], AfterValidator(rising)] = Field(
        (30.0, 60.0), description="range of the roads' speed, one draw per world; drivers differ by some 12 %"
    )

    def with_light_traffic(self, factor: float) -> WorldSettings:
        """The same world with factor times the shares of bicycles, motorbikes and wheelchairs, at most 1."""
        names = ("bicycle_lanes", "bicycle", "motorbike", "wheelchairs")
        return self.model_copy(update={name: min(1.0, factor * getattr(self, name)) for name in names})


def plan_layout(settings: WorldSettings, seed: Sequence[int]) -> Layout:
    """Draw the roads of a world; the same seed gives the same roads."""
    rng = np.random.default_rng([*seed, LAYOUT_STREAM])
    crossing = settings.kind == "crossing"
    low, high = settings.lanes_per_direction
    most = min(high, 2) if crossing else high
    lanes = [
        _lanes(settings, rng, int(rng.integers(min(low, most), most + 1)), tram=i == 0) for i in range(1 + crossing)
    ]
    half = [max(abs(lane.offset) + lane.width / 2 for lane in of_road) + EDGE_M for of_road in lanes]
    pavement = [float(rng.uniform(2.2, 4.0)) if crossing or rng.random() < 0.9 else 0.0 for _ in lanes]
    length = float(rng.uniform(*settings.length_m))
    if not crossing:
        zebras = _zebras(
            rng, length, int(rng.integers(settings.zebras[0], settings.zebras[1] + 1)) if pavement[0] else 0
        )
        return Layout((Road((-length / 2, 0.0), 0.0, length, half[0], lanes[0], pavement[0], zebras),))
    roads = []
    for i, start, heading in ((0, (-length / 2, 0.0), 0.0), (1, (0.0, -length / 2), math.pi / 2)):
        zebra = half[1 - i] + pavement[1 - i] / 2  # continues the other road's pavement
        line = zebra + 3.5 / 2 + 1.5
        roads.append(
            Road(
                start, heading, length, half[i], lanes[i], pavement[i],
                crossings=(length / 2 - zebra, length / 2 + zebra),
                stop_lines=((length / 2 - line, 1), (length / 2 + line, -1)),
            )
        )  # fmt: skip
    has_signals = bool(rng.random() < 2 / 3) if settings.signals is None else settings.signals
    return Layout(tuple(roads), has_signals)


def _lanes(settings: WorldSettings, rng: np.random.Generator, number: int, tram: bool) -> tuple[Lane, ...]:
    """The lanes of both directions, each direction from the axis outward."""
    width = float(rng.uniform(3.0, 3.5))
    has_tram, has_bicycle = rng.random() < settings.tram_lanes, rng.random() < settings.bicycle_lanes
    kinds = [("tram", 3.0)] * (tram and has_tram) + [("car", width)] * number + [("bicycle", 1.7)] * has_bicycle
    middle = 0.0 if rng.random() < 0.7 else float(rng.uniform(0.3, 1.0))  # half of a painted island
    side = 1 if settings.left_hand else -1
    lanes = []
    for direction in (1, -1):
        edge = middle
        for kind, wide in kinds:
            lanes.append(Lane(side * direction * (edge + wide / 2), direction, wide, kind))
            edge += wide
    return tuple(lanes)


def _zebras(rng: np.random.Generator, length: float, number: int) -> tuple[float, ...]:
    """Places of zebra crossings, at least 30 m apart, the first near the middle where the camera looks."""
    places: list[float] = []
    for i in range(number):
        place = length / 2 + float(rng.uniform(-25, 25) if i == 0 else rng.uniform(-0.35, 0.35) * length)
        if all(abs(place - other) > 30 for other in places):
            places.append(place)
    return tuple(sorted(places))


class Piece(NamedTuple):
    """A straight or an arc of a segment, from `start` metres on."""

    start: float
    x: float
    y: float
    cos: float
    sin: float
    curvature: float  # 1/m, positive to the left


@dataclass(slots=True)
class Crossing:
    """A place where walkers cross a road. marks: (segment, way to its middle, metres left of the road's axis).

    walkers: those on it or waiting at it, with their metres left of the axis, the side they go to (+1 left) and m/s.
    """

    road: int
    s: float
    half: float
    marks: list[tuple[int, float, float]] = field(default_factory=list)
    walkers: dict[int, tuple[float, int, float]] = field(default_factory=dict)
    at_junction: bool = False
    jaywalk: bool = False


@dataclass(slots=True)
class Segment:
    """A stretch of lane, its middle line. role: "in" to the junction, "turn" through it, "out" of it, or "whole".

    u0: metres from the lane's entry to its beginning. beside: parallel car segments of the same direction. rank:
    higher goes first. arc: (begin, end, radius) of the bend. conflicts: segments not to be used at the same time.
    splits: segment from the same origin -> metres until both are clear of each other.
    """

    index: int
    kind: str
    role: str
    road: int
    direction: int
    width: float
    pieces: tuple[Piece, ...]
    length: float
    u0: float = 0.0
    beside: list[int] = field(default_factory=list)
    zebras: list[tuple[float, float, Crossing]] = field(default_factory=list)
    arc: tuple[float, float, float] | None = None
    rank: int = 0
    conflicts: set[int] = field(default_factory=set)
    splits: dict[int, float] = field(default_factory=dict)

    def point(self, way: float) -> tuple[float, float, float, float]:
        """x, y and the unit direction at `way` metres; goes straight on beyond both ends."""
        piece = self.pieces[0]
        for nxt in self.pieces[1:]:
            if way < nxt.start:
                break
            piece = nxt
        d, c, s, k = way - piece.start, piece.cos, piece.sin, piece.curvature
        if k == 0.0:
            return piece.x + d * c, piece.y + d * s, c, s
        ca, sa = math.cos(k * d), math.sin(k * d)
        tx, ty = c * ca - s * sa, s * ca + c * sa
        return piece.x + (ty - s) / k, piece.y - (tx - c) / k, tx, ty


@dataclass(frozen=True, slots=True)
class Route:
    """The segments that a vehicle takes in turn."""

    turn: str  # "straight", "near" (right where traffic keeps right) or "far"
    segments: tuple[int, ...]


class Network:
    """Segments, routes by entry segment, and crossings of a layout."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.segments: list[Segment] = []
        self.routes: dict[int, list[Route]] = {}
        self.crossings = [
            Crossing(r, s, road.crossing_width / 2, at_junction=len(layout.roads) > 1)
            for r, road in enumerate(layout.roads)
            for s in road.crossings
        ]
        if len(layout.roads) == 1:
            self._build_road()
        else:
            self._build_junction()
        for segment in self.segments:
            for crossing in self.crossings:
                self._mark(segment, crossing)

    def add_jaywalk(self, crossing: Crossing) -> None:
        """Mark a place to cross at, outside the junction, until `remove_jaywalk`."""
        if crossing.marks:
            return
        for segment in self.segments:
            if segment.road == crossing.road and segment.role != "turn":
                self._mark(segment, crossing)

    def remove_jaywalk(self, crossing: Crossing) -> None:
        """Take away a place of `add_jaywalk`."""
        for index, _, _ in crossing.marks:
            self.segments[index].zebras = [z for z in self.segments[index].zebras if z[2] is not crossing]

    def _lanes_of(self, road: int, direction: int) -> list[Lane]:
        """Lanes of one direction, from the axis outward; a bicycle's edge of the road where it has no lane."""
        of_road = self.layout.roads[road]
        lanes = sorted((la for la in of_road.lanes if la.direction == direction), key=lambda la: abs(la.offset))
        if lanes and not any(lane.kind == "bicycle" for lane in lanes):
            last = lanes[-1]
            offset = last.offset + math.copysign(last.width / 2 + 0.25, last.offset)
            lanes.append(Lane(offset, direction, 0.8, "bicycle"))
        return lanes

    def _straight(self, road: int, lane: Lane, begin: float, end: float, role: str) -> Segment:
        of_road = self.layout.roads[road]
        s = begin if lane.direction > 0 else of_road.length - begin
        x, y = of_road.place(s, lane.offset).tolist()
        c, n = lane.direction * math.cos(of_road.heading), lane.direction * math.sin(of_road.heading)
        return self._add(lane.kind, role, road, lane, (Piece(0.0, x, y, c, n, 0.0),), end - begin, u0=begin)

    def _add(
        self, kind: str, role: str, road: int, lane: Lane, pieces: tuple[Piece, ...], length: float, **more
    ) -> Segment:
        segment = Segment(len(self.segments), kind, role, road, lane.direction, lane.width, pieces, length, **more)
        self.segments.append(segment)
        return segment

    def _build_road(self) -> None:
        length = self.layout.roads[0].length
        for direction in (1, -1):
            made = [self._straight(0, lane, 0.0, length, "whole") for lane in self._lanes_of(0, direction)]
            _join_beside(made)
            self.routes |= {segment.index: [Route("straight", (segment.index,))] for segment in made}

    def _build_junction(self) -> None:
        roads = self.layout.roads
        into: dict[tuple[int, int], list[Segment]] = {}
        out: dict[tuple[int, int], list[Segment]] = {}
        lanes: dict[tuple[int, int], list[Lane]] = {}
        for r, road in enumerate(roads):
            for direction in (1, -1):
                line = next(s for s, d in road.stop_lines if d == direction)
                stop = line if direction > 0 else road.length - line
                lanes[r, direction] = self._lanes_of(r, direction)
                into[r, direction] = [self._straight(r, la, 0.0, stop, "in") for la in lanes[r, direction]]
                out[r, direction] = [
                    self._straight(r, la, road.length - stop, road.length, "out") for la in lanes[r, direction]
                ]
                _join_beside(into[r, direction])
                _join_beside(out[r, direction])
        left_hand = any(lane.offset * lane.direction > 0 for lane in roads[0].lanes)
        for (r, direction), segments in into.items():
            right = (1, -direction) if r == 0 else (0, direction)  # heading turned clockwise by a quarter
            left = (right[0], -right[1])
            near, far = (left, right) if left_hand else (right, left)
            cars = [i for i, segment in enumerate(segments) if segment.kind == "car"]
            for i, segment in enumerate(segments):
                lane = lanes[r, direction][i]
                goals = [("straight", out[r, direction][i])]
                if segment.kind == "bicycle" or (segment.kind == "car" and i == cars[-1]):
                    goals += [("near", goal) for goal in _of_kind(out[near], segment.kind)[-1:]]
                if segment.kind == "car" and i == cars[0]:
                    goals += [("far", goal) for goal in _of_kind(out[far], "car")[:1]]
                self.routes[segment.index] = [self._through(segment, turn, goal, lane) for turn, goal in goals]
        self._find_conflicts()

    def _through(self, segment: Segment, turn: str, goal: Segment, lane: Lane) -> Route:
        """The segment through the junction, a straight or straight-arc-straight, and the route over it."""
        x, y, c, s = segment.point(segment.length)
        gx, gy, gc, gs = goal.point(0.0)
        rank = {"straight": 2, "near": 1, "far": 0}[turn] + (segment.kind == "tram")
        if not self.layout.has_signals:
            rank += 10 * (segment.road == 0)
        sine = c * gs - s * gc
        if turn == "straight":
            pieces, length, arc = (Piece(0.0, x, y, c, s, 0.0),), math.hypot(gx - x, gy - y), None
        else:
            # the corner where both lanes' lines meet, t1 ahead of here and t2 before the goal
            t1 = ((gx - x) * gs - (gy - y) * gc) / sine
            t2 = (c * (gy - y) - s * (gx - x)) / sine
            t, bend = min(t1, t2), math.atan2(sine, c * gc + s * gs)
            radius = t / math.tan(abs(bend) / 2)
            begin, end = t1 - t, t1 - t + radius * abs(bend)
            ex, ey = gx - (t2 - t) * gc, gy - (t2 - t) * gs
            curved = Piece(begin, x + begin * c, y + begin * s, c, s, math.copysign(1 / radius, bend))
            pieces = (Piece(0.0, x, y, c, s, 0.0), curved, Piece(end, ex, ey, gc, gs, 0.0))
            length, arc = end + t2 - t, (begin, end, radius)
        made = self._add(segment.kind, "turn", segment.road, lane, pieces, length, arc=arc, rank=rank)
        return Route(turn, (segment.index, made.index, goal.index))

    def _find_conflicts(self) -> None:
        ways = [route.segments for routes in self.routes.values() for route in routes]
        points = {
            way[1]: np.array(
                [self.segments[way[1]].point(d)[:2] for d in np.arange(0, self.segments[way[1]].length, 0.5)]
            )
            for way in ways
        }
        for first in ways:
            for second in ways:
                if first[1] == second[1]:
                    continue
                a, b = self.segments[first[1]], self.segments[second[1]]
                apart = np.linalg.norm(points[a.index][:, None] - points[b.index][None], axis=-1).min(axis=1)
                clear = CLEARANCE_M if "bicycle" not in (a.kind, b.kind) else 2.0
                if first[0] == second[0]:
                    a.splits[b.index] = 0.5 * float(np.argmax(apart > clear)) + 1.0
                elif apart.min() < clear and not (a.kind == b.kind == "bicycle"):
                    a.conflicts.add(b.index)

    def _mark(self, segment: Segment, crossing: Crossing) -> None:
        """Enter the place where the segment meets the crossing, if it does, in both."""
        road = self.layout.roads[crossing.road]
        way = np.arange(0.0, segment.length + 0.5, 0.5) if segment.arc else np.array([0.0, segment.length])
        local = road.local([segment.point(float(w))[:2] for w in way])
        ahead = local[:, 0] - crossing.s
        for i in np.flatnonzero(ahead[:-1] * ahead[1:] < 0):
            part = ahead[i] / (ahead[i] - ahead[i + 1])
            left = float(local[i, 1] + part * (local[i + 1, 1] - local[i, 1]))
            if abs(left) < road.half_width:
                at = float(way[i] + part * (way[i + 1] - way[i]))
                segment.zebras.append((at, left, crossing))
                crossing.marks.append((segment.index, at, left))


def _of_kind(segments: list[Segment], kind: str) -> list[Segment]:
    return [segment for segment in segments if segment.kind == kind]


def _join_beside(segments: list[Segment]) -> None:
    """Tell each car segment which car segments are next to it, the inner one first."""
    cars = _of_kind(segments, "car")
    for one, other in itertools.pairwise(cars):
        one.beside.append(other.index)
        other.beside.append(one.index)
