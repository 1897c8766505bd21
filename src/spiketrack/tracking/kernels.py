"""Compiled loops of the trackers over records of tracks and detections; import inside functions.

Station: `tracks.Tracker` holds the records (`TRACK`, `FOUND`) and calls these in the order of an update. Tracks are
changed in place. A look is a unit embedding, a row of zeros where none is known. A partner is the index of a track's
detection, or ALONE.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from spiketrack.matching import ALONE, best_pairs, touching
from spiketrack.tracking import kalman
from spiketrack.tracking.tracks import LOST, TRACKED, UNCONFIRMED

BARELY = 1e-9  # worth of a pair exactly at the minimum


class Rule(NamedTuple):
    """Which pairs may match: similarity, minimum, class and look; all numbers, for the compiler."""

    minimum: float  # of the IoU, times the score where fused
    fused: bool
    class_aware: bool
    look_weight: float
    look_minimum: float


class Recovery(NamedTuple):
    """Which pairs without overlap may match by their look."""

    minimum: float
    reach: float
    class_aware: bool


@njit(cache=True, nogil=True)
def advance(tracks, dt, seen_motion, motion_variance):
    """Move tracks by dt seconds and set their boxes; a lost one keeps its size, since an unseen change soon swallows
    the frame. seen_motion, motion_variance: (N, 2) px/s from events and its variance, infinite where nothing was seen.
    """
    for k in range(len(tracks)):
        mean, covariance = tracks[k].mean, tracks[k].covariance
        if tracks[k].state == LOST:
            mean[6] = mean[7] = 0.0
        for axis in range(2):
            if motion_variance[k, axis] < np.inf:
                kalman.observe_velocity(mean, covariance, axis, seen_motion[k, axis], motion_variance[k, axis])
        kalman.predict(mean, covariance, dt)
        kalman.corners(tracks[k].box, mean)


@njit(cache=True, nogil=True)
def cosine(a, b):
    """Of two looks; 2 where one is unknown."""
    known_a = known_b = 0.0
    product = 0.0
    for d in range(len(a)):
        product += a[d] * b[d]
        known_a += abs(a[d])
        known_b += abs(b[d])
    return product if known_a > 0 and known_b > 0 else 2.0


@njit(cache=True, nogil=True)
def boxes_of(records, chosen, last):
    """(K, 4) boxes of the chosen tracks: where they are predicted, or where they were last detected."""
    boxes = np.empty((len(chosen), 4))
    for k in range(len(chosen)):
        boxes[k] = records[chosen[k]].xyxy if last else records[chosen[k]].box
    return boxes


@njit(cache=True, nogil=True)
def places_of(found, chosen):
    """(K, 4) boxes of the chosen detections."""
    boxes = np.empty((len(chosen), 4))
    for k in range(len(chosen)):
        boxes[k] = found[chosen[k]].xyxy
    return boxes


@njit(cache=True, nogil=True)
def worth_of_pairs(tracks, rows, found, columns, graph, looks, rule):
    """Similarity minus minimum of every touching pair, 0 where it may not match: (P,)."""
    first, column, overlap = graph
    look, found_look = looks
    worth = np.zeros(len(column))
    for i in range(len(rows)):
        for pair in range(first[i], first[i + 1]):
            j = columns[column[pair]]
            if rule.class_aware and tracks[rows[i]].class_id != found[j].class_id:
                continue
            gain = overlap[pair] * (found[j].score if rule.fused else 1.0) - rule.minimum
            if gain < 0:
                continue
            likeness = cosine(look[rows[i]], found_look[j]) if rule.look_weight > 0 else 2.0
            if likeness < rule.look_minimum:
                continue
            if likeness <= 1.5:
                gain += rule.look_weight * (likeness - rule.look_minimum)
            worth[pair] = gain + BARELY
    return worth


@njit(cache=True, nogil=True)
def match(tracks, rows, found, columns, looks, rule, partner, taken):
    """Pair the given tracks with the given detections by their predicted boxes; write partner and taken."""
    graph = touching(boxes_of(tracks, rows, False), places_of(found, columns))
    worth = worth_of_pairs(tracks, rows, found, columns, graph, looks, rule)
    pair_up(rows, columns, best_pairs(graph[0], graph[1], worth, len(columns)), partner, taken)


@njit(cache=True, nogil=True)
def match_looks(tracks, rows, found, columns, looks, rule, partner, taken):
    """Pair tracks and detections near each other by their look alone."""
    look, found_look = looks
    first = np.zeros(len(rows) + 1, np.int64)
    column, worth = np.empty(len(rows) * len(columns), np.int64), np.empty(len(rows) * len(columns))
    n = 0
    for i in range(len(rows)):
        a = tracks[rows[i]].box
        for c in range(len(columns)):
            b = found[columns[c]].xyxy
            reach = rule.reach * (a[2] - a[0] + a[3] - a[1] + b[2] - b[0] + b[3] - b[1]) / 4
            far = np.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2
            if far > reach or (rule.class_aware and tracks[rows[i]].class_id != found[columns[c]].class_id):
                continue
            likeness = cosine(look[rows[i]], found_look[columns[c]])
            if rule.minimum <= likeness <= 1.5:
                column[n], worth[n] = c, likeness - rule.minimum + BARELY
                n += 1
        first[i + 1] = n
    pair_up(rows, columns, best_pairs(first, column[:n], worth[:n], len(columns)), partner, taken)


@njit(cache=True, nogil=True)
def pair_up(rows, columns, chosen, partner, taken):
    for i in range(len(rows)):
        if chosen[i] != ALONE:
            partner[rows[i]] = columns[chosen[i]]
            taken[columns[chosen[i]]] = True


@njit(cache=True, nogil=True)
def open_tracks(tracks, partner, states):
    """Tracks without a partner whose state (bit 1 << state) is among `states`."""
    chosen, n = np.empty(len(tracks), np.int64), 0
    for k in range(len(tracks)):
        if partner[k] == ALONE and states >> tracks[k].state & 1:
            chosen[n] = k
            n += 1
    return chosen[:n]


@njit(cache=True, nogil=True)
def open_found(found, taken, low, high):
    """Detections not yet taken with low <= score < high."""
    chosen, n = np.empty(len(found), np.int64), 0
    for k in range(len(found)):
        if not taken[k] and low <= found[k].score < high:
            chosen[n] = k
            n += 1
    return chosen[:n]


@njit(cache=True, nogil=True)
def remember(look, found_look, partner, memory):
    """Mix the looks of matched detections into those of their tracks; the result has length 1."""
    for k in range(len(partner)):
        if partner[k] == ALONE or not np.any(found_look[partner[k]]):
            continue
        keep = memory if np.any(look[k]) else 0.0
        look[k] = keep * look[k] + (1 - keep) * found_look[partner[k]]
        length = np.sqrt(np.sum(look[k] ** 2))
        if length > 0:
            look[k] /= length


@njit(cache=True, nogil=True)
def take(track, detection, t_us, correct):
    """A track takes a detection; without `correct` its filter starts anew."""
    track.class_id, track.score, track.last_us = detection.class_id, detection.score, t_us
    track.xyxy[:] = detection.xyxy
    track.hits += 1
    if correct:
        measured = np.empty(4)
        kalman.measure(measured, detection.xyxy)
        kalman.correct(track.mean, track.covariance, measured)
    else:
        kalman.initiate(track.mean, track.covariance, detection.xyxy)
    kalman.corners(track.box, track.mean)


@njit(cache=True, nogil=True)
def start(tracks, found, chosen, t_us, state):
    """Fill fresh records of tracks with the chosen detections."""
    for k in range(len(chosen)):
        take(tracks[k], found[chosen[k]], t_us, False)
        tracks[k].start_us, tracks[k].state = t_us, state


@njit(cache=True, nogil=True)
def name(tracks, next_id):
    """Number the tracks that count and have no number yet; returns the next free number."""
    for k in range(len(tracks)):
        if tracks[k].state == TRACKED and tracks[k].track_id == 0:
            tracks[k].track_id = next_id
            next_id += 1
    return next_id


@njit(cache=True, nogil=True)
def seen(tracks, filtered, t_us):
    """The columns of Boxes of the tracks that count and were detected at t_us, by number."""
    numbers = np.full(len(tracks), -1)
    for k in range(len(tracks)):
        if tracks[k].state == TRACKED and tracks[k].last_us == t_us:
            numbers[k] = tracks[k].track_id
    order = np.argsort(numbers, kind="mergesort")
    order = order[np.searchsorted(numbers[order], 0) :]
    t, xyxy = np.empty(len(order), np.int64), np.empty((len(order), 4), np.float32)
    class_id, score = np.empty(len(order), np.int32), np.empty(len(order), np.float32)
    for i in range(len(order)):
        track = tracks[order[i]]
        t[i], class_id[i], score[i] = track.last_us, track.class_id, track.score
        for side in range(4):
            xyxy[i, side] = track.box[side] if filtered else track.xyxy[side]
    return t, xyxy, class_id, score, numbers[order]


# ByteTrack


class ByteRules(NamedTuple):
    """Scores and rules of ByteTrack's stages."""

    high: float
    low: float
    first: Rule
    second: Rule
    third: Rule
    recovery: Recovery


