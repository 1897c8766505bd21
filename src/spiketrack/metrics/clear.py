"""CLEAR MOT: MOTA, MOTP, identity switches, fragments, mostly tracked and mostly lost.

Source: Bernardin and Stiefelhagen 2008, in the form that MOTChallenge scores (TrackEval).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from spiketrack.metrics.overlaps import EPSILON, Overlaps

MATCH_IOU = 0.5


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

    Each label time is matched by the one-to-one assignment that keeps the pairs of the last matched time first and
    maximises the IoU second. An identity switch compares with the last time that this label was matched at all.
    """
    from spiketrack.metrics.kernels import clear_counts  # compiled

    true_positives, switches, iou_sum, matched_times, starts = clear_counts(
        overlaps.label_first,
        overlaps.track_first,
        overlaps.label_id,
        overlaps.track_id,
        overlaps.row_first,
        overlaps.pair_track,
        overlaps.pair_iou,
        overlaps.label_ids,
        MATCH_IOU - EPSILON,
    )
    times = np.bincount(overlaps.label_id, minlength=overlaps.label_ids)
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
