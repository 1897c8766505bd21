"""Numba kernels that draw bodies: placed, projected, clipped, blended over the picture with smooth edges.

Imported only where a scene is drawn. Arrays of a body are those of `bodies.Body`, layers those of `layers.Layers`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.traffic.layers import Layers

POLYGON, DISC, RING, CAPSULE, GLOW = range(5)
TILE = 16


_NEAREST = 0.3  # metres
_GROWN = 0.75  # pixels: edges are a quarter of a pixel outside, so that faces that touch leave no seam
_MOST_CORNERS = 16
_RING_PIECES = 64
_WIDEST, _WIDEST_HALO = 0.6, 115.0  # of what reaches beyond a body's vertices: metres of wheels and limbs, pixels
_LONG_RUN = 48  # pixels of a row from which a vectorised loop is worth its beginning


@njit(cache=True, nogil=True, error_model="numpy")
def place(body, pose, rotation, position, placed):
    """Write the body's vertices in camera coordinates, (V, 3) metres.

    pose: x, y, z, heading, travelled, swing (0 .. 1, how far limbs swing).
    """
    joints = len(body.pivot)
    cosine, sine = np.empty(joints), np.empty(joints)
    for j in range(joints):
        angle = body.bend[j] + body.turn[j] * pose[4]
        if body.amplitude[j] != 0:
            angle += pose[5] * body.amplitude[j] * np.sin(body.rate[j] * pose[4] + body.phase[j])
        cosine[j], sine[j] = np.cos(angle), np.sin(angle)
    ch, sh = np.cos(pose[3]), np.sin(pose[3])
    for v in range(len(body.vertices)):
        x, y, z = body.vertices[v, 0], body.vertices[v, 1], body.vertices[v, 2]
        joint = body.joint[v]
        while joint >= 0:  # about the lateral axis: what is above the pivot goes forward
            dx, dz = x - body.pivot[joint, 0], z - body.pivot[joint, 2]
            x = body.pivot[joint, 0] + dx * cosine[joint] + dz * sine[joint]
            z = body.pivot[joint, 2] - dx * sine[joint] + dz * cosine[joint]
            joint = body.parent[joint]
        wx = pose[0] + x * ch - y * sh - position[0]
        wy = pose[1] + x * sh + y * ch - position[1]
        wz = pose[2] + z - position[2]
        for k in range(3):
            placed[v, k] = rotation[k, 0] * wx + rotation[k, 1] * wy + rotation[k, 2] * wz


@njit(cache=True, nogil=True, error_model="numpy")
def flow(placed, velocity, limbs, view, size):
    """The fastest motion on the picture of a placed body, px/s, 0 where none of it is seen.

    velocity: (3,) in camera coordinates, m/s. limbs: what parts may move beyond it, m/s. size: width, height.
    """
    fastest = 0.0
    focal, cx, cy = view[0], view[1], view[2]
    left, top, right, bottom = np.inf, np.inf, -np.inf, -np.inf
    for v in range(len(placed)):
        z = placed[v, 2]
        if z < _NEAREST:
            continue
        p, q = placed[v, 0] / z, placed[v, 1] / z
        left, right, top, bottom = min(left, p), max(right, p), min(top, q), max(bottom, q)
        # what is beside the picture counts with the nearest place on it
        p = min(max(p, -cx / focal), (size[0] - cx) / focal)
        q = min(max(q, -cy / focal), (size[1] - cy) / focal)
        x, y = velocity[0] - velocity[2] * p, velocity[1] - velocity[2] * q
        fastest = max(fastest, (np.sqrt(x * x + y * y) + limbs) * focal / max(z, 1.0))
    outside = right * focal < -cx or left * focal > size[0] - cx or bottom * focal < -cy or top * focal > size[1] - cy
    return 0.0 if outside else fastest


@njit(cache=True, nogil=True, error_model="numpy")
def _is_behind(a, b, eye):
    """1: footprint a (4, 2) is behind b seen from eye, -1: before it, 0: they overlap."""
    for this, other, sign in ((b, a, 1), (a, b, -1)):
        for i in range(4):
            j = (i + 1) % 4
            nx, ny = this[j, 1] - this[i, 1], this[i, 0] - this[j, 0]  # outwards of a counter-clockwise edge
            apart = True
            for k in range(4):
                if nx * (other[k, 0] - this[i, 0]) + ny * (other[k, 1] - this[i, 1]) < 0:
                    apart = False
            if apart:
                outside = nx * (eye[0] - this[i, 0]) + ny * (eye[1] - this[i, 1]) > 0
                return -sign if outside else sign
    return 0


@njit(cache=True, nogil=True, error_model="numpy")
def far_to_near(ground, eye):
    """An order in which footprints, (N, 4, 2) counter-clockwise, may be painted one over the other.

    A line along an edge that parts two of them tells which is behind; where none does the farther middle is.
    """
    n = len(ground)
    away = np.empty(n)
    for i in range(n):
        x, y = ground[i, :, 0].mean() - eye[0], ground[i, :, 1].mean() - eye[1]
        away[i] = x * x + y * y
    behind = np.zeros((n, n), np.bool_)  # [i, j]: i must be painted before j
    for i in range(n):
        for j in range(i + 1, n):
            which = _is_behind(ground[i], ground[j], eye)
            if which == 0:
                which = 1 if away[i] > away[j] else -1
            behind[i, j], behind[j, i] = which > 0, which < 0
    order, done = np.empty(n, np.int64), np.zeros(n, np.bool_)
    for place in range(n):
        chosen, freest = -1, n
        for i in range(n):
            if done[i]:
                continue
            before = 0
            for j in range(n):
                before += behind[j, i] and not done[j]
            if before < freest or (before == freest and away[i] > away[chosen]):
                chosen, freest = i, before
        order[place], done[chosen] = chosen, True
    return order


@njit(cache=True, nogil=True, error_model="numpy")
def extent(body, placed, view):
    """left, top, right, bottom in pixels of what is solid of the placed body, clipped only to what is before the
    camera; right < left: nothing.
    """
    left, top, right, bottom = np.inf, np.inf, -np.inf, -np.inf
    scratch = np.empty((6, _MOST_CORNERS))
    for p in range(len(body.kind)):
        kind, first = body.kind[p], body.first[p]
        if kind == GLOW:
            continue
        if kind == CAPSULE:
            seen, xa, ya, xb, yb, ra, rb = _project_capsule(placed, first, body.radius[p], view)
            if not seen:
                continue
            box = min(xa - ra, xb - rb), min(ya - ra, yb - rb), max(xa + ra, xb + rb), max(ya + ra, yb + rb)
        elif kind == POLYGON:
            n = _project_polygon(placed, first, body.corners[p], view, scratch)
            if n < 3:
                continue
            x, y = scratch[0, :n], scratch[1, :n]
            box = x.min(), y.min(), x.max(), y.max()
        else:
            if body.closed[p] and _facing(placed, first)[3] >= 0:
                continue
            box = _disc_box(placed, first, 0.5 * body.radius[p], view)
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
    x0, y0, x1, y1 = _bounds(left, top, right, bottom, layers.picture.shape)
    if x1 <= x0 or y1 <= y0:
        return
    if name != 0 or not _any_tile(layers.flickers, x0, y0, x1, y1):
        no_lamps = np.empty((0, 0), np.float32)
        layers = Layers(layers.picture, layers.mask, layers.depth, layers.touched, no_lamps, layers.flickers)
    scratch = np.empty((6, _MOST_CORNERS))
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
def _any_tile(tiles, left, top, right, bottom):
    """Whether any tile of the pixels [left, right) x [top, bottom) is set."""
    for row in range(top // TILE, min((bottom - 1) // TILE + 1, tiles.shape[0])):
        for column in range(left // TILE, min((right - 1) // TILE + 1, tiles.shape[1])):
            if tiles[row, column]:
                return True
    return False


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


@njit(cache=True, nogil=True, error_model="numpy")
def _disc_box(placed, first, thick, view):
    """left, top, right, bottom in pixels of a disc given by its middle and two points on its rim, `thick` metres more
    at the rim; of what is before the camera, right < left: nothing.
    """
    focal, cx, cy = view[0], view[1], view[2]
    c, a, b = placed[first], placed[first + 1] - placed[first], placed[first + 2] - placed[first]
    near = c[2] - np.sqrt(a[2] * a[2] + b[2] * b[2])
    if near >= _NEAREST:
        # x / z over the rim has its extremes m where (c_x - m c_z)^2 = (a_x - m a_z)^2 + (b_x - m b_z)^2
        box = np.empty(4)
        q = c[2] * c[2] - a[2] * a[2] - b[2] * b[2]
        for k in range(2):
            middle = (c[k] * c[2] - a[k] * a[2] - b[k] * b[2]) / q
            rest = (c[k] * c[k] - a[k] * a[k] - b[k] * b[k]) / q
            half = np.sqrt(max(middle * middle - rest, 0.0)) + thick / near
            box[k], box[k + 2] = middle - half, middle + half
        return cx + focal * box[0], cy + focal * box[1], cx + focal * box[2], cy + focal * box[3]
    left, top, right, bottom = _square_box(c, a, b, view)
    wide = focal * thick / _NEAREST
    return left - wide, top - wide, right + wide, bottom + wide


@njit(cache=True, nogil=True, error_model="numpy")
def _square_box(c, a, b, view):
    """left, top, right, bottom in pixels of the parallelogram c +- a +- b; of what is before the camera."""
    corners, scratch = np.empty((4, 3)), np.empty((2, 8))
    for k in range(4):
        corners[k] = c + (a if k in (1, 2) else -a) + (b if k > 1 else -b)
    n = _project_polygon(corners, 0, 4, view, scratch)
    if n < 3:
        return np.inf, np.inf, -np.inf, -np.inf
    x, y = scratch[0, :n], scratch[1, :n]
    return x.min(), y.min(), x.max(), y.max()


@njit(cache=True, nogil=True, error_model="numpy")
def _inverse(c, a, b):
    """(3, 3), such that ray = depth^-1 (u a + v b + c) where inverse @ ray = (u, v, 1) / depth; and its determinant."""
    rows = np.empty((3, 3))
    volume = 0.0
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        rows[0, k] = b[i] * c[j] - b[j] * c[i]
        rows[1, k] = c[i] * a[j] - c[j] * a[i]
        rows[2, k] = a[i] * b[j] - a[j] * b[i]
        volume += rows[2, k] * c[k]
    return rows / volume, volume


@njit(cache=True, nogil=True, error_model="numpy")
def _facing(placed, first):
    """Normal of the face through three vertices, and whether it looks towards the camera."""
    x, y, z = placed[first, 0], placed[first, 1], placed[first, 2]
    ux, uy, uz = placed[first + 1, 0] - x, placed[first + 1, 1] - y, placed[first + 1, 2] - z
    vx, vy, vz = placed[first + 2, 0] - x, placed[first + 2, 1] - y, placed[first + 2, 2] - z
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    towards = nx * x + ny * y + nz * z
    return nx / length, ny / length, nz / length, towards


@njit(inline="always", error_model="numpy")  # a call with so many arrays takes as long as a small face
def _draw_primitive(body, p, placed, view, light, layers, name, scratch):
    kind, first, count = body.kind[p], body.first[p], body.corners[p]
    value = body.shade[p]
    if kind == GLOW:
        if name == 0:
            _draw_glow(body, p, placed, view, light, layers)
        return
    ambient, sun = light[0], light[1]
    if kind == CAPSULE:
        value *= ambient + 0.6 * sun
        _draw_capsule(body, p, placed, view, value, layers, name)
        return
    nx, ny, nz, towards = _facing(placed, first)
    if body.closed[p] and towards >= 0:
        return
    if towards > 0:
        nx, ny, nz = -nx, -ny, -nz
    value *= ambient + sun * max(0.0, nx * light[2] + ny * light[3] + nz * light[4])
    if kind == POLYGON:
        n = _project_polygon(placed, first, count, view, scratch)
        if n >= 3:
            fill_polygon(scratch, n, value, 0.0, view[3], layers, name)
    else:
        _draw_disc(body, p, placed, view, value, layers, name)


@njit(cache=True, nogil=True, error_model="numpy")
def _project_polygon(placed, first, count, view, scratch):
    """Clip to what is before the camera, project; writes rows x and y of scratch, returns the number of corners."""
    n = 0
    x, y = scratch[0], scratch[1]
    focal, cx, cy = view[0], view[1], view[2]
    for i in range(count):
        a, b = first + i, first + (i + 1) % count
        za, zb = placed[a, 2], placed[b, 2]
        if za >= _NEAREST:
            x[n], y[n] = cx + focal * placed[a, 0] / za, cy + focal * placed[a, 1] / za
            n += 1
        if (za >= _NEAREST) != (zb >= _NEAREST):
            share = (_NEAREST - za) / (zb - za)
            px = placed[a, 0] + share * (placed[b, 0] - placed[a, 0])
            py = placed[a, 1] + share * (placed[b, 1] - placed[a, 1])
            x[n], y[n] = cx + focal * px / _NEAREST, cy + focal * py / _NEAREST
            n += 1
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def _bounds(left, top, right, bottom, shape):
    """Pixel bounds on the picture: left, top, right, bottom, the last two outside."""
    return (
        int(min(max(np.floor(left), 0.0), float(shape[1]))),
        int(min(max(np.floor(top), 0.0), float(shape[0]))),
        int(max(min(np.ceil(right), float(shape[1])), 0.0)),
        int(max(min(np.ceil(bottom), float(shape[0])), 0.0)),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def touch(touched, left, top, right, bottom):
    """Set the tiles of the pixels [left, right) x [top, bottom)."""
    if right > left and bottom > top:
        for row in range(top // TILE, (bottom - 1) // TILE + 1):
            for column in range(left // TILE, (right - 1) // TILE + 1):
                touched[row, column] = True


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
    x0, y0, x1, y1 = _bounds(left - 1, top - 1, right + 1, bottom + 1, picture.shape)
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
def _draw_disc(body, p, placed, view, value, layers, name):
    """A filled disc, or a ring of the given thickness (metres): by where the ray of a pixel meets its plane."""
    picture, mask, depth, touched, lamps, _ = layers
    first = body.first[p]
    focal = view[0]
    is_ring, thick = body.kind[p] == RING, 0.5 * body.radius[p]
    c, a, b = placed[first], placed[first + 1] - placed[first], placed[first + 2] - placed[first]
    if is_ring and c[2] - np.sqrt(a[2] * a[2] + b[2] * b[2]) < 3 * _NEAREST:
        _draw_near_ring(c, a, b, thick, view, value, layers, name)
        return
    left, top, right, bottom = _disc_box(placed, first, thick, view)
    x0, y0, x1, y1 = _bounds(left - 1, top - 1, right + 1, bottom + 1, picture.shape)
    inverse, volume = _inverse(c, a, b)
    if x1 <= x0 or y1 <= y0 or abs(volume) * focal * focal < 1e-3 * abs(c[2]) ** 3:  # seen from its edge
        return
    if name == 0:
        touch(touched, x0, y0, x1, y1)
    u1, v1, w1 = inverse[:, 0] / focal  # per column
    u2, v2, w2 = inverse[:, 1] / focal  # per row
    farthest = 1 / _NEAREST
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
        seen, xa, ya, xb, yb, ra, rb = _project_capsule(ends, 0, thick, view)
        if seen:
            fill_capsule(xa, ya, xb, yb, ra, rb, value, 1.0, view[3], layers, name)


@njit(cache=True, nogil=True, error_model="numpy")
def _project_capsule(placed, first, radius, view):
    """(whether any is before the camera, xa, ya, xb, yb, ra, rb): the ends, clipped, and their radii in pixels."""
    focal, cx, cy = view[0], view[1], view[2]
    a, b = placed[first], placed[first + 1]
    if a[2] < _NEAREST and b[2] < _NEAREST:
        return False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if a[2] < _NEAREST:
        a = b + (b[2] - _NEAREST) / (b[2] - a[2]) * (a - b)
    elif b[2] < _NEAREST:
        b = a + (a[2] - _NEAREST) / (a[2] - b[2]) * (b - a)
    sa, sb = focal / a[2], focal / b[2]
    return True, cx + sa * a[0], cy + sa * a[1], cx + sb * b[0], cy + sb * b[1], sa * radius, sb * radius


@njit(cache=True, nogil=True, error_model="numpy")
def _draw_capsule(body, p, placed, view, value, layers, name):
    seen, xa, ya, xb, yb, ra, rb = _project_capsule(placed, body.first[p], body.radius[p], view)
    if seen:
        fill_capsule(xa, ya, xb, yb, ra, rb, value, 1.0, view[3], layers, name)


@njit(cache=True, nogil=True, error_model="numpy")
def fill_capsule(xa, ya, xb, yb, ra, rb, value, alpha, behind, layers, name):
    """A thick line from a to b, radius in pixels at either end, blended with opacity alpha."""
    picture, mask, depth, touched, lamps, _ = layers
    r = max(ra, rb) + 1
    x0, y0, x1, y1 = _bounds(min(xa, xb) - r, min(ya, yb) - r, max(xa, xb) + r, max(ya, yb) + r, picture.shape)
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


@njit(cache=True, nogil=True, error_model="numpy")
def _draw_glow(body, p, placed, view, light, layers):
    """A lamp: a bright spot and a faint halo, brightest from straight ahead. Vertices: the lamp, a point before it."""
    first = body.first[p]
    x, y, z = placed[first, 0], placed[first, 1], placed[first, 2]
    if z < _NEAREST or light[5] <= 0:
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
    left, y0, right, y1 = _bounds(x - reach - 0.5, y - reach, x + reach + 0.5, y + reach, picture.shape)
    columns = _columns(left, right)
    middle, scale, behind = np.float32(x - 0.5), np.float32(1 / reach2), np.float32(behind)
    strength, zero = np.float32(strength), np.float32(0)
    for row in range(y0, y1):
        dy = row + 0.5 - y
        if dy * dy >= reach2:
            continue
        half, inside = np.sqrt(reach2 - dy * dy), np.float32(1 - dy * dy / reach2)
        x0, _, x1, _ = _bounds(x - half - 0.5, y, x + half + 0.5, y, picture.shape)
        touch(touched, x0, row, x1, row + 1)
        line, far, at = picture[row, x0:x1], depth[row, x0:x1], columns[x0 - left : x1 - left]
        for k in range(len(line)):
            dx = at[k] - middle
            fall = inside - dx * dx * scale
            fall = fall if fall > zero else zero
            fall *= fall
            line[k] += strength * fall * fall if far[k] >= behind else zero


@njit(cache=True, nogil=True, error_model="numpy")
def _columns(left, right):
    """left .. right - 1 as float32: loops that convert their columns do not vectorise."""
    return np.arange(left, right).astype(np.float32)


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
    left, top, right, bottom = _square_box(
        corners[0], reach * (corners[1] - corners[0]), reach * (corners[2] - corners[0]), view
    )
    x0, y0, x1, y1 = _bounds(left, top, right, bottom, picture.shape)
    if x1 <= x0 or y1 <= y0:
        return
    inverse, _ = _inverse(corners[0], corners[1] - corners[0], corners[2] - corners[0])
    u1, v1, w1 = inverse[0, 0] / focal, inverse[1, 0] / focal, inverse[2, 0] / focal  # per column
    one, zero, bright = np.float32(1), np.float32(0), np.float32(strength)
    share, step = np.float32(1 / largest), (np.float32(u1), np.float32(v1), np.float32(w1))
    columns = _columns(x0, x1)
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
    scratch = np.empty((6, _MOST_CORNERS))
    corners = _project_polygon(seen, 0, n, view, scratch)
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


@njit(cache=True, nogil=True, error_model="numpy")
def restore(picture, background, tiles):
    """Copy the background into the marked tiles of the picture."""
    height, width = picture.shape
    for i in range(tiles.shape[0]):
        j = 0
        while j < tiles.shape[1]:
            first = j
            while j < tiles.shape[1] and tiles[i, j]:
                j += 1
            if j > first:
                left, right = first * TILE, min(j * TILE, width)
                for row in range(i * TILE, min((i + 1) * TILE, height)):
                    picture[row, left:right] = background[row, left:right]
            j += 1


@njit(cache=True, nogil=True, error_model="numpy")
def light_up(picture, base, lamps, factor, tiles):
    """picture = base + factor * lamps in the marked tiles."""
    height, width = picture.shape
    factor = np.float32(factor)
    for i in range(tiles.shape[0]):
        j = 0
        while j < tiles.shape[1]:
            first = j
            while j < tiles.shape[1] and tiles[i, j]:
                j += 1
            if j > first:
                left, right = first * TILE, min(j * TILE, width)
                for row in range(i * TILE, min((i + 1) * TILE, height)):
                    line, even, lamp = picture[row, left:right], base[row, left:right], lamps[row, left:right]
                    for k in range(len(line)):
                        line[k] = even[k] + factor * lamp[k]
            j += 1


@njit(cache=True, nogil=True, error_model="numpy")
def mask_extent(mask, name, left, top, right, bottom):
    """Number of pixels of a name within the bounds, and their tight box (left, top, right, bottom exclusive)."""
    count = 0
    x0, y0, x1, y1 = right, bottom, left, top
    for row in range(top, bottom):
        for column in range(left, right):
            if mask[row, column] == name:
                count += 1
                x0, x1 = min(x0, column), max(x1, column + 1)
                y0, y1 = min(y0, row), max(y1, row + 1)
    return count, x0, y0, x1, y1


@njit(cache=True, nogil=True, error_model="numpy")
def count_events(x, y, signal, mask, name, left, top, right, bottom):
    """Events within the bounds, on pixels of that name or of none: (those that the light caused, noise)."""
    caused, noise = 0, 0
    for i in range(len(x)):
        if left <= x[i] < right and top <= y[i] < bottom:
            seen = mask[y[i], x[i]]
            if seen == name or seen == 0:
                caused += signal[i]
                noise += not signal[i]
    return caused, noise
