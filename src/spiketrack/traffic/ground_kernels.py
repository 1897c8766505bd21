"""Numba kernels that paint the ground and the sky, pixel by pixel.

Station: `ground` plans them as tables of numbers; here they become pictures. What comes in: a camera (16,), the tables.
What goes out: pictures (H, W) float32, filled in place: linear intensity without lamps, albedo, light of the lamps.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.traffic.light_map_kernels import look_up
from spiketrack.traffic.texture_kernels import comb, cover, hash_of, noise, octave
from spiketrack.traffic.viewing_kernels import FAST

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


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _ground(x, y, e1x, e1y, e2x, e2y, tones, roads, strips, lines, bars, table):
    """Albedo at a ground point whose pixel reaches over the ground vectors e1 and e2."""
    footprint = max(abs(e1x) + abs(e2x), abs(e1y) + abs(e2y))
    contrast = tones[CONTRAST]
    grain = 0.7 * octave(table, x, y, 0.045, footprint) + 0.5 * octave(table, y + 31.7, x, 0.21, footprint)
    broad = octave(table, x + 71.3, y, 2.3, footprint) + 0.7 * octave(table, x, y + 17.1, 11.0, footprint)
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
        along = cover(s, ws, road[ROAD_FROM], road[ROAD_TO])
        if along <= 0.0:
            continue
        half = road[ROAD_HALF]
        inside = along * cover(left, wl, -half, half)
        walk = along * cover(left, wl, -edge, edge)
        if walk > on_walk:
            on_walk = walk
        if inside < 1.0 and footprint < tones[SLAB]:
            joint = 0.02
            slab = tones[SLAB]
            seam = max(comb(s, ws, slab, joint), comb(left, wl, slab, joint))
            seam *= min(1.0, max(0.0, 2.0 - max(ws, wl) / (0.5 * slab)))
        if edge > half:
            rim = along * (cover(left, wl, -half - 0.15, half + 0.15)) - inside
            kerb = max(kerb, rim)
        if inside <= 0.0:
            continue
        zebra = 0.0
        marks = 0.0
        for b in range(len(bars)):
            bar = bars[b]
            if bar[0] != r:
                continue
            part = cover(s, ws, bar[1], bar[2])
            if part > 0.0:
                part_left = part * cover(left, wl, bar[3], bar[4])
                if bar[5] > 0.0:
                    zebra = max(zebra, part)
                    part_left *= comb(left - bar[3], wl, bar[5], 0.5 * bar[5])
                marks = max(marks, part_left)
        if zebra < 1.0:
            for m in range(len(lines)):
                line = lines[m]
                if line[0] != r:
                    continue
                part = (1.0 - zebra) * cover(left, wl, line[1] - line[2], line[1] + line[2])
                if part > 0.0:
                    if line[3] > 0.0:
                        part *= comb(s, ws, line[3], line[4])
                    if line[5] < 0.4:  # rails are no paint: they go on through crossings
                        bed_share = max(bed_share, part)
                        bed = line[5]
                    else:
                        marks += part
        for m in range(len(strips)):
            strip = strips[m]
            if strip[0] == r:
                part = cover(left, wl, strip[1], strip[2]) * (1.0 - on_road)
                if part > bed_share:
                    bed_share, bed = part, strip[3]
        if tones[PATCHES] > 0.0 and footprint < 3.0:
            i, j = np.int64(np.floor(s / 7.0)), np.int64(np.floor(left / 3.1))
            chance = hash_of(i, j, 11 + r)
            if chance < tones[PATCHES]:
                u, v = s - 7.0 * i, left - 3.1 * j
                a, b = 1.0 + 2.0 * hash_of(i, j, 12), 0.3 + 1.2 * hash_of(i, j, 13)
                size_u, size_v = a + 1.0 + 2.5 * hash_of(i, j, 14), b + 0.6 + 0.9 * hash_of(i, j, 15)
                inner = cover(u, ws, a, size_u) * cover(v, wl, b, size_v)
                outer = cover(u, ws, a - 0.05, size_u + 0.05) * cover(v, wl, b - 0.05, size_v + 0.05)
                patch += inner * (0.9 * hash_of(i, j, 16) - 0.5) - 0.5 * (outer - inner)
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
            turf += 0.6 * octave(table, 3.1 * x, y - 0.4 * x, 0.4, footprint)
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
                    cloud = noise(table, rx * k + 9.0, ry * k) + 0.5 * noise(table, 2.1 * rx * k, 2.1 * ry * k + 5.0)
                    sky *= 1.0 + light[CLOUDS] * cloud
                if rise < 0.12:
                    bearing = np.arctan2(ry, rx)
                    far = 0.030 + 0.006 * noise(table, 40.0 * bearing + 100.0, 3.0)
                    far += 0.004 * noise(table, 170.0 * bearing + 400.0, 9.0) + 0.015 * noise(table, 5.0 * bearing, 1.0)
                    share = min(1.0, max(0.0, (far - rise) * focal + 0.5))
                    sky += (light[SKYLINE] - sky) * share
                intensity[i, j] += free * sky
