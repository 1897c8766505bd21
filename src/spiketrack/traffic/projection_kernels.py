"""Numba kernels of projection: what of a primitive is before the camera, and where on the picture.

Station: in come vertices in camera coordinates (x right, y down, z ahead; metres) and a view (focal length, principal
point, ...), out go pixels. What crosses the plane NEAREST metres before the camera is cut there.
"""

from __future__ import annotations

import numpy as np
from numba import njit

NEAREST = 0.3  # metres
MOST_CORNERS = 16  # of a face that was cut


@njit(cache=True, nogil=True, error_model="numpy")
def facing(placed, first):
    """Normal of the face through three vertices, and whether it looks towards the camera."""
    x, y, z = placed[first, 0], placed[first, 1], placed[first, 2]
    ux, uy, uz = placed[first + 1, 0] - x, placed[first + 1, 1] - y, placed[first + 1, 2] - z
    vx, vy, vz = placed[first + 2, 0] - x, placed[first + 2, 1] - y, placed[first + 2, 2] - z
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    towards = nx * x + ny * y + nz * z
    return nx / length, ny / length, nz / length, towards


@njit(cache=True, nogil=True, error_model="numpy")
def project_polygon(placed, first, count, view, scratch):
    """Clip to what is before the camera, project; writes rows x and y of scratch, returns the number of corners."""
    n = 0
    x, y = scratch[0], scratch[1]
    focal, cx, cy = view[0], view[1], view[2]
    for i in range(count):
        a, b = first + i, first + (i + 1) % count
        za, zb = placed[a, 2], placed[b, 2]
        if za >= NEAREST:
            x[n], y[n] = cx + focal * placed[a, 0] / za, cy + focal * placed[a, 1] / za
            n += 1
        if (za >= NEAREST) != (zb >= NEAREST):
            share = (NEAREST - za) / (zb - za)
            px = placed[a, 0] + share * (placed[b, 0] - placed[a, 0])
            py = placed[a, 1] + share * (placed[b, 1] - placed[a, 1])
            x[n], y[n] = cx + focal * px / NEAREST, cy + focal * py / NEAREST
            n += 1
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def project_capsule(placed, first, radius, view):
    """(whether any is before the camera, xa, ya, xb, yb, ra, rb): the ends, clipped, and their radii in pixels."""
    focal, cx, cy = view[0], view[1], view[2]
    a, b = placed[first], placed[first + 1]
    if a[2] < NEAREST and b[2] < NEAREST:
        return False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if a[2] < NEAREST:
        a = b + (b[2] - NEAREST) / (b[2] - a[2]) * (a - b)
    elif b[2] < NEAREST:
        b = a + (a[2] - NEAREST) / (a[2] - b[2]) * (b - a)
    sa, sb = focal / a[2], focal / b[2]
    return True, cx + sa * a[0], cy + sa * a[1], cx + sb * b[0], cy + sb * b[1], sa * radius, sb * radius


@njit(cache=True, nogil=True, error_model="numpy")
def disc_box(placed, first, thick, view):
    """left, top, right, bottom in pixels of a disc given by its middle and two points on its rim, `thick` metres more
    at the rim; of what is before the camera, right < left: nothing.
    """
    focal, cx, cy = view[0], view[1], view[2]
    c, a, b = placed[first], placed[first + 1] - placed[first], placed[first + 2] - placed[first]
    near = c[2] - np.sqrt(a[2] * a[2] + b[2] * b[2])
    if near >= NEAREST:
        # x / z over the rim has its extremes m where (c_x - m c_z)^2 = (a_x - m a_z)^2 + (b_x - m b_z)^2
        box = np.empty(4)
        q = c[2] * c[2] - a[2] * a[2] - b[2] * b[2]
        for k in range(2):
            middle = (c[k] * c[2] - a[k] * a[2] - b[k] * b[2]) / q
            rest = (c[k] * c[k] - a[k] * a[k] - b[k] * b[k]) / q
            half = np.sqrt(max(middle * middle - rest, 0.0)) + thick / near
            box[k], box[k + 2] = middle - half, middle + half
        return cx + focal * box[0], cy + focal * box[1], cx + focal * box[2], cy + focal * box[3]
    left, top, right, bottom = square_box(c, a, b, view)
    wide = focal * thick / NEAREST
    return left - wide, top - wide, right + wide, bottom + wide


@njit(cache=True, nogil=True, error_model="numpy")
def square_box(c, a, b, view):
    """left, top, right, bottom in pixels of the parallelogram c +- a +- b; of what is before the camera."""
    corners, scratch = np.empty((4, 3)), np.empty((2, 8))
    for k in range(4):
        corners[k] = c + (a if k in (1, 2) else -a) + (b if k > 1 else -b)
    n = project_polygon(corners, 0, 4, view, scratch)
    if n < 3:
        return np.inf, np.inf, -np.inf, -np.inf
    x, y = scratch[0, :n], scratch[1, :n]
    return x.min(), y.min(), x.max(), y.max()


@njit(cache=True, nogil=True, error_model="numpy")
def inverse_of(c, a, b):
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
def bounds(left, top, right, bottom, shape):
    """Pixel bounds on the picture: left, top, right, bottom, the last two outside."""
    return (
        int(min(max(np.floor(left), 0.0), float(shape[1]))),
        int(min(max(np.floor(top), 0.0), float(shape[0]))),
        int(max(min(np.ceil(right), float(shape[1])), 0.0)),
        int(max(min(np.ceil(bottom), float(shape[0])), 0.0)),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def column_numbers(left, right):
    """left .. right - 1 as float32: loops that convert their columns do not vectorise."""
    return np.arange(left, right).astype(np.float32)
