"""Bodies: the shape, the look and the moving parts of every kind of actor.

Station: in comes an Actor (class, size, seed of its look), out goes a Body: faces, discs, limbs, lamps, as arrays that
`placing_kernels` places and `body_kernels` draws. A body stands at the origin, looks along x, y is its left, z is up,
in metres.
"""

from __future__ import annotations

import numpy as np

from spiketrack.traffic.actors import BICYCLE, BUS, CAR, MOTORBIKE, PEDESTRIAN, TRAM, TRUCK, Actor
from spiketrack.traffic.body_parts import Body, BodyBuilder
from spiketrack.traffic.people_bodies import add_pedestrian, add_two_wheeler, add_wheelchair
from spiketrack.traffic.vehicle_bodies import add_car, add_coach, add_truck


def body_of(actor: Actor) -> Body:
    """The body of an actor; the same for the same class, size and look."""
    rng = np.random.default_rng([actor.look, actor.class_id])
    builder = BodyBuilder()
    size = (actor.length, actor.width, actor.height)
    if actor.class_id == PEDESTRIAN:
        add_pedestrian(builder, actor.height, rng)
    elif actor.class_id == CAR:
        add_car(builder, *size, rng)
    elif actor.class_id in (BUS, TRAM):
        add_coach(builder, *size, rng, rails=actor.class_id == TRAM)
    elif actor.class_id == TRUCK:
        add_truck(builder, *size, rng)
    elif actor.class_id == BICYCLE:
        add_two_wheeler(builder, *size, rng, motor=False)
    elif actor.class_id == MOTORBIKE:
        add_two_wheeler(builder, *size, rng, motor=True)
    else:
        add_wheelchair(builder, *size, rng)
    return builder.build()
