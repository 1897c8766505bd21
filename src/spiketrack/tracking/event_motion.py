"""Event motion: how fast each track moves between two updates, seen in its own events.

Compiled; import inside functions. Station: tracks at the time of the last update and the events since then go in, a
velocity for each track goes out, as a measurement with a variance that the Kalman filter weighs. Method: contrast
maximisation (Gallego, Rebecq and Scaramuzza, CVPR 2018) for a box that moves along: events are carried back to the
last update, x' = x - v (t - t0), and the v that piles them up most inside the box, by polarity, is the motion. It is
searched around the filter's velocity, as far as the filter is unsure, so that of two objects that cross each keeps to
its own; from coarse to fine.

Cost: each event is looked at by the tracks whose way leads past it; a track looks at no more than `max_events` of
them, about 90 times.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spiketrack.events import Events
from spiketrack.tracking.settings import EventMotionSettings
from spiketrack.tracking.tracks import Records

_CELL = 32  # px, side of the cells in which tracks are looked up
_COARSE = 3  # steps to each side of the first search
_FINEST = 0.25  # px over the gap
_LEAST_REACH, _MOST_REACH = 2.0, 1.0  # px; of the box's side


class _Limits(NamedTuple):
    min_events: int
    max_events: int
    margin: float
    spread: float
    min_gain: float
    noise_px: float


def observed_motion(
    tracks: Records, events: Events, start_us: int, end_us: int, settings: EventMotionSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Velocity of each track in [start_us, end_us), (N, 2) px/s, and its variance, infinite where none was seen.

    tracks: as they were at start_us.
    """
    part = events.between(start_us, end_us)
    limits = _Limits(
        settings.min_events,
        settings.max_events,
        float(settings.margin),
        float(settings.spread),
        float(settings.min_gain),
        float(settings.noise_px),
    )
    size = (events.width, events.height)
    return _motions(tracks, part.t, part.x, part.y, part.p, size, start_us, (end_us - start_us) * 1e-6, limits)


@njit(cache=True, nogil=True)
def _motions(tracks, t, x, y, p, size, start_us, gap, limits):
    motion, variance = np.zeros((len(tracks), 2)), np.full((len(tracks), 2), np.inf)
    gates = np.empty((len(tracks), 8))  # centre, half sides with margin, velocity, reach (px over the gap)
    for k in range(len(tracks)):
        for axis in range(2):
            low, high = tracks[k].box[axis], tracks[k].box[2 + axis]
            half = max((high - low) / 2, 1.0)
            unsure = limits.spread * np.sqrt(tracks[k].covariance[2, axis]) * gap
            gates[k, axis], gates[k, 2 + axis] = (low + high) / 2, half * (1 + 2 * limits.margin)
            gates[k, 4 + axis] = tracks[k].mean[4 + axis]
            gates[k, 6 + axis] = min(max(unsure, _LEAST_REACH), _MOST_REACH * 2 * half)
    first, chosen = _own_events(gates, t, x, y, start_us, gap, size, limits.max_events)
    for k in range(len(tracks)):
        mine = chosen[first[k] : first[k + 1]]
        if len(mine) >= limits.min_events:
            own = np.empty((len(mine), 4))  # x and y from the centre, seconds, polarity
            for i in range(len(mine)):
                own[i, 0], own[i, 1] = x[mine[i]] - gates[k, 0], y[mine[i]] - gates[k, 1]
                own[i, 2], own[i, 3] = (t[mine[i]] - start_us) * 1e-6, p[mine[i]]
            _search(own, gates[k], gap, limits, motion[k], variance[k])
    return motion, variance


