"""Compiled loops of the tracking metrics over label times; import inside functions.

Station: `overlaps` and `clear` hand their columns over, see there for the meaning of first, pairs and identities.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.matching import ALONE, best_pairs, touching


@njit(cache=True, nogil=True)
def touching_by_time(labels, tracks, label_first, track_first):
    """Touching pairs of (L, 4) and (D, 4) float64 boxes within each time: first (F + 1,), label, track, iou (P,)."""
    frames = len(label_first) - 1
    first = np.zeros(frames + 1, np.int64)
    label, track = np.empty(4 * len(labels) + 16, np.int64), np.empty(4 * len(labels) + 16, np.int64)
    overlap = np.empty(len(label))
    n = 0
    for frame in range(frames):
        from_label, from_track = label_first[frame], track_first[frame]
        row_first, column, value = touching(
            labels[from_label : label_first[frame + 1]], tracks[from_track : track_first[frame + 1]]
        )
        while n + len(column) > len(label):
            label, track = np.concatenate((label, label)), np.concatenate((track, track))
            overlap = np.concatenate((overlap, overlap))
        for row in range(len(row_first) - 1):
            for pair in range(row_first[row], row_first[row + 1]):
                label[n], track[n], overlap[n] = from_label + row, from_track + column[pair], value[pair]
                n += 1
        first[frame + 1] = n
    return first, label[:n].copy(), track[:n].copy(), overlap[:n].copy()


@njit(cache=True, nogil=True)
def clear_counts(label_first, track_first, label_id, track_id, row_first, pair_track, pair_iou, label_ids, minimum):
    """Matches of CLEAR MOT, time by time: matches, switches, IoU sum, and per identity (times matched, starts).

    row_first: (L + 1,) first pair of each label.
    """
    last = np.full(label_ids, ALONE)  # track of the last match of each label identity
    previous = np.full(label_ids, ALONE)  # of the match at the last time that had labels and tracks
    now = np.full(label_ids, ALONE)
    times, starts = np.zeros(label_ids, np.int64), np.zeros(label_ids, np.int64)
    matches = switches = 0
    iou_sum = 0.0
    for frame in range(len(label_first) - 1):
        label, end = label_first[frame], label_first[frame + 1]
        from_track, tracks = track_first[frame], track_first[frame + 1] - track_first[frame]
        if label == end or tracks == 0:
            continue
        pairs = slice(row_first[label], row_first[end])
        worth = np.zeros(pairs.stop - pairs.start)
        for row in range(label, end):
            for pair in range(row_first[row], row_first[row + 1]):
                if pair_iou[pair] >= minimum:
                    same = track_id[pair_track[pair]] == previous[label_id[row]]
                    worth[pair - pairs.start] = (1000.0 if same else 0.0) + pair_iou[pair]
        first = row_first[label : end + 1] - pairs.start
        partner = best_pairs(first, pair_track[pairs] - from_track, worth, tracks)
        now[:] = ALONE
        for row in range(label, end):
            if partner[row - label] == ALONE:
                continue
            identity, track = label_id[row], from_track + partner[row - label]
            now[identity] = track_id[track]
            switches += last[identity] != ALONE and last[identity] != track_id[track]
            starts[identity] += previous[identity] == ALONE
            last[identity] = track_id[track]
            times[identity] += 1
            matches += 1
            for pair in range(row_first[row], row_first[row + 1]):
                if pair_track[pair] == track:
                    iou_sum += pair_iou[pair]
        previous[:] = now
    return matches, switches, iou_sum, times, starts
