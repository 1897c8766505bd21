"""Actors: what moves in a scene, as plain records.

Station: `world` says where each is, `bodies` gives it a shape. Class ids are those of eTraM.
"""

from __future__ import annotations

from dataclasses import dataclass

TRAFFIC_CLASSES = ("pedestrian", "car", "bicycle", "bus", "motorbike", "truck", "tram", "wheelchair")
THREE_CLASSES = ("pedestrian", "vehicle", "micro-mobility")
# class id of the eight -> class id of the three
THREE_OF_EIGHT = (0, 1, 2, 1, 2, 1, 1, 2)

PEDESTRIAN, CAR, BICYCLE, BUS, MOTORBIKE, TRUCK, TRAM, WHEELCHAIR = range(8)


@dataclass(frozen=True, slots=True)
class Actor:
    """One object at one time. x, y: middle of its ground area, metres. heading: radians, counter-clockwise from X.

    length, width, height: metres. travelled: way since its birth, metres (turns wheels, drives the gait). look: seed
    of its colours and details. steer: heading minus that of its front wheels, radians.
    """

    track_id: int
    class_id: int
    x: float
    y: float
    heading: float
    speed: float
    travelled: float
    length: float
    width: float
    height: float
    look: int
    braking: bool = False
    steer: float = 0.0