@njit(cache=True, nogil=True)
def _own_events(gates, t, x, y, start_us, gap, size, most):
    """Events that can belong to each track: first (N + 1,), event (Q,); no more than `most` each, evenly over time."""
    n = len(gates)
    across, down = (size[0] - 1) // _CELL + 1, (size[1] - 1) // _CELL + 1
    ranges = np.zeros((n, 4), np.int64)
    cell_first = np.zeros(across * down + 1, np.int64)
    for k in range(n):
        for axis in range(2):
            room = gates[k, 2 + axis] + gates[k, 6 + axis]
            way = gates[k, 4 + axis] * gap
            cells = across if axis == 0 else down
            low, high = gates[k, axis] + min(way, 0.0) - room, gates[k, axis] + max(way, 0.0) + room
            ranges[k, axis] = int(min(max(low // _CELL, 0.0), float(cells)))
            ranges[k, 2 + axis] = int(min(max(high // _CELL + 1, 0.0), float(cells)))
        for row in range(ranges[k, 1], ranges[k, 3]):
            for column in range(ranges[k, 0], ranges[k, 2]):
                cell_first[row * across + column + 1] += 1
    cell_first = np.cumsum(cell_first)
    filled, cell_track = cell_first.copy(), np.empty(cell_first[-1], np.int64)
    for k in range(n):
        for row in range(ranges[k, 1], ranges[k, 3]):
            for column in range(ranges[k, 0], ranges[k, 2]):
                cell_track[filled[row * across + column]] = k
                filled[row * across + column] += 1
    count = np.zeros(n, np.int64)
    first, stride = np.zeros(n + 1, np.int64), np.ones(n, np.int64)
    chosen = np.empty(0, np.int64)
    for taking in range(2):
        if taking:
            for k in range(n):
                stride[k] = max(1, -(-count[k] // most))
                first[k + 1] = first[k] + -(-count[k] // stride[k])
            chosen = np.empty(first[n], np.int64)
            count[:] = 0
        for i in range(len(t)):
            cell = (y[i] // _CELL) * across + x[i] // _CELL
            seconds = (t[i] - start_us) * 1e-6
            for c in range(cell_first[cell], cell_first[cell + 1]):
                k = cell_track[c]
                grown = seconds / gap
                if (
                    abs(x[i] - gates[k, 0] - gates[k, 4] * seconds) <= gates[k, 2] + gates[k, 6] * grown
                    and abs(y[i] - gates[k, 1] - gates[k, 5] * seconds) <= gates[k, 3] + gates[k, 7] * grown
                ):
                    if taking and count[k] % stride[k] == 0:
                        chosen[first[k] + count[k] // stride[k]] = i
                    count[k] += 1
    return first, chosen


@njit(cache=True, nogil=True)
def _search(own, gate, gap, limits, motion, variance):
    """Write the velocity of most contrast; an axis along which the contrast hardly falls stays unseen."""
    image = np.zeros((2, int(2 * gate[3]) + 3, int(2 * gate[2]) + 3), np.int32)
    step = max(gate[6], gate[7]) / _COARSE
    reach = (gate[6] / _COARSE, gate[7] / _COARSE)
    best, best_x, best_y = _best_of(own, gate, gap, (0.0, 0.0), reach, _COARSE, max(step / 2, 1.0), image)
    while step > _FINEST:
        step /= 2
        best, best_x, best_y = _best_of(own, gate, gap, (best_x, best_y), (step, step), 1, max(step, 1.0), image)
    for axis in range(2):
        away = max(3.0, gate[6 + axis] / 2)
        aside_x, aside_y = (away, 0.0) if axis == 0 else (0.0, away)
        other = _contrast(own, gate, gap, best_x + aside_x, best_y + aside_y, 1.0, image)
        other += _contrast(own, gate, gap, best_x - aside_x, best_y - aside_y, 1.0, image)
        if best > limits.min_gain * other / 2:
            motion[axis] = gate[4 + axis] + (best_x if axis == 0 else best_y) / gap
            variance[axis] = (limits.noise_px / gap) ** 2


@njit(cache=True, nogil=True)
def _best_of(own, gate, gap, at, step, steps, cell, image):
    """The most contrast on a grid of `steps` to each side of `at`, and where: the middle of those that tie.

    Events lie on whole pixels, so that motions less than a pixel apart often give the same counts.
    """
    best, sum_x, sum_y, ties = -1.0, 0.0, 0.0, 0
    for i in range(-steps, steps + 1):
        for j in range(-steps, steps + 1):
            across, down = at[0] + i * step[0], at[1] + j * step[1]
            value = _contrast(own, gate, gap, across, down, cell, image)
            if value > best:
                best, sum_x, sum_y, ties = value, 0.0, 0.0, 0
            if value == best:
                sum_x, sum_y, ties = sum_x + across, sum_y + down, ties + 1
    return best, sum_x / ties, sum_y / ties


@njit(cache=True, nogil=True)
def _contrast(own, gate, gap, across, down, cell, image):
    """Sum of squared counts, by polarity, of the events carried back by the filter's velocity and (across, down) px."""
    columns, rows = int(2 * gate[2] / cell) + 1, int(2 * gate[3] / cell) + 1
    image[:, :rows, :columns] = 0
    speed_x, speed_y = gate[4] + across / gap, gate[5] + down / gap
    total = 0
    for i in range(len(own)):
        column = (own[i, 0] - speed_x * own[i, 2] + gate[2]) / cell
        row = (own[i, 1] - speed_y * own[i, 2] + gate[3]) / cell
        if 0 <= column < columns and 0 <= row < rows:
            polarity, r, c = int(own[i, 3]), int(row), int(column)
            total += 2 * image[polarity, r, c] + 1  # (n + 1)^2 - n^2
            image[polarity, r, c] += 1
    return float(total)
