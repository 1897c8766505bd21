"""Casting: who is before the camera, with a body that is placed.

Station: inside `scene`. In come the actors of `world` and a camera, out go those that are seen, far to near, with the
vertices of their bodies in camera coordinates and how fast they move in the picture.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiketrack.traffic.actors import Actor
from spiketrack.traffic.bodies import body_of
from spiketrack.traffic.body_parts import Body
from spiketrack.traffic.camera import NEAREST_M, Camera

_LEAST_BODY_PX = 2.5  # what is less tall is not drawn


@dataclass(slots=True)
class Cast:
    """One actor's body with the memory it is placed in, and its events (signal, noise) of the last label periods."""

    body: Body
    placed: NDArray[np.float64]
    events: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=3))
    middle: tuple[float, float] | None = None


class Shown(NamedTuple):
    """An actor before the camera; depth is that of its middle, metres; flow its fastest motion in the picture, px/s;
    placed its body's vertices in camera coordinates.
    """

    actor: Actor
    cast: Cast
    depth: float
    flow: float
    placed: NDArray[np.float64]


class Casting:
    """The bodies of the actors that are present, from frame to frame."""

    def __init__(self) -> None:
        self._cast: dict[int, Cast] = {}

    def place(self, actors: Sequence[Actor], camera: Camera) -> list[Shown]:
        """The actors before the camera with their bodies placed, far to near."""
        from spiketrack.traffic.placing_kernels import far_to_near, flow, place

        for actor in actors:
            if actor.track_id not in self._cast:
                body = body_of(actor)
                self._cast[actor.track_id] = Cast(body, np.empty(body.vertices.shape))
        if len(self._cast) > len(actors):
            self._cast = {actor.track_id: self._cast[actor.track_id] for actor in actors}
        if not actors:
            return []
        rotation, position = camera.rotation(), np.array(camera.position)
        middles = np.array([(actor.x, actor.y, 0.4 * actor.height) for actor in actors])
        middles = (middles - position) @ rotation.T
        reach = np.array([0.5 * actor.length + 1 for actor in actors])
        sideways = np.abs(middles[:, 0]) - reach
        limit = 0.5 * camera.width / camera.focal_px * (np.maximum(middles[:, 2], NEAREST_M) + reach) + 12
        tall = np.array([actor.height for actor in actors]) * camera.focal_px > _LEAST_BODY_PX * middles[:, 2]
        seen = np.flatnonzero((middles[:, 2] > -reach) & (sideways < limit) & tall)
        before = [actors[i] for i in seen]
        if not before:
            return []
        shown, size = [], np.array((camera.width, camera.height), np.float64)
        for i in seen[far_to_near(footprints(before, 1.0), position[:2])]:
            actor, cast = actors[i], self._cast[actors[i].track_id]
            swing = min(1.0, actor.speed / 0.8)
            pose = np.array((actor.x, actor.y, 0.0, actor.heading, actor.travelled, swing))
            place(cast.body, pose, rotation, position, cast.placed)
            speed, depth = 1.1 * actor.speed, float(middles[i, 2])
            velocity = rotation @ (speed * math.cos(actor.heading), speed * math.sin(actor.heading), 0.0)
            pace = flow(cast.placed, velocity, min(0.3, actor.speed), camera.view(depth), size)
            shown.append(Shown(actor, cast, depth, pace, cast.placed))
        return shown


def footprints(actors: Sequence[Actor], share: float) -> NDArray[np.float64]:
    """(N, 4, 2): the corners of the actors' ground areas, shrunk to a share, counter-clockwise."""
    x, y, heading, length, width = np.array([(a.x, a.y, a.heading, a.length, a.width) for a in actors]).T
    c, s = np.cos(heading), np.sin(heading)
    along = 0.5 * share * length[:, None] * np.stack([c, s], axis=1)
    across = 0.5 * share * width[:, None] * np.stack([-s, c], axis=1)
    corners = np.stack([-along - across, along - across, along + across, across - along], axis=1)
    return np.stack([x, y], axis=1)[:, None] + corners
