"""Numba kernels that place bodies: their vertices, how fast they move, and who is before whom.

Station: in come the arrays of `body_parts.Body` and poses, out go vertices in camera coordinates and an order in which
to draw.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.traffic.projection_kernels import NEAREST


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
        if z < NEAREST:
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
