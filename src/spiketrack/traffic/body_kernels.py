"""Numba kernels that draw bodies: their primitives, group by group from far to near, and how far they reach.

Station: in come the arrays of `body_parts.Body` with vertices that `placing_kernels` placed, out go the picture or the
mask of `layers.Layers`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.traffic.body_parts import CAPSULE, GLOW, POLYGON
from spiketrack.traffic.layers import Layers
from spiketrack.traffic.light_kernels import draw_glow
from spiketrack.traffic.primitive_kernels import draw_capsule, draw_disc, fill_polygon
from spiketrack.traffic.projection_kernels import (
    MOST_CORNERS,
    bounds,
    disc_box,
    facing,
    project_capsule,
    project_polygon,
)
from spiketrack.traffic.tile_kernels import any_tile

_WIDEST, _WIDEST_HALO = 0.6, 115.0  # of what reaches beyond a body's vertices: metres of wheels and limbs, pixels


@njit(cache=True, nogil=True, error_model="numpy")
def extent(body, placed, view):
    """left, top, right, bottom in pixels of what is solid of the placed body, clipped only to what is before the
    camera; right < left: nothing.
    """
    left, top, right, bottom = np.inf, np.inf, -np.inf, -np.inf
    scratch = np.empty((6, MOST_CORNERS))
    for p in range(len(body.kind)):
        kind, first = body.kind[p], body.first[p]
        if kind == GLOW:
            continue
        if kind == CAPSULE:
            seen, xa, ya, xb, yb, ra, rb = project_capsule(placed, first, body.radius[p], view)
            if not seen:
                continue
            box = min(xa - ra, xb - rb), min(ya - ra, yb - rb), max(xa + ra, xb + rb), max(ya + ra, yb + rb)
        elif kind == POLYGON:
            n = project_polygon(placed, first, body.corners[p], view, scratch)
            if n < 3:
                continue
            x, y = scratch[0, :n], scratch[1, :n]
            box = x.min(), y.min(), x.max(), y.max()
        else:
            if body.closed[p] and facing(placed, first)[3] >= 0:
                continue
            box = disc_box(placed, first, 0.5 * body.radius[p], view)
            if box[2] < box[0]:
                continue
        left, top, right, bottom = min(left, box[0]), min(top, box[1]), max(right, box[2]), max(bottom, box[3])
    return left, top, right, bottom


@njit(cache=True, nogil=True, error_model="numpy")
def draw_body(body, placed, view, light, layers, name):
    """Draw the placed body far to near. name 0: blend into the picture; else write the name into the mask.

    view: focal, cx, cy, and the depth at which the body hides behind standing things. light: ambient, sun, the sun's
    direction in camera coordinates (3), glow gain, brake gain.
    """
    left, top, right, bottom = _reach(placed, view)
    x0, y0, x1, y1 = bounds(left, top, right, bottom, layers.picture.shape)
    if x1 <= x0 or y1 <= y0:
        return
    if name != 0 or not any_tile(layers.flickers, x0, y0, x1, y1):
        no_lamps = np.empty((0, 0), np.float32)
        layers = Layers(layers.picture, layers.mask, layers.depth, layers.touched, no_lamps, layers.flickers)
    scratch = np.empty((6, MOST_CORNERS))
    order = _group_order(body, placed)
    for g in order:
        for p in range(len(body.kind)):
            if body.group[p] == g:
                _draw_primitive(body, p, placed, view, light, layers, name, scratch)


@njit(cache=True, nogil=True, error_model="numpy")
def _reach(placed, view):
    """left, top, right, bottom in pixels beyond which nothing of a body is, its discs, limbs and halos included."""
    left, top, right, bottom, near = np.inf, np.inf, -np.inf, -np.inf, np.inf
    for v in range(len(placed)):
        near = min(near, placed[v, 2])
        x, y = view[1] + view[0] * placed[v, 0] / placed[v, 2], view[2] + view[0] * placed[v, 1] / placed[v, 2]
        left, right, top, bottom = min(left, x), max(right, x), min(top, y), max(bottom, y)
    rim = _WIDEST * view[0] / near + _WIDEST_HALO
    if near <= 1.0:
        return -np.inf, -np.inf, np.inf, np.inf
    return left - rim, top - rim, right + rim, bottom + rim


@njit(cache=True, nogil=True, error_model="numpy")
def _group_order(body, placed):
    """Groups far to near, by the mean depth of their vertices."""
    groups = body.groups
    total, count = np.zeros(groups), np.zeros(groups)
    for p in range(len(body.kind)):
        for v in range(body.first[p], body.first[p] + body.corners[p]):
            x, y, z = placed[v, 0], placed[v, 1], placed[v, 2]
            total[body.group[p]] += np.sqrt(x * x + y * y + z * z)
            count[body.group[p]] += 1
    return np.argsort(-total / np.maximum(count, 1))


@njit(inline="always", error_model="numpy")  # a call with so many arrays takes as long as a small face
def _draw_primitive(body, p, placed, view, light, layers, name, scratch):
    kind, first, count = body.kind[p], body.first[p], body.corners[p]
    value = body.shade[p]
    if kind == GLOW:
        if name == 0:
            draw_glow(body, p, placed, view, light, layers)
        return
    ambient, sun = light[0], light[1]
    if kind == CAPSULE:
        value *= ambient + 0.6 * sun
        draw_capsule(body, p, placed, view, value, layers, name)
        return
    nx, ny, nz, towards = facing(placed, first)
    if body.closed[p] and towards >= 0:
        return
    if towards > 0:
        nx, ny, nz = -nx, -ny, -nz
    value *= ambient + sun * max(0.0, nx * light[2] + ny * light[3] + nz * light[4])
    if kind == POLYGON:
        n = project_polygon(placed, first, count, view, scratch)
        if n >= 3:
            fill_polygon(scratch, n, value, 0.0, view[3], layers, name)
    else:
        draw_disc(body, p, placed, view, value, layers, name)
