"""Numba kernels of light and shadow: lamps with their halos, pools of headlights, shadows on the ground.

Station: in come places in camera or world coordinates, out goes the picture of `layers.Layers`, added to or dimmed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.traffic.primitive_kernels import fill_polygon
from spiketrack.traffic.projection_kernels import (
    MOST_CORNERS,
    NEAREST,
    bounds,
    column_numbers,
    inverse_of,
    project_polygon,
    square_box,
)
from spiketrack.traffic.tile_kernels import touch


@njit(cache=True, nogil=True, error_model="numpy")
def draw_glow(body, p, placed, view, light, layers):
    """A lamp: a bright spot and a faint halo, brightest from straight ahead. Vertices: the lamp, a point before it."""
    first = body.first[p]
    x, y, z = placed[first, 0], placed[first, 1], placed[first, 2]
    if z < NEAREST or light[5] <= 0:
        return
    distance = np.sqrt(x * x + y * y + z * z)
    ahead = 0.0
    for k in range(3):
        ahead -= (placed[first + 1, k] - placed[first, k]) * placed[first, k]
    ahead /= distance
    if ahead <= 0.05:
        return
    strength = body.shade[p] * light[5] * ahead
    if body.brake[p]:
        strength *= light[6]
    sigma = max(0.6, view[0] * body.radius[p] / z)
    add_spot(view[1] + view[0] * x / z, view[2] + view[0] * y / z, sigma, strength, view[3], layers)
    halo = min(4 * sigma, 40.0)
    add_spot(view[1] + view[0] * x / z, view[2] + view[0] * y / z, halo, 0.03 * strength, view[3], layers)


@njit(cache=True, nogil=True, error_model="numpy")
def add_spot(x, y, sigma, strength, behind, layers):
    """Add a round spot of light, (1 - r^2 / 8 sigma^2)^4: near a Gaussian one, and nothing beyond 2.8 sigma."""
    picture, _, depth, touched, _, _ = layers
    reach2 = 8 * sigma * sigma
    reach = np.sqrt(reach2)
    left, y0, right, y1 = bounds(x - reach - 0.5, y - reach, x + reach + 0.5, y + reach, picture.shape)
    columns = column_numbers(left, right)
    middle, scale, behind = np.float32(x - 0.5), np.float32(1 / reach2), np.float32(behind)
    strength, zero = np.float32(strength), np.float32(0)
    for row in range(y0, y1):
        dy = row + 0.5 - y
        if dy * dy >= reach2:
            continue
        half, inside = np.sqrt(reach2 - dy * dy), np.float32(1 - dy * dy / reach2)
        x0, _, x1, _ = bounds(x - half - 0.5, y, x + half + 0.5, y, picture.shape)
        touch(touched, x0, row, x1, row + 1)
        line, far, at = picture[row, x0:x1], depth[row, x0:x1], columns[x0 - left : x1 - left]
        for k in range(len(line)):
            dx = at[k] - middle
            fall = inside - dx * dx * scale
            fall = fall if fall > zero else zero
            fall *= fall
            line[k] += strength * fall * fall if far[k] >= behind else zero


@njit(cache=True, nogil=True, error_model="numpy")
def add_pools(pools, rotation, position, view, faint, albedo, layers):
    """Light of headlights on the ground; pools (N, 7): x, y, heading, way ahead to the middle, half axes, strength.

    faint: light that is not noticed.
    """
    corners = np.empty((3, 3))
    for n in range(len(pools)):
        x, y, heading, nose, length, width, strength = pools[n]
        c, s = np.cos(heading), np.sin(heading)
        for k in range(3):
            wx, wy = x + nose * c - position[0], y + nose * s - position[1]
            wx, wy = wx + (length * c if k == 1 else 0.0), wy + (length * s if k == 1 else 0.0)
            wx, wy = wx - (width * s if k == 2 else 0.0), wy + (width * c if k == 2 else 0.0)
            for axis in range(3):
                seen = rotation[axis, 0] * wx + rotation[axis, 1] * wy + rotation[axis, 2] * (0.01 - position[2])
                corners[k, axis] = seen
        add_pool(corners, view, strength, faint, albedo, layers)


@njit(cache=True, nogil=True, error_model="numpy")
def add_pool(corners, view, strength, faint, albedo, layers):
    """Light on the ground: an ellipse given by its middle and two half axes, camera coordinates (3, 3) metres.

    It falls as (1 - r^2 / 1.6^2)^2, r in half axes, and is drawn where it is more than `faint`.
    """
    picture, _, _, touched, _, _ = layers
    focal, cx, cy = view[0], view[1], view[2]
    largest = 1.6 * 1.6
    if strength <= faint:
        return
    reach = np.sqrt(largest * (1 - np.sqrt(faint / strength)))
    left, top, right, bottom = square_box(
        corners[0], reach * (corners[1] - corners[0]), reach * (corners[2] - corners[0]), view
    )
    x0, y0, x1, y1 = bounds(left, top, right, bottom, picture.shape)
    if x1 <= x0 or y1 <= y0:
        return
    inverse, _ = inverse_of(corners[0], corners[1] - corners[0], corners[2] - corners[0])
    u1, v1, w1 = inverse[0, 0] / focal, inverse[1, 0] / focal, inverse[2, 0] / focal  # per column
    one, zero, bright = np.float32(1), np.float32(0), np.float32(strength)
    share, step = np.float32(1 / largest), (np.float32(u1), np.float32(v1), np.float32(w1))
    columns = column_numbers(x0, x1)
    for row in range(y0, y1):
        ry, rx = (row + 0.5 - cy) / focal, (0.5 - cx) / focal
        u0 = inverse[0, 0] * rx + inverse[0, 1] * ry + inverse[0, 2]
        v0 = inverse[1, 0] * rx + inverse[1, 1] * ry + inverse[1, 2]
        w0 = inverse[2, 0] * rx + inverse[2, 1] * ry + inverse[2, 2]
        # u^2 + v^2 < reach^2 is a quadratic inequality in the column: the pool's run in this row
        first, last = x0, x1
        qa = u1 * u1 + v1 * v1 - reach * reach * w1 * w1
        qb = u0 * u1 + v0 * v1 - reach * reach * w0 * w1
        qc = u0 * u0 + v0 * v0 - reach * reach * w0 * w0
        if qa > 0:
            inner = qb * qb - qa * qc
            if inner <= 0:
                continue
            root = np.sqrt(inner)
            first = max(x0, int(np.ceil(max((-qb - root) / qa, -1.0))))
            last = min(x1, int(np.floor(min((-qb + root) / qa, 1e9))) + 1)
        touch(touched, first, row, last, row + 1)
        u0, v0, w0 = np.float32(u0), np.float32(v0), np.float32(w0)
        last = max(first, last)
        line, tone, at = picture[row, first:last], albedo[row, first:last], columns[first - x0 : last - x0]
        for k in range(len(line)):
            w = one / (w0 + step[2] * at[k])
            u, v = (u0 + step[0] * at[k]) * w, (v0 + step[1] * at[k]) * w
            fall = one - (u * u + v * v) * share
            fall = fall if fall > zero else zero
            fall = fall if w > zero else zero
            line[k] += bright * fall * fall * tone[k]


@njit(cache=True, nogil=True, error_model="numpy")
def draw_shadows(ground, heights, depths, sun, contact, shade, view, rotation, position, layers):
    """The shadows of boxes on the ground: right below them (factor contact), and away from the sun (factor shade).

    ground: (N, 4, 2) world metres; heights, depths: (N,). A factor of 1 draws nothing.
    """
    points = np.empty((8, 2))
    length = 0.9 / max(sun[2], 0.15)
    for i in range(len(ground)):
        x, y = ground[i, :, 0].mean(), ground[i, :, 1].mean()
        away = min(heights[i] * length, 12.0)
        for k in range(4):
            points[k] = ground[i, k]
            points[k + 4, 0] = x + 0.85 * (ground[i, k, 0] - x) - away * sun[0]
            points[k + 4, 1] = y + 0.85 * (ground[i, k, 1] - y) - away * sun[1]
        if contact < 1:
            _draw_shadow(points[:4], contact, view, depths[i], rotation, position, layers)
        if shade < 1:
            _draw_shadow(points, shade, view, depths[i], rotation, position, layers)


@njit(cache=True, nogil=True, error_model="numpy")
def _draw_shadow(points, factor, view, behind, rotation, position, layers):
    """Multiply the hull of ground points, (N, 2) world metres, by factor."""
    hull = _hull(points, len(points))
    n = len(hull)
    seen = np.empty((n, 3))
    for i in range(n):
        wx, wy, wz = hull[i, 0] - position[0], hull[i, 1] - position[1], -position[2]
        for k in range(3):
            seen[i, k] = rotation[k, 0] * wx + rotation[k, 1] * wy + rotation[k, 2] * wz
    scratch = np.empty((6, MOST_CORNERS))
    corners = project_polygon(seen, 0, n, view, scratch)
    if corners >= 3:
        fill_polygon(scratch, corners, 0.0, factor, behind, layers, 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _hull(points, count):
    """Convex hull of points (count, 2), by Andrew's monotone chain."""
    order = np.argsort(points[:count, 0] * 1e6 + points[:count, 1])
    hull = np.empty((2 * count, 2))
    n = 0
    for start in (0, 1):
        floor = n + 1 if start else 1
        for i in range(count):
            q = points[order[count - 1 - i if start else i]]
            while n > floor and (
                (hull[n - 1, 0] - hull[n - 2, 0]) * (q[1] - hull[n - 2, 1])
                - (hull[n - 1, 1] - hull[n - 2, 1]) * (q[0] - hull[n - 2, 0])
                <= 0
            ):
                n -= 1
            hull[n] = q
            n += 1
        n -= 1
    return hull[: max(n, 1)].copy()
