"""Kernels of the surroundings: the ground, walls, rods and leaves of a street, pixel by pixel.

Station: `surroundings` plans a street as tables of numbers; here they become pictures. What comes in: a camera (16,),
the tables. What goes out: pictures (H, W) float32, filled in place: linear intensity without lamps, albedo, light of
the lamps, depth. Patterns are averaged over the footprint of a pixel in closed form, noise fades with it (Perlin's
"clamping" of octaves), so that a far texture is grey and does not alias when the camera moves.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FAST = {"arcp", "contract", "nsz"}  # infinities stay what they are
NEAREST_M = 0.3
FARTHEST_M = 260.0  # things that stand farther away are not drawn

# A camera, (16,): position 0-2, rows of the rotation 3-11, focal length 12, principal point 13-14.
# Tones of the ground, (16,), see `ground.draw_tones`.
ASPHALT, MARKING, PAVEMENT, KERB, VERGE, CONTRAST, WEAR, PATCHES, SLAB, HAZE_M, TURF = range(11)
# Light, (10,): the sun counts on level ground.
AMBIENT, SUN, ZENITH, HORIZON, CLOUDS, SKYLINE, HAZE = range(7)
# A road, (16,).
ROAD_X, ROAD_Y, ROAD_COS, ROAD_SIN, ROAD_FROM, ROAD_TO, ROAD_HALF, ROAD_EDGE, ROAD_STRIPS, ROAD_LINES, ROAD_BARS = (
    range(11)
)
# A strip, (4,): road, from, to (left of the axis), albedo. A line, (6,): road, middle, half width, period (0: solid),
# dash, albedo. A bar across the road, (7,): road, s from, s to, left from, left to, period of stripes (0: full),
# albedo.
# A panel, (32,): corner 0-2, unit edges 3-5 and 6-8, their lengths, normal 11-13, ...
P_WIDTH, P_HEIGHT, P_NORMAL, P_ALBEDO, P_KIND, P_LIGHT = 9, 10, 11, 14, 15, 16
P_PITCH_U, P_PITCH_V, P_OPEN_U, P_OPEN_V, P_FIRST, P_LIT, P_GLOW, P_SEED, P_GLASS, P_TEXTURE, P_ONE_SIDED = range(
    17, 28
)
PLAIN, FACADE, FENCE, SIGN, CAR_SIDE, SIGNAL = range(6)
# A rod, (10,): ends 0-5, radii 6-7, albedo, light. A leaf, (7,): middle, radius, albedo * light, sway, phase, albedo.


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _cover(x, w, a, b):
    """Share of [a, b] in a box of width w around x."""
    both = min(b, x + 0.5 * w) - max(a, x - 0.5 * w)
    return both / w if both > 0.0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _comb(x, w, period, on):
    """Mean, over a box of width w around x, of a comb that is 1 on [0, on) of every period."""
    a, b, share = x / period - 0.5 * w / period, x / period + 0.5 * w / period, on / period
    whole_a, whole_b = np.floor(a), np.floor(b)
    return ((whole_b - whole_a) * share + min(b - whole_b, share) - min(a - whole_a, share)) / (b - a)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _hash(i, j, k):
    """A number in [0, 1) that follows from three integers."""
    h = (i * 374761393 + j * 668265263 + k * 974634777) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 739982445) & 0xFFFFFFFF
    h = ((h ^ (h >> 12)) * 695872825) & 0xFFFFFFFF
    return ((h ^ (h >> 15)) & 0xFFFFFF) / 16777216.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _noise(table, x, y):
    """Value noise: table (256, 256) of numbers in [-1, 1], one a unit, repeated, between them linear."""
    fx, fy = np.floor(x), np.floor(y)
    i, j = np.int64(fy), np.int64(fx)
    u, v = x - fx, y - fy
    i0, j0 = np.uint64(i & 255), np.uint64(j & 255)  # unsigned: spares the test for negative indices
    i1, j1 = np.uint64((i + 1) & 255), np.uint64((j + 1) & 255)
    top = table[i0, j0] + u * (table[i0, j1] - table[i0, j0])
    low = table[i1, j0] + u * (table[i1, j1] - table[i1, j0])
    return top + v * (low - top)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _octave(table, x, y, cell, footprint):
    """Noise with cells of `cell` metres, faded where the footprint of a pixel is as large as a cell."""
    weight = 1.5 - footprint / cell
    if weight <= 0.0:
        return 0.0
    return min(weight, 1.0) * _noise(table, x / cell, y / cell)


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
def _ground(x, y, e1x, e1y, e2x, e2y, tones, roads, strips, lines, bars, table):
    """Albedo at a ground point whose pixel reaches over the ground vectors e1 and e2."""
    footprint = max(abs(e1x) + abs(e2x), abs(e1y) + abs(e2y))
    contrast = tones[CONTRAST]
    grain = 0.7 * _octave(table, x, y, 0.045, footprint) + 0.5 * _octave(table, y + 31.7, x, 0.21, footprint)
    broad = _octave(table, x + 71.3, y, 2.3, footprint) + 0.7 * _octave(table, x, y + 17.1, 11.0, footprint)
    on_road, on_walk, kerb, painted, paint = 0.0, 0.0, 0.0, 0.0, tones[MARKING]
    bed, bed_share, seam = 0.0, 0.0, 0.0
    patch = 0.0
    for r in range(len(roads)):
        road = roads[r]
        dx, dy = x - road[ROAD_X], y - road[ROAD_Y]
        c, n = road[ROAD_COS], road[ROAD_SIN]
        left = dy * c - dx * n
        wl = abs(e1y * c - e1x * n) + abs(e2y * c - e2x * n) + 1e-4
        edge = road[ROAD_EDGE]
        if abs(left) - 0.5 * wl > edge:
            continue
        s = dx * c + dy * n
        ws = abs(e1x * c + e1y * n) + abs(e2x * c + e2y * n) + 1e-4
        along = _cover(s, ws, road[ROAD_FROM], road[ROAD_TO])
        if along <= 0.0:
            continue
        half = road[ROAD_HALF]
        inside = along * _cover(left, wl, -half, half)
        walk = along * _cover(left, wl, -edge, edge)
        if walk > on_walk:
            on_walk = walk
        if inside < 1.0 and footprint < tones[SLAB]:
            joint = 0.02
            slab = tones[SLAB]
            seam = max(_comb(s, ws, slab, joint), _comb(left, wl, slab, joint))
            seam *= min(1.0, max(0.0, 2.0 - max(ws, wl) / (0.5 * slab)))
        if edge > half:
            rim = along * (_cover(left, wl, -half - 0.15, half + 0.15)) - inside
            kerb = max(kerb, rim)
        if inside <= 0.0:
            continue
        zebra = 0.0
        marks = 0.0
        for b in range(len(bars)):
            bar = bars[b]
            if bar[0] != r:
                continue
            part = _cover(s, ws, bar[1], bar[2])
            if part > 0.0:
                part_left = part * _cover(left, wl, bar[3], bar[4])
                if bar[5] > 0.0:
                    zebra = max(zebra, part)
                    part_left *= _comb(left - bar[3], wl, bar[5], 0.5 * bar[5])
                marks = max(marks, part_left)
        if zebra < 1.0:
            for m in range(len(lines)):
                line = lines[m]
                if line[0] != r:
                    continue
                part = (1.0 - zebra) * _cover(left, wl, line[1] - line[2], line[1] + line[2])
                if part > 0.0:
                    if line[3] > 0.0:
                        part *= _comb(s, ws, line[3], line[4])
                    if line[5] < 0.4:  # rails are no paint: they go on through crossings
                        bed_share = max(bed_share, part)
                        bed = line[5]
                    else:
                        marks += part
        for m in range(len(strips)):
            strip = strips[m]
            if strip[0] == r:
                part = _cover(left, wl, strip[1], strip[2]) * (1.0 - on_road)
                if part > bed_share:
                    bed_share, bed = part, strip[3]
        if tones[PATCHES] > 0.0 and footprint < 3.0:
            i, j = np.int64(np.floor(s / 7.0)), np.int64(np.floor(left / 3.1))
            chance = _hash(i, j, 11 + r)
            if chance < tones[PATCHES]:
                u, v = s - 7.0 * i, left - 3.1 * j
                a, b = 1.0 + 2.0 * _hash(i, j, 12), 0.3 + 1.2 * _hash(i, j, 13)
                size_u, size_v = a + 1.0 + 2.5 * _hash(i, j, 14), b + 0.6 + 0.9 * _hash(i, j, 15)
                inner = _cover(u, ws, a, size_u) * _cover(v, wl, b, size_v)
                outer = _cover(u, ws, a - 0.05, size_u + 0.05) * _cover(v, wl, b - 0.05, size_v + 0.05)
                patch += inner * (0.9 * _hash(i, j, 16) - 0.5) - 0.5 * (outer - inner)
            elif chance > 0.93:  # a manhole
                u, v = s - 7.0 * i - 3.5, left - 3.1 * j - 1.5
                far = np.sqrt(u * u + v * v)
                patch -= 0.45 * min(1.0, max(0.0, (0.33 - far) / max(footprint, 0.02) + 0.5))
                patch += 0.5 * min(1.0, max(0.0, (0.04 - abs(far - 0.37)) / max(footprint, 0.02) + 0.5))
        painted = painted * (1.0 - inside) + min(marks, 1.0) * inside * (1.0 - on_road)
        on_road = max(on_road, inside)
    albedo = 0.0
    if on_walk < 1.0:
        turf = 0.6 * grain + 0.35 * broad
        if tones[TURF] > 0.0:
            turf += 0.6 * _octave(table, 3.1 * x, y - 0.4 * x, 0.4, footprint)
        albedo = tones[VERGE] * max(0.25, 1.0 + contrast * turf)
    if on_walk > 0.0:
        albedo *= 1.0 - on_walk
        if on_road < on_walk:
            slabs = tones[PAVEMENT] * max(0.3, 1.0 + contrast * (0.12 * grain + 0.14 * broad)) * (1.0 - 0.45 * seam)
            albedo += slabs * (on_walk - on_road)
        if on_road > 0.0:
            tone = tones[ASPHALT] + (bed - tones[ASPHALT]) * min(bed_share, 1.0)
            stain = max(0.0, 0.5 * broad - 0.35)
            tone *= max(0.35, 1.0 + contrast * (0.3 * grain + 0.16 * broad + 0.7 * patch - 0.8 * stain))
            if painted > 0.0:
                worn = tones[WEAR] * min(1.0, max(0.0, 0.5 + 0.9 * grain + 0.4 * broad))
                tone += (paint * (1.0 - 0.5 * worn) - tone) * min(painted, 1.0)
            albedo += tone * on_road
        kerb = min(max(kerb, 0.0), on_walk - min(on_road, on_walk))
        if kerb > 0.0:
            albedo += (tones[KERB] - tones[PAVEMENT]) * kerb
    return albedo


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def paint_ground(camera, tones, light, roads, strips, lines, bars, table, maps, frame, intensity, albedo, lamp, open_):
    """Add ground and sky to what stands before them; open_ (H, W): the share of each pixel that is still free."""
    height, width = intensity.shape
    focal, middle_x, middle_y = camera[12], camera[13], camera[14]
    ax, ay, az = camera[3] / focal, camera[4] / focal, camera[5] / focal
    bx, by, bz = camera[6] / focal, camera[7] / focal, camera[8] / focal
    high = camera[2]
    for i in range(height):
        y = i + 0.5 - middle_y
        for j in range(width):
            x = j + 0.5 - middle_x
            rx, ry, rz = camera[9] + x * ax + y * bx, camera[10] + x * ay + y * by, camera[11] + x * az + y * bz
            free = open_[i, j]
            if free < 0.004:
                continue
            if high > 0.0 and -3000.0 * rz > high:  # the ground is seen up to 3 km
                t = -high / rz
                gx, gy = camera[0] + t * rx, camera[1] + t * ry
                qa, qb = az / rz, bz / rz
                e1x, e1y = t * (ax - rx * qa), t * (ay - ry * qa)
                e2x, e2y = t * (bx - rx * qb), t * (by - ry * qb)
                value = _ground(gx, gy, e1x, e1y, e2x, e2y, tones, roads, strips, lines, bars, table)
                sun, shine = look_up(maps, frame, gx, gy)
                haze = (t / tones[HAZE_M]) ** 2
                haze = haze / (1.0 + haze)
                bright = value * (light[AMBIENT] + light[SUN] * sun)
                intensity[i, j] += free * (bright + haze * (light[HAZE] - bright))
                albedo[i, j] += free * value
                lamp[i, j] += free * value * shine * (1.0 - haze)
            else:
                flat = rx * rx + ry * ry
                rise = max(rz, 0.0) / np.sqrt(flat + rz * rz)
                sky = light[HORIZON] + (light[ZENITH] - light[HORIZON]) * min(1.0, 1.6 * rise)
                if light[CLOUDS] > 0.0:
                    k = 3.0 / (rise + 0.25) / np.sqrt(flat + rz * rz)
                    cloud = _noise(table, rx * k + 9.0, ry * k) + 0.5 * _noise(table, 2.1 * rx * k, 2.1 * ry * k + 5.0)
                    sky *= 1.0 + light[CLOUDS] * cloud
                if rise < 0.12:
                    bearing = np.arctan2(ry, rx)
                    far = 0.030 + 0.006 * _noise(table, 40.0 * bearing + 100.0, 3.0)
                    far += 0.004 * _noise(table, 170.0 * bearing + 400.0, 9.0) + 0.015 * _noise(
                        table, 5.0 * bearing, 1.0
                    )
                    share = min(1.0, max(0.0, (far - rise) * focal + 0.5))
                    sky += (light[SKYLINE] - sky) * share
                intensity[i, j] += free * sky


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _seen(camera, x, y, z):
    """Camera coordinates of a world point."""
    dx, dy, dz = x - camera[0], y - camera[1], z - camera[2]
    return (
        dx * camera[3] + dy * camera[4] + dz * camera[5],
        dx * camera[6] + dy * camera[7] + dz * camera[8],
        dx * camera[9] + dy * camera[10] + dz * camera[11],
    )


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _panel_box(camera, p, width, height):
    """(left, top, right, bottom) of the pixels a panel can reach, clipped; empty where it lies behind the camera."""
    low_x, low_y, high_x, high_y = 1e9, 1e9, -1e9, -1e9
    corners = np.empty((4, 3))
    for k in range(4):
        u = p[P_WIDTH] if k == 1 or k == 2 else 0.0
        v = p[P_HEIGHT] if k >= 2 else 0.0
        corners[k] = _seen(camera, p[0] + u * p[3] + v * p[6], p[1] + u * p[4] + v * p[7], p[2] + u * p[5] + v * p[8])
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
    rough = 0.5 * _octave(table, u + seed, v, 0.12, footprint) + 0.5 * _octave(table, u, v + seed, 1.3, footprint)
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
    glass = _comb(off_u, wu, pitch_u, open_u) * _comb(off_v, wv, pitch_v, open_v)
    glass *= _cover(v, wv, -1.0, p[P_HEIGHT] - 0.75)  # the parapet has none
    rim = 0.12
    outer = _comb(off_u + rim, wu, pitch_u, open_u + 2 * rim) * _comb(off_v + rim, wv, pitch_v, open_v + 2 * rim)
    wall += (min(0.75, 1.5 * p[P_ALBEDO]) - wall) * max(0.0, outer - glass)
    wall *= 1.0 - 0.35 * _comb(up, wv, pitch_v, 0.14)
    i, j = np.int64(np.floor(off_u / pitch_u)), np.int64(np.floor(off_v / pitch_v)) + 50 * floor
    chance, level = _hash(i, j, seed), _hash(i, j, seed + 7)
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
        middle = _seen(
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
                alpha = _cover(u, wu, 0.0, p[P_WIDTH]) * _cover(v, wv, 0.0, p[P_HEIGHT])
                if alpha <= 0.003:
                    continue
                tone, glow = p[P_ALBEDO], 0.0
                if kind == FACADE:
                    tone, glow = _facade(p, u, v, wu, wv, table, light[AMBIENT])
                elif kind == FENCE:
                    bars = max(_comb(u, wu, p[P_PITCH_U], 0.3 * p[P_PITCH_U]), _cover(v, wv, 0.1, 0.2))
                    alpha *= max(bars, _cover(v, wv, p[P_HEIGHT] - 0.08, p[P_HEIGHT]))
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
                    rough = 0.5 * _octave(table, u + p[P_SEED], v, 0.15, far)
                    rough += 0.5 * _octave(table, u, v + p[P_SEED], 1.6, far)
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


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def paint_rods(camera, rods, order, maps, frame, intensity, albedo, lamp, depth):
    """Posts, trunks, branches, wires: straight rods, far to near in `order`, hidden by depth."""
    height, width = intensity.shape
    focal = camera[12]
    for k in order:
        rod = rods[k]
        ax, ay, az = _seen(camera, rod[0], rod[1], rod[2])
        bx, by, bz = _seen(camera, rod[3], rod[4], rod[5])
        ra, rb = rod[6], rod[7]
        if (az < NEAREST_M and bz < NEAREST_M) or min(az, bz) > FARTHEST_M:
            continue
        if az < NEAREST_M:
            m = (NEAREST_M - az) / (bz - az)
            ax, ay, az, ra = ax + m * (bx - ax), ay + m * (by - ay), NEAREST_M, ra + m * (rb - ra)
        elif bz < NEAREST_M:
            m = (NEAREST_M - bz) / (az - bz)
            bx, by, bz, rb = bx + m * (ax - bx), by + m * (ay - by), NEAREST_M, rb + m * (ra - rb)
        ua, va, ub, vb = focal * ax / az, focal * ay / az, focal * bx / bz, focal * by / bz
        wa, wb = focal * ra / az, focal * rb / bz
        ua, ub, va, vb = ua + camera[13], ub + camera[13], va + camera[14], vb + camera[14]
        du, dv = ub - ua, vb - va
        length2 = du * du + dv * dv
        if length2 < 1e-6:
            continue
        length = np.sqrt(length2)
        wide = max(wa, wb) + 1.0
        y0, y1 = max(0.0, min(va, vb) - wide), min(float(height), max(va, vb) + wide + 1.0)
        shine = 0.5 * look_up(maps, frame, 0.5 * (rod[0] + rod[3]), 0.5 * (rod[1] + rod[4]))[1] * rod[8]
        bright = rod[8] * rod[9]
        for i in range(int(y0), max(int(y1), 0)):
            # the span of this row: between the crossings of the two edges of the row, widened
            if abs(dv) > 1e-6:
                m0, m1 = (i - wide - va) / dv, (i + 1.0 + wide - va) / dv
                m0, m1 = max(0.0, min(m0, m1)), min(1.0, max(m0, m1))
                left, right = min(ua + m0 * du, ua + m1 * du), max(ua + m0 * du, ua + m1 * du)
            else:
                left, right = min(ua, ub), max(ua, ub)
            x0, x1 = max(0.0, left - wide), min(float(width), right + wide + 1.0)
            for j in range(int(x0), max(int(x1), 0)):
                px, py = j + 0.5 - ua, i + 0.5 - va
                m = (px * du + py * dv) / length2
                if m < -0.5 / length or m > 1.0 + 0.5 / length:
                    continue
                m = min(1.0, max(0.0, m))
                away = (px * dv - py * du) / length
                half = wa + m * (wb - wa)
                alpha = max(0.0, min(away + 0.5, half) - max(away - 0.5, -half))
                if alpha <= 0.0:
                    continue
                z = 1.0 / (1.0 / az + m * (1.0 / bz - 1.0 / az))
                if z >= depth[i, j]:
                    continue
                round_ = 1.0 + 0.35 * max(-1.0, min(1.0, away / max(half, 0.5)))
                intensity[i, j] += alpha * (bright * round_ - intensity[i, j])
                albedo[i, j] += alpha * (rod[8] - albedo[i, j])
                lamp[i, j] += alpha * (shine - lamp[i, j])
                if alpha > 0.5:
                    depth[i, j] = z


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def paint_leaves(camera, trees, order, moves, leaves, table, tiles, behind, intensity, albedo, lamp, depth, is_full):
    """Crowns: discs of leaves, the trees far to near in `order`, on the tiles (H / 16, W / 16) of a mask.

    trees (N, 6): middle, radius, first and last leaf; moves (N, 4): where the wind has pushed each (x, y, z), and the
    wind's angle; behind (H, W): depth of what is no leaf. is_full: fill albedo, lamp and depth too.
    """
    focal = camera[12]
    left, top, bottom, right = 0, 0, intensity.shape[0], intensity.shape[1]
    for k in order:
        tree = trees[k]
        tx, ty, tz = _seen(camera, tree[0], tree[1], tree[2])
        reach = tree[3]
        if tz + reach < NEAREST_M or tz - reach > FARTHEST_M:
            continue
        if tz > 2.0 * reach:  # outside the picture: a safe bound of the crown's disc
            ring = focal * reach / (tz - reach) + 2.0
            cx, cy = camera[13] + focal * tx / tz, camera[14] + focal * ty / tz
            if cx + ring < left or cx - ring > right or cy + ring < top or cy - ring > bottom:
                continue
        for n in range(int(tree[4]), int(tree[5])):
            leaf = leaves[n]
            push = leaf[5] * (1.0 + 0.6 * np.sin(moves[k, 3] + leaf[6])) if moves[k, 3] != 0.0 else leaf[5]
            x, y, z = _seen(
                camera, leaf[0] + push * moves[k, 0], leaf[1] + push * moves[k, 1], leaf[2] + push * moves[k, 2]
            )
            if z < 2.0 * NEAREST_M:
                continue
            radius = focal * leaf[3] / z
            cx, cy = camera[13] + focal * x / z, camera[14] + focal * y / z
            opaque = 1.0
            if radius < 0.5:
                opaque, radius = 4.0 * radius * radius, 0.5
            wide = radius + 0.5
            if cx + wide < left or cx - wide > right or cy + wide < top or cy - wide > bottom:
                continue
            is_rough = radius > 2.5
            scale = 3.2 / radius
            for i in range(max(top, int(np.floor(cy - wide))), min(bottom, int(cy + wide) + 1)):
                dy = i + 0.5 - cy
                for j in range(max(left, int(np.floor(cx - wide))), min(right, int(cx + wide) + 1)):
                    dx = j + 0.5 - cx
                    far2 = dx * dx + dy * dy
                    if far2 >= wide * wide or z >= behind[i, j] or not tiles[i >> 4, j >> 4]:
                        continue
                    bright, alpha = leaf[4], opaque * min(1.0, radius + 0.5 - np.sqrt(far2))
                    if is_rough:
                        grain = _noise(table, dx * scale + 7.3 * n, dy * scale + 3.1 * n)
                        bright *= 1.0 + 0.75 * grain - 0.25 * dy / radius
                        ragged = 1.6 - 1.3 * np.sqrt(far2) / radius + 0.9 * grain
                        alpha = min(alpha, max(0.0, ragged * min(1.0, 0.25 * radius)))
                    intensity[i, j] += alpha * (bright - intensity[i, j])
                    if is_full:
                        albedo[i, j] += alpha * (0.1 - albedo[i, j])
                        lamp[i, j] *= 1.0 - alpha
                        if alpha > 0.4 and z < depth[i, j]:
                            depth[i, j] = z


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def paint_bulbs(camera, bulbs, lamp, depth):
    """Lamps themselves, with a small halo; bulbs (N, 5): middle, radius, intensity."""
    height, width = lamp.shape
    for k in range(len(bulbs)):
        x, y, z = _seen(camera, bulbs[k, 0], bulbs[k, 1], bulbs[k, 2])
        if z < NEAREST_M or z > FARTHEST_M:
            continue
        cx, cy = camera[13] + camera[12] * x / z, camera[14] + camera[12] * y / z
        radius = camera[12] * bulbs[k, 3] / z
        opaque = min(1.0, 4.0 * radius * radius)
        radius = max(radius, 0.5)
        wide = 6.0 * radius + 2.0
        if cx + wide < 0 or cx - wide > width or cy + wide < 0 or cy - wide > height:
            continue
        for i in range(max(0, int(cy - wide)), min(height, int(cy + wide) + 1)):
            for j in range(max(0, int(cx - wide)), min(width, int(cx + wide) + 1)):
                if depth[i, j] < z - 0.6:
                    continue
                far = np.sqrt((i + 0.5 - cy) ** 2 + (j + 0.5 - cx) ** 2)
                if far >= wide:
                    continue
                core = min(1.0, max(0.0, radius + 0.5 - far))
                halo = 0.004 * (1.0 - far / wide) ** 2 / (0.3 + (far / radius) ** 2)
                lamp[i, j] += bulbs[k, 4] * opaque * (core + halo)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def halve(fine, coarse):
    """Mean of 2 x 2."""
    for i in range(coarse.shape[0]):
        for j in range(coarse.shape[1]):
            a, b = fine[2 * i, 2 * j] + fine[2 * i, 2 * j + 1], fine[2 * i + 1, 2 * j] + fine[2 * i + 1, 2 * j + 1]
            coarse[i, j] = 0.25 * (a + b)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def halve_depth(fine, coarse):
    """The second nearest of 2 x 2: what covers at least half of the pixel."""
    for i in range(coarse.shape[0]):
        for j in range(coarse.shape[1]):
            a, b = fine[2 * i, 2 * j], fine[2 * i, 2 * j + 1]
            c, d = fine[2 * i + 1, 2 * j], fine[2 * i + 1, 2 * j + 1]
            coarse[i, j] = min(max(min(a, b), min(c, d)), min(max(a, b), max(c, d)))


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