@njit(cache=True, nogil=True)
def match_bytetrack(tracks, found, look, found_look, rules):
    """partner (N,) and taken (M,): strong detections, then weak ones, then the unconfirmed tracks."""
    partner, taken = np.full(len(tracks), ALONE), np.zeros(len(found), np.bool_)
    looks = (look, found_look)
    confirmed = open_tracks(tracks, partner, 1 << TRACKED | 1 << LOST)
    match(tracks, confirmed, found, open_found(found, taken, rules.high, 2.0), looks, rules.first, partner, taken)
    if look.shape[1]:
        rest = open_tracks(tracks, partner, 1 << TRACKED | 1 << LOST)
        strong = open_found(found, taken, rules.high, 2.0)
        match_looks(tracks, rest, found, strong, looks, rules.recovery, partner, taken)
    tracked = open_tracks(tracks, partner, 1 << TRACKED)
    match(tracks, tracked, found, open_found(found, taken, rules.low, rules.high), looks, rules.second, partner, taken)
    new = open_tracks(tracks, partner, 1 << UNCONFIRMED)
    match(tracks, new, found, open_found(found, taken, rules.high, 2.0), looks, rules.third, partner, taken)
    return partner, taken


@njit(cache=True, nogil=True)
def correct_bytetrack(tracks, found, partner, t_us, confirm_hits):
    """Matched tracks take their detection; others are lost, or dropped where never confirmed. Which stay: (N,) bool."""
    stays = np.ones(len(tracks), np.bool_)
    for k in range(len(tracks)):
        track = tracks[k]
        if partner[k] == ALONE:
            stays[k] = track.state != UNCONFIRMED
            track.state = LOST
            continue
        take(track, found[partner[k]], t_us, True)
        if track.state != UNCONFIRMED or track.hits >= confirm_hits:
            track.state = TRACKED
    return stays


@njit(cache=True, nogil=True)
def unlike(tracks, limit, class_aware):
    """Which tracks stay, (N,) bool: of a seen and a lost track at one place the one that lived shorter does not."""
    stays = np.ones(len(tracks), np.bool_)
    nobody = np.full(len(tracks), ALONE)
    met, lost = open_tracks(tracks, nobody, 1 << UNCONFIRMED | 1 << TRACKED), open_tracks(tracks, nobody, 1 << LOST)
    first, column, overlap = touching(boxes_of(tracks, lost, False), boxes_of(tracks, met, False))
    for i in range(len(lost)):
        for pair in range(first[i], first[i + 1]):
            a, b = tracks[met[column[pair]]], tracks[lost[i]]
            if overlap[pair] <= 1 - limit or (class_aware and a.class_id != b.class_id):
                continue
            if a.last_us - a.start_us > b.last_us - b.start_us:
                stays[lost[i]] = False
            else:
                stays[met[column[pair]]] = False
    return stays
