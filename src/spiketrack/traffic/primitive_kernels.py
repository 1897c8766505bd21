"""Numba kernels of the primitives that bodies are made of: faces, discs, rings and limbs, blended with smooth edges.

Station: in come pixels or vertices in camera coordinates, out goes a picture, or a mask of names, drawn over. Layers
are those of `layers.Layers`; what is blended hides the flickering light behind it too.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.traffic.body_parts import RING
from spiketrack.traffic.projection_kernels import NEAREST, bounds, disc_box, inverse_of, project_capsule
from spiketrack.traffic.tile_kernels import touch

_GROWN = 0.75  # pixels: edges are a quarter of a pixel outside, so that faces that touch leave no seam
_RING_PIECES = 64
_LONG_RUN = 48  # pixels of a row from which a vectorised loop is worth its beginning


@njit(cache=True, nogil=True, error_model="numpy")
def fill_polygon(scratch, n, value, factor, behind, layers, name):
    """A convex polygon of n corners in pixels. factor > 0: multiply the picture by it; else blend to value.

    scratch: (6, at least n); rows 0 and 1 are x and y, the others are written.
    """
    picture, mask, depth, touched, lamps, _ = layers
    x, y, a, b, c, slope = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4], scratch[5]
    area = 0.0
    for i in range(n):
        j = (i + 1) % n
        area += x[i] * y[j] - x[j] * y[i]
    if abs(area) < 1e-6:
        return
    sign = 1.0 if area > 0 else -1.0
    edges = 0
    left, top, right, bottom = np.inf, np.inf, -np.inf, -np.inf
    for i in range(n):
        j = (i + 1) % n
        dx, dy = x[j] - x[i], y[j] - y[i]
        length = np.sqrt(dx * dx + dy * dy)
        left, right, top, bottom = min(left, x[i]), max(right, x[i]), min(top, y[i]), max(bottom, y[i])
        if length < 1e-9:
            continue
        a[edges], b[edges] = -sign * dy / length, sign * dx / length
        c[edges] = -(a[edges] * x[i] + b[edges] * y[i])
        slope[edges] = 1 / a[edges] if abs(a[edges]) >= 1e-12 else 0.0
        edges += 1
    x0, y0, x1, y1 = bounds(left - 1, top - 1, right + 1, bottom + 1, picture.shape)
    if x1 <= x0 or y1 <= y0:
        return
    if name == 0:
        touch(touched, x0, y0, x1, y1)
    for row in range(y0, y1):
        # columns in which every edge leaves some cover, and those that are covered whole
        low, high = float(x0), float(x1 - 1)
        full_low, full_high = low, high
        for e in range(edges):
            rest = b[e] * (row + 0.5) + c[e] + _GROWN
            if slope[e] == 0:
                if rest <= 0:
                    high = low - 1
                elif rest < 1:
                    full_high = full_low - 1
            elif slope[e] > 0:
                low = max(low, np.ceil(-rest * slope[e] - 0.5))
                full_low = max(full_low, np.ceil((1 - rest) * slope[e] - 0.5))
            else:
                high = min(high, np.floor(-rest * slope[e] - 0.5))
                full_high = min(full_high, np.floor((1 - rest) * slope[e] - 0.5))
        first, last = int(low), int(high) + 1
        full, full_end = max(first, int(full_low)), min(last, int(full_high) + 1)
        if full >= full_end:
            full, full_end = last, last
        for k in range(last - first - (full_end - full)):  # where the cover is in part
            column = first + k if first + k < full else first + k + full_end - full
            if depth[row, column] < behind:
                continue
            inside = 1.0
            for e in range(edges):
                inside = min(inside, a[e] * (column + 0.5) + b[e] * (row + 0.5) + c[e] + _GROWN)
            if inside <= 0:
                continue
            if name != 0:
                if inside >= _GROWN:
                    mask[row, column] = name
                continue
            if factor > 0:
                picture[row, column] *= 1 + inside * (factor - 1)
            else:
                picture[row, column] += inside * (value - picture[row, column])
            if lamps.size:
                lamps[row, column] *= 1 + inside * (factor - 1)
        if full_end - full >= _LONG_RUN:
            run = slice(full, full_end)
            _fill_run(picture[row, run], mask[row, run], depth[row, run], value, factor, behind, name)
        elif name != 0:
            for column in range(full, full_end):
                mask[row, column] = name if depth[row, column] >= behind else mask[row, column]
        elif factor > 0:
            for column in range(full, full_end):
                picture[row, column] *= factor if depth[row, column] >= behind else 1.0
        else:
            for column in range(full, full_end):
                picture[row, column] = value if depth[row, column] >= behind else picture[row, column]
        if lamps.size and name == 0:
            for column in range(full, full_end):
                lamps[row, column] *= factor if depth[row, column] >= behind else 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_run(line, names, far, value, factor, behind, name):
    """The columns of a row that a polygon covers whole; slices of picture, mask and depth, so that it vectorises."""
    if name != 0:
        for k in range(len(line)):
            names[k] = name if far[k] >= behind else names[k]
    elif factor > 0:
        for k in range(len(line)):
            line[k] *= factor if far[k] >= behind else 1.0
    else:
        for k in range(len(line)):
            line[k] = value if far[k] >= behind else line[k]


@njit(cache=True, nogil=True, error_model="numpy")
def draw_disc(body, p, placed, view, value, layers, name):
    """A filled disc, or a ring of the given thickness (metres): by where the ray of a pixel meets its plane."""
    picture, mask, depth, touched, lamps, _ = layers
    first = body.first[p]
    focal = view[0]
    is_ring, thick = body.kind[p] == RING, 0.5 * body.radius[p]
    c, a, b = placed[first], placed[first + 1] - placed[first], placed[first + 2] - placed[first]
    if is_ring and c[2] - np.sqrt(a[2] * a[2] + b[2] * b[2]) < 3 * NEAREST:
        _draw_near_ring(c, a, b, thick, view, value, layers, name)
        return
    left, top, right, bottom = disc_box(placed, first, thick, view)
    x0, y0, x1, y1 = bounds(left - 1, top - 1, right + 1, bottom + 1, picture.shape)
    inverse, volume = inverse_of(c, a, b)
    if x1 <= x0 or y1 <= y0 or abs(volume) * focal * focal < 1e-3 * abs(c[2]) ** 3:  # seen from its edge
        return
    if name == 0:
        touch(touched, x0, y0, x1, y1)
    u1, v1, w1 = inverse[:, 0] / focal  # per column
    u2, v2, w2 = inverse[:, 1] / focal  # per row
    farthest = 1 / NEAREST
    for row in range(y0, y1):
        dy = row + 0.5 - view[2]
        u0, v0, w0 = inverse[:, 2] + inverse[:, 1] * (dy / focal)
        for column in range(x0, x1):
            dx = column + 0.5 - view[1]
            w = w0 + w1 * dx  # 1 / depth
            if w <= 0 or w > farthest or depth[row, column] < view[3]:
                continue
            u, v = (u0 + u1 * dx) / w, (v0 + v1 * dx) / w
            r = max(np.sqrt(u * u + v * v), 1e-9)
            # pixels per unit of r, along its gradient
            gx, gy = (u * (u1 - u * w1) + v * (v1 - v * w1)) / w, (u * (u2 - u * w2) + v * (v2 - v * w2)) / w
            away = (r - 1) * r / max(np.sqrt(gx * gx + gy * gy), 1e-12)
            if is_ring:
                away = abs(away) - thick * focal * w
            cover = min(1.0, 0.5 - away)
            if cover <= 0:
                continue
            if name != 0:
                if cover >= 0.5:
                    mask[row, column] = name
            else:
                picture[row, column] += cover * (value - picture[row, column])
                if lamps.size:
                    lamps[row, column] -= cover * lamps[row, column]


@njit(cache=True, nogil=True, error_model="numpy")
def _draw_near_ring(c, a, b, thick, view, value, layers, name):
    """A ring whose thickness in pixels changes much along it, as capsules."""
    ends = np.empty((2, 3))
    for k in range(_RING_PIECES):
        for end in range(2):
            angle = 2 * np.pi * (k + end) / _RING_PIECES
            ends[end] = c + np.cos(angle) * a + np.sin(angle) * b
        seen, xa, ya, xb, yb, ra, rb = project_capsule(ends, 0, thick, view)
        if seen:
            fill_capsule(xa, ya, xb, yb, ra, rb, value, 1.0, view[3], layers, name)


@njit(cache=True, nogil=True, error_model="numpy")
def draw_capsule(body, p, placed, view, value, layers, name):
    seen, xa, ya, xb, yb, ra, rb = project_capsule(placed, body.first[p], body.radius[p], view)
    if seen:
        fill_capsule(xa, ya, xb, yb, ra, rb, value, 1.0, view[3], layers, name)


@njit(cache=True, nogil=True, error_model="numpy")
def fill_capsule(xa, ya, xb, yb, ra, rb, value, alpha, behind, layers, name):
    """A thick line from a to b, radius in pixels at either end, blended with opacity alpha."""
    picture, mask, depth, touched, lamps, _ = layers
    r = max(ra, rb) + 1
    x0, y0, x1, y1 = bounds(min(xa, xb) - r, min(ya, yb) - r, max(xa, xb) + r, max(ya, yb) + r, picture.shape)
    if name == 0:
        touch(touched, x0, y0, x1, y1)
    dx, dy = xb - xa, yb - ya
    length2 = max(dx * dx + dy * dy, 1e-12)
    thin = min(1.0, 2 * max(ra, rb))  # lines below a pixel fade instead of growing
    across, cover = np.arange(x0, x1) + 0.5 - xa, np.empty(max(x1 - x0, 0))
    for row in range(y0, y1):
        py = row + 0.5 - ya
        line, names, far = picture[row, x0:x1], mask[row, x0:x1], depth[row, x0:x1]
        for k in range(len(cover)):
            along = (across[k] * dx + py * dy) / length2
            along = along if along > 0.0 else 0.0
            along = along if along < 1.0 else 1.0
            ex, ey = across[k] - along * dx, py - along * dy
            wide = ra + along * (rb - ra)
            rest = 0.5 - (np.sqrt(ex * ex + ey * ey) - (wide if wide > 0.5 else 0.5))
            rest = (rest if rest < 1.0 else 1.0) * thin
            rest = rest if far[k] >= behind else 0.0
            cover[k] = rest if rest > 0.0 else 0.0
        if name != 0:
            for k in range(len(cover)):
                names[k] = name if cover[k] >= 0.5 else names[k]
        else:
            for k in range(len(cover)):
                line[k] += alpha * cover[k] * (value - line[k])
            if lamps.size:
                hidden = lamps[row, x0:x1]
                for k in range(len(cover)):
                    hidden[k] -= alpha * cover[k] * hidden[k]
