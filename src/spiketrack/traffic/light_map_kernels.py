"""Numba kernels of the map of light: how much of the sun and of the lamps reaches which place on the ground.

Station: in come shadows and bulbs as tables of numbers, out goes the map (N, M, 2), and what it says of a place.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.traffic.viewing_kernels import FAST


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def look_up(maps, frame, x, y):
    """(share of the sun, light of the lamps) at a ground point; maps (N, M, 2); frame: x, y of the corner, step."""
    u, v = (x - frame[0]) / frame[2], (y - frame[1]) / frame[2]
    if not (u >= 0.0 and v >= 0.0 and u < maps.shape[1] - 1 and v < maps.shape[0] - 1):
        return 1.0, 0.0
    j, i = np.int64(u), np.int64(v)
    u, v = u - j, v - i
    a, b, c, d = (1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v
    sun = a * maps[i, j, 0] + b * maps[i, j + 1, 0] + c * maps[i + 1, j, 0] + d * maps[i + 1, j + 1, 0]
    lamp = a * maps[i, j, 1] + b * maps[i, j + 1, 1] + c * maps[i + 1, j, 1] + d * maps[i + 1, j + 1, 1]
    return sun, lamp


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def cast_shadows(maps, frame, capsules):
    """Take the sun away on the ground; capsules (N, 6): two ends (x, y), radius, share of the sun that is held back."""
    step = frame[2]
    for k in range(len(capsules)):
        ax, ay, bx, by, radius, strength = capsules[k]
        wide = radius + step
        i0, i1 = (min(ay, by) - wide - frame[1]) / step, (max(ay, by) + wide - frame[1]) / step
        j0, j1 = (min(ax, bx) - wide - frame[0]) / step, (max(ax, bx) + wide - frame[0]) / step
        dx, dy = bx - ax, by - ay
        length2 = max(dx * dx + dy * dy, 1e-9)
        for i in range(max(0, int(i0)), min(maps.shape[0], max(0, int(i1) + 2))):
            for j in range(max(0, int(j0)), min(maps.shape[1], max(0, int(j1) + 2))):
                px, py = frame[0] + j * step - ax, frame[1] + i * step - ay
                m = min(1.0, max(0.0, (px * dx + py * dy) / length2))
                away = np.sqrt((px - m * dx) ** 2 + (py - m * dy) ** 2)
                share = min(1.0, max(0.0, (radius - away) / step + 0.5)) * min(1.0, 2.0 * radius / step)
                maps[i, j, 0] *= 1.0 - strength * share


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def cast_blocks(maps, frame, blocks):
    """Shadows of walls; blocks (N, 6): corner, one edge, the way of the shadow (x, y each): parallelograms."""
    step = frame[2]
    for k in range(len(blocks)):
        ox, oy, ux, uy, vx, vy = blocks[k]
        area = ux * vy - uy * vx
        if abs(area) < 1e-6:
            continue
        low_x, high_x = ox + min(0.0, ux) + min(0.0, vx), ox + max(0.0, ux) + max(0.0, vx)
        low_y, high_y = oy + min(0.0, uy) + min(0.0, vy), oy + max(0.0, uy) + max(0.0, vy)
        i0, i1 = (low_y - frame[1]) / step, (high_y - frame[1]) / step
        j0, j1 = (low_x - frame[0]) / step, (high_x - frame[0]) / step
        for i in range(max(0, int(i0)), min(maps.shape[0], max(0, int(i1) + 2))):
            for j in range(max(0, int(j0)), min(maps.shape[1], max(0, int(j1) + 2))):
                px, py = frame[0] + j * step - ox, frame[1] + i * step - oy
                a, b = (px * vy - py * vx) / area, (py * ux - px * uy) / area
                if 0.0 <= a <= 1.0 and 0.0 <= b <= 1.0:
                    maps[i, j, 0] = 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def shine_lamps(maps, frame, bulbs, at_foot):
    """Pools of light: at_foot (N,) is the light under each bulb; it falls as 1 / (1 + (d / h)^2)^2."""
    step = frame[2]
    for k in range(len(bulbs)):
        high = bulbs[k, 2]
        wide = 5.0 * high
        i0, i1 = (bulbs[k, 1] - wide - frame[1]) / step, (bulbs[k, 1] + wide - frame[1]) / step
        j0, j1 = (bulbs[k, 0] - wide - frame[0]) / step, (bulbs[k, 0] + wide - frame[0]) / step
        for i in range(max(0, int(i0)), min(maps.shape[0], max(0, int(i1) + 2))):
            for j in range(max(0, int(j0)), min(maps.shape[1], max(0, int(j1) + 2))):
                dx, dy = frame[0] + j * step - bulbs[k, 0], frame[1] + i * step - bulbs[k, 1]
                maps[i, j, 1] += at_foot[k] / (1.0 + (dx * dx + dy * dy) / (high * high)) ** 2
