"""CLEAR MOT: MOTA, MOTP, identity switches, fragments, mostly tracked and mostly lost.

Source: Bernardin and Stiefelhagen 2008, in the form that MOTChallenge scores (TrackEval).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from spiketrack.metrics.overlaps import EPSILON, Overlaps, best_assignment

MATCH_IOU = 0.5
_NONE = -1


@dataclass(frozen=True, slots=True)
class Clear:
    """Counts of CLEAR MOT; add them to combine sequences or classes.

    tp, fn, fp: boxes. idsw: identity switches. frag: interruptions of a label's track. mt, pt, ml: label identities
    matched in more than 80 %, in 20 to 80 %, in less than 20 % of their label times. iou_sum: over the matches.
    """

    tp: int = 0
    fn: int = 0
    fp: int = 0
    idsw: int = 0
    frag: int = 0
    mt: int = 0
    pt: int = 0
    ml: int = 0
    iou_sum: float = 0.0

    def __add__(self, other: Clear) -> Clear:
        return Clear(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def mota(self) -> float:
        """1 - (fn + fp + idsw) / labels; 0 labels count as 1."""
        return (self.tp - self.fp - self.idsw) / max(1, self.tp + self.fn)

    @property
    def motp(self) -> float:
        """Mean IoU of the matches, 0 without any."""
        return self.iou_sum / max(1, self.tp)


def clear_mot(overlaps: Overlaps) -> Clear:
    """CLEAR MOT of one class in one sequence, at IoU >= 0.5.

    Each label time is matched by Hungarian assignment that keeps the pairs of the last matched time first and
    maximises the IoU second. An identity switch compares with the last time that this label was matched at all.
    """
    last_match = np.full(overlaps.label_ids, _NONE)
    previous = np.full(overlaps.label_ids, _NONE)  # at the last time with labels and tracks
    times = np.bincount(overlaps.label_id, minlength=overlaps.label_ids)
    matched_times = np.zeros(overlaps.label_ids, np.int64)
    starts = np.zeros(overlaps.label_ids, np.int64)
    true_positives = switches = 0
    iou_sum = 0.0
    near = overlaps.pair_iou >= MATCH_IOU - EPSILON
    for frame in range(overlaps.frames):
        labels = overlaps.label_id[overlaps.label_first[frame] : overlaps.label_first[frame + 1]]
        tracks = overlaps.track_id[overlaps.track_first[frame] : overlaps.track_first[frame + 1]]
        if not len(labels) or not len(tracks):
            continue
        pairs = slice(overlaps.pair_first[frame], overlaps.pair_first[frame + 1])
        same = overlaps.track_id[overlaps.pair_track[pairs]] == previous[overlaps.label_id[overlaps.pair_label[pairs]]]
        score = np.where(near[pairs], 1000.0 * same + overlaps.pair_iou[pairs], 0.0)
        matrix, pair = overlaps.matrix(frame, score)
        rows, columns = best_assignment(matrix)
        kept = matrix[rows, columns] > EPSILON
        label, track = labels[rows[kept]], tracks[columns[kept]]

        switches += int(np.count_nonzero((last_match[label] != _NONE) & (last_match[label] != track)))
        untracked = previous == _NONE
        last_match[label] = track
        previous[:] = _NONE
        previous[label] = track
        starts += untracked & (previous != _NONE)
        matched_times[label] += 1
        true_positives += len(label)
        iou_sum += float(overlaps.pair_iou[pair[rows[kept], columns[kept]]].sum())
    share = matched_times / times
    mostly, partly = int(np.count_nonzero(share > 0.8)), int(np.count_nonzero(share >= 0.2))
    return Clear(
        tp=true_positives,
        fn=len(overlaps.label_id) - true_positives,
        fp=len(overlaps.track_id) - true_positives,
        idsw=switches,
        frag=int(np.sum(starts[starts > 0] - 1)),
        mt=mostly,
        pt=partly - mostly,
        ml=overlaps.label_ids - partly,
        iou_sum=iou_sum,
    )
