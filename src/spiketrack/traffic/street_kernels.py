"""Numba kernels that paint what stands in a street and is thin or small: rods, leaves and bulbs.

Station: `street` plans them as tables of numbers; here they become pictures, see `ground_kernels`, and depth.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.traffic.light_map_kernels import look_up
from spiketrack.traffic.texture_kernels import noise
from spiketrack.traffic.viewing_kernels import FARTHEST_M, FAST, NEAREST_M, to_camera

# A rod, (10,): ends 0-5, radii 6-7, albedo, light. A leaf, (7,): middle, radius, albedo * light, sway, phase, albedo.


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def paint_rods(camera, rods, order, maps, frame, intensity, albedo, lamp, depth):
    """Posts, trunks, branches, wires: straight rods, far to near in `order`, hidden by depth."""
    height, width = intensity.shape
    focal = camera[12]
    for k in order:
        rod = rods[k]
        ax, ay, az = to_camera(camera, rod[0], rod[1], rod[2])
        bx, by, bz = to_camera(camera, rod[3], rod[4], rod[5])
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
        tx, ty, tz = to_camera(camera, tree[0], tree[1], tree[2])
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
            x, y, z = to_camera(
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
                        grain = noise(table, dx * scale + 7.3 * n, dy * scale + 3.1 * n)
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
        x, y, z = to_camera(camera, bulbs[k, 0], bulbs[k, 1], bulbs[k, 2])
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
