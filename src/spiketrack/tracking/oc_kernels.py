"""Compiled loops of OC-SORT; import inside functions. Source: Cao et al., CVPR 2023 (momentum, re-update, recovery).

Station: `oc_sort.OCSort` calls these between the loops that all trackers share (`kernels`). Frames of the paper are
time here: the direction of a track runs over `momentum_us`, and lost updates are repeated at their real spacing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from spiketrack.matching import ALONE, best_pairs, touching
from spiketrack.tracking import kalman
from spiketrack.tracking.kernels import (
    Recovery,
    Rule,
    boxes_of,
    match,
    match_looks,
    open_found,
    open_tracks,
    pair_up,
    places_of,
    take,
    worth_of_pairs,
)
from spiketrack.tracking.tracks import LOST, TRACKED, UNCONFIRMED

_ANY = 1 << UNCONFIRMED | 1 << TRACKED | 1 << LOST


class OCRules(NamedTuple):
    """Scores and rules of OC-SORT's stages."""

    high: float
    low: float
    use_weak: bool
    momentum: float
    rule: Rule
    weak: Rule
    recovery: Recovery


@njit(cache=True, nogil=True)
def match_oc_sort(tracks, found, look, found_look, rules):
    """partner (N,) and taken (M,): by place and direction, by look, weak detections, by the last detection."""
    partner, taken = np.full(len(tracks), ALONE), np.zeros(len(found), np.bool_)
    looks = (look, found_look)
    rows, columns = open_tracks(tracks, partner, _ANY), open_found(found, taken, rules.high, 2.0)
    graph = touching(boxes_of(tracks, rows, False), places_of(found, columns))
    worth = worth_of_pairs(tracks, rows, found, columns, graph, looks, rules.rule)
    add_momentum(tracks, rows, found, columns, graph, worth, rules.momentum)
    pair_up(rows, columns, best_pairs(graph[0], graph[1], worth, len(columns)), partner, taken)
    if look.shape[1]:
        rows, columns = open_tracks(tracks, partner, _ANY), open_found(found, taken, rules.high, 2.0)
        match_looks(tracks, rows, found, columns, looks, rules.recovery, partner, taken)
    if rules.use_weak:
        rows, columns = open_tracks(tracks, partner, _ANY), open_found(found, taken, rules.low, rules.high)
        match(tracks, rows, found, columns, looks, rules.weak, partner, taken)
    rows, columns = open_tracks(tracks, partner, _ANY), open_found(found, taken, rules.high, 2.0)
    graph = touching(boxes_of(tracks, rows, True), places_of(found, columns))
    worth = worth_of_pairs(tracks, rows, found, columns, graph, looks, rules.rule)
    pair_up(rows, columns, best_pairs(graph[0], graph[1], worth, len(columns)), partner, taken)
    return partner, taken


@njit(cache=True, nogil=True)
def add_momentum(tracks, rows, found, columns, graph, worth, weight):
    """Add weight x score x (1 - angle / pi) to the pairs that may match.

    The angle lies between the way of the track, from where it was to its last detection, and the way from there to the
    detection. The paper's pi / 2 - angle may be negative; a constant more keeps every allowed pair worth making.
    """
    first, column, _ = graph
    for i in range(len(rows)):
        track = tracks[rows[i]]
        from_x, from_y = track.before[0], track.before[1]
        way_x = (track.xyxy[0] + track.xyxy[2]) / 2 - from_x
        way_y = (track.xyxy[1] + track.xyxy[3]) / 2 - from_y
        for pair in range(first[i], first[i + 1]):
            detection = found[columns[column[pair]]]
            to_x = (detection.xyxy[0] + detection.xyxy[2]) / 2 - from_x
            to_y = (detection.xyxy[1] + detection.xyxy[3]) / 2 - from_y
            lengths = np.hypot(way_x, way_y) * np.hypot(to_x, to_y)
            if worth[pair] > 0 and lengths > 0:
                angle = np.arccos(min(1.0, max(-1.0, (way_x * to_x + way_y * to_y) / lengths)))
                worth[pair] += weight * detection.score * (1 - angle / np.pi)


@njit(cache=True, nogil=True)
def correct_oc_sort(tracks, found, partner, t_us, confirm_hits, momentum_us):
    """Matched tracks take their detection, those that were lost after a re-update. Which stay: (N,) bool, all."""
    for k in range(len(tracks)):
        track = tracks[k]
        if partner[k] == ALONE:
            track.missed += 1
            if track.state == UNCONFIRMED:
                track.hits = 0
            else:
                track.state = LOST
            continue
        if track.missed:
            update_again(track, found[partner[k]].xyxy, t_us)
        take(track, found[partner[k]], t_us, True)
        if track.state != UNCONFIRMED or track.hits >= confirm_hits:
            track.state = TRACKED
        keep(track, momentum_us)
    return np.ones(len(tracks), np.bool_)


@njit(cache=True, nogil=True)
def update_again(track, xyxy, t_us):
    """Redo the updates that a lost track missed, with detections on the straight way from its last one to this one."""
    track.mean[:] = track.kept_mean
    track.covariance[:, :] = track.kept_covariance
    begin, end, between = np.empty(4), np.empty(4), np.empty(4)
    kalman.measure(begin, track.xyxy)
    kalman.measure(end, xyxy)
    steps = track.missed + 1
    dt = (t_us - track.last_us) * 1e-6 / steps
    for step in range(1, steps):
        kalman.predict(track.mean, track.covariance, dt)
        for axis in range(4):
            between[axis] = begin[axis] + (end[axis] - begin[axis]) * step / steps
        kalman.correct(track.mean, track.covariance, between)
    kalman.predict(track.mean, track.covariance, dt)


@njit(cache=True, nogil=True)
def keep(track, momentum_us):
    """Keep the filter of this detection for a later re-update, and find where the track was momentum_us ago.

    Of the past a few detections are kept, at least a share of momentum_us apart, so that any rate of updates fits.
    """
    track.missed = 0
    track.kept_mean[:] = track.mean
    track.kept_covariance[:, :] = track.covariance
    slots = len(track.past_us)
    if track.past == 0 or track.last_us - track.past_us[(track.past - 1) % slots] >= momentum_us / (slots - 2):
        slot = track.past % slots
        track.past_us[slot] = track.last_us
        track.past_centre[slot, 0] = (track.xyxy[0] + track.xyxy[2]) / 2
        track.past_centre[slot, 1] = (track.xyxy[1] + track.xyxy[3]) / 2
        track.past += 1
    chosen = max(0, track.past - slots)
    for i in range(chosen, track.past):
        if track.past_us[i % slots] <= track.last_us - momentum_us:
            chosen = i
    track.before[:] = track.past_centre[chosen % slots]


@njit(cache=True, nogil=True)
def keep_all(tracks, momentum_us):
    """`keep` for tracks that have just started."""
    for k in range(len(tracks)):
        keep(tracks[k], momentum_us)
