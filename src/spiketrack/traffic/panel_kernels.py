"""Numba kernels that paint panels: facades with their windows, fences, signs, signals, the sides of parked cars.

Station: `street` plans them as tables of numbers; here they become pictures, see `ground_kernels`, and depth.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.traffic.ground_kernels import AMBIENT, HAZE, HAZE_M
from spiketrack.traffic.light_map_kernels import look_up
from spiketrack.traffic.texture_kernels import comb, cover, hash_of, octave
from spiketrack.traffic.viewing_kernels import FARTHEST_M, FAST, NEAREST_M, to_camera

# A panel, (32,): corner 0-2, unit edges 3-5 and 6-8, their lengths, normal 11-13, ...
P_WIDTH, P_HEIGHT, P_NORMAL, P_ALBEDO, P_KIND, P_LIGHT = 9, 10, 11, 14, 15, 16
P_PITCH_U, P_PITCH_V, P_OPEN_U, P_OPEN_V, P_FIRST, P_LIT, P_GLOW, P_SEED, P_GLASS, P_TEXTURE, P_ONE_SIDED = range(
    17, 28
)
PLAIN, FACADE, FENCE, SIGN, CAR_SIDE, SIGNAL = range(6)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _panel_box(camera, p, width, height):
    """(left, top, right, bottom) of the pixels a panel can reach, clipped; empty where it lies behind the camera."""
    low_x, low_y, high_x, high_y = 1e9, 1e9, -1e9, -1e9
    corners = np.empty((4, 3))
    for k in range(4):
        u = p[P_WIDTH] if k == 1 or k == 2 else 0.0
        v = p[P_HEIGHT] if k >= 2 else 0.0
        corners[k] = to_camera(
            camera, p[0] + u * p[3] + v * p[6], p[1] + u * p[4] + v * p[7], p[2] + u * p[5] + v * p[8]
        )
    for k in range(4):
        for step in range(2):
            a, b = corners[k], corners[(k + 1) % 4]
            if step == 0:
                if a[2] < NEAREST_M:
                    continue
                x, y, z = a[0], a[1], a[2]
            else:
                if (a[2] < NEAREST_M) == (b[2] < NEAREST_M):
                    continue
                m = (NEAREST_M - a[2]) / (b[2] - a[2])
                x, y, z = a[0] + m * (b[0] - a[0]), a[1] + m * (b[1] - a[1]), NEAREST_M
            px, py = camera[13] + camera[12] * x / z, camera[14] + camera[12] * y / z
            low_x, high_x, low_y, high_y = min(low_x, px), max(high_x, px), min(low_y, py), max(high_y, py)
    low_x, low_y = min(max(low_x - 1.0, 0.0), 1e6), min(max(low_y - 1.0, 0.0), 1e6)
    high_x, high_y = max(min(high_x + 2.0, float(width)), 0.0), max(min(high_y + 2.0, float(height)), 0.0)
    return int(low_x), int(low_y), int(high_x), int(high_y)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _facade(p, u, v, wu, wv, table, ambient):
    """(albedo, glow) of a wall with windows at u metres along, v metres up; wu, wv: footprint."""
    seed = np.int64(p[P_SEED])
    footprint = max(wu, wv)
    rough = 0.5 * octave(table, u + seed, v, 0.12, footprint) + 0.5 * octave(table, u, v + seed, 1.3, footprint)
    wall = p[P_ALBEDO] * max(0.3, 1.0 + p[P_TEXTURE] * rough)
    first = p[P_FIRST]
    if v > first or first <= 0.0:
        pitch_u, pitch_v, share_u, share_v, up, floor = (
            p[P_PITCH_U],
            p[P_PITCH_V],
            p[P_OPEN_U],
            p[P_OPEN_V],
            v - first,
            1,
        )
    else:
        pitch_u, pitch_v, share_u, share_v, up, floor = 2.0 * p[P_PITCH_U], first, 0.8, 0.7, v, 0
    open_u, open_v = share_u * pitch_u, share_v * pitch_v
    off_u, off_v = u - 0.5 * (pitch_u - open_u), up - 0.35 * (pitch_v - open_v) - 0.1
    glass = comb(off_u, wu, pitch_u, open_u) * comb(off_v, wv, pitch_v, open_v)
    glass *= cover(v, wv, -1.0, p[P_HEIGHT] - 0.75)  # the parapet has none
    rim = 0.12
    outer = comb(off_u + rim, wu, pitch_u, open_u + 2 * rim) * comb(off_v + rim, wv, pitch_v, open_v + 2 * rim)
    wall += (min(0.75, 1.5 * p[P_ALBEDO]) - wall) * max(0.0, outer - glass)
    wall *= 1.0 - 0.35 * comb(up, wv, pitch_v, 0.14)
    i, j = np.int64(np.floor(off_u / pitch_u)), np.int64(np.floor(off_v / pitch_v)) + 50 * floor
    chance, level = hash_of(i, j, seed), hash_of(i, j, seed + 7)
    lit = p[P_LIT] if floor else min(1.0, 2.0 * p[P_LIT])
    glow = p[P_GLOW] * (0.15 + level * level) if chance < lit else 0.0
    fade = min(1.0, max(0.0, 1.5 - footprint / pitch_u))  # far windows show their mean
    glow = fade * glow + (1.0 - fade) * p[P_GLOW] * 0.48 * lit
    glow += ambient * p[P_GLASS] * (fade * level + (1.0 - fade) * 0.5)
    return wall + (0.04 - wall) * glass, glow * glass


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def paint_panels(camera, panels, order, tones, light, table, maps, frame, intensity, albedo, lamp, depth, open_, front):
    """Walls, roofs, fences, signs, parked cars: rectangles in space, best near to far in `order`.

    Pictures start at 0, depth and front (the nearest thing seen) at inf, open_ (the share that is free) at 1.
    """
    height, width = intensity.shape
    focal = camera[12]
    for k in order:
        p = panels[k]
        facing = (camera[0] - p[0]) * p[11] + (camera[1] - p[1]) * p[12] + (camera[2] - p[2]) * p[13]
        if facing <= 0.01 and (p[P_ONE_SIDED] > 0.0 or facing > -0.01):
            continue
        middle = to_camera(
            camera,
            p[0] + 0.5 * (p[P_WIDTH] * p[3] + p[P_HEIGHT] * p[6]),
            p[1] + 0.5 * (p[P_WIDTH] * p[4] + p[P_HEIGHT] * p[7]),
            p[2] + 0.5 * (p[P_WIDTH] * p[5] + p[P_HEIGHT] * p[8]),
        )
        reach = 0.5 * (p[P_WIDTH] + p[P_HEIGHT])
        if middle[2] + reach < NEAREST_M or middle[2] - reach > FARTHEST_M:
            continue
        x0, y0, x1, y1 = _panel_box(camera, p, width, height)
        kind = int(p[P_KIND])
        for i in range(y0, y1):
            y = (i + 0.5 - camera[14]) / focal
            for j in range(x0, x1):
                x = (j + 0.5 - camera[13]) / focal
                rx = camera[9] + x * camera[3] + y * camera[6]
                ry = camera[10] + x * camera[4] + y * camera[7]
                rz = camera[11] + x * camera[5] + y * camera[8]
                slope = rx * p[11] + ry * p[12] + rz * p[13]
                if slope * facing >= 0.0:
                    continue
                t = -facing / slope
                is_front = t < front[i, j]
                if t < NEAREST_M or not (is_front or open_[i, j] > 0.004):
                    continue
                hx, hy, hz = camera[0] + t * rx, camera[1] + t * ry, camera[2] + t * rz
                dx, dy, dz = hx - p[0], hy - p[1], hz - p[2]
                u = dx * p[3] + dy * p[4] + dz * p[5]
                if u < -1.0 or u > p[P_WIDTH] + 1.0:
                    continue
                v = dx * p[6] + dy * p[7] + dz * p[8]
                w = t / focal
                ru, rv = rx * p[3] + ry * p[4] + rz * p[5], rx * p[6] + ry * p[7] + rz * p[8]
                wu = w * (1.0 + abs(ru / slope)) + 1e-4
                wv = w * (1.0 + abs(rv / slope)) + 1e-4
                alpha = cover(u, wu, 0.0, p[P_WIDTH]) * cover(v, wv, 0.0, p[P_HEIGHT])
                if alpha <= 0.003:
                    continue
                tone, glow = p[P_ALBEDO], 0.0
                if kind == FACADE:
                    tone, glow = _facade(p, u, v, wu, wv, table, light[AMBIENT])
                elif kind == FENCE:
                    bars = max(comb(u, wu, p[P_PITCH_U], 0.3 * p[P_PITCH_U]), cover(v, wv, 0.1, 0.2))
                    alpha *= max(bars, cover(v, wv, p[P_HEIGHT] - 0.08, p[P_HEIGHT]))
                elif kind == SIGN:
                    a, b = u / p[P_WIDTH] - 0.5, v / p[P_HEIGHT] - 0.5
                    far = 2.0 * np.sqrt(a * a + b * b)
                    soft = 2.0 * w / p[P_WIDTH]
                    if p[P_OPEN_U] > 0.0:  # round
                        alpha *= min(1.0, max(0.0, (1.0 - far) / soft + 0.5))
                    else:
                        far = 2.0 * max(abs(a), abs(b))
                    tone += (p[P_GLASS] - tone) * min(1.0, max(0.0, (0.72 - far) / soft + 0.5))
                elif kind == CAR_SIDE:
                    near = min(abs(u - 0.2 * p[P_WIDTH]), abs(u - 0.8 * p[P_WIDTH]))
                    far = np.sqrt(near * near + (v - 0.12) ** 2)
                    tone += (0.03 - tone) * min(1.0, max(0.0, (0.34 - far) / w + 0.5))
                elif kind == SIGNAL:
                    a = v / p[P_HEIGHT] * 3.0
                    far = np.sqrt((u / p[P_WIDTH] - 0.5) ** 2 + (a - np.floor(a) - 0.5) ** 2)
                    tone += (0.12 - tone) * min(1.0, max(0.0, (0.33 - far) / (w / p[P_WIDTH]) + 0.5))
                else:
                    far = max(wu, wv)
                    rough = 0.5 * octave(table, u + p[P_SEED], v, 0.15, far)
                    rough += 0.5 * octave(table, u, v + p[P_SEED], 1.6, far)
                    tone *= max(0.3, 1.0 + p[P_TEXTURE] * rough)
                side = 1.0 if facing > 0.0 else -1.0
                shine = look_up(maps, frame, hx + 0.8 * side * p[11], hy + 0.8 * side * p[12])[1]
                shine *= 0.7 * max(0.0, 1.0 - hz / 11.0)
                haze = (t / tones[HAZE_M]) ** 2
                haze = haze / (1.0 + haze)
                bright = tone * p[P_LIGHT] + glow
                bright += haze * (light[HAZE] - bright)
                shine *= tone * (1.0 - haze)
                if is_front:  # over what is there
                    keep, add = 1.0 - alpha, alpha
                    front[i, j] = t
                else:  # under it
                    keep, add = 1.0, alpha * open_[i, j]
                intensity[i, j] = keep * intensity[i, j] + add * bright
                albedo[i, j] = keep * albedo[i, j] + add * tone
                lamp[i, j] = keep * lamp[i, j] + add * shine
                open_[i, j] *= 1.0 - alpha
                if alpha > 0.5 and t < depth[i, j]:
                    depth[i, j] = t
