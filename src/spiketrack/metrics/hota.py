"""HOTA: higher order tracking accuracy, with its parts DetA, AssA and LocA.

Source: Luiten et al., IJCV 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from spiketrack.metrics.overlaps import EPSILON, Overlaps

ALPHAS = np.arange(0.05, 0.99, 0.05)  # (19,) IoU thresholds 0.05 .. 0.95
ALPHAS.flags.writeable = False


def _zeros() -> NDArray[np.float64]:
    return np.zeros(len(ALPHAS))


@dataclass(frozen=True, slots=True, eq=False)
class Hota:
    """Sums of HOTA for each IoU threshold of ALPHAS, all (19,) float64; add them to combine sequences or classes.

    tp, fn, fp: boxes. association_sum: the sum over true positives of |TPA| / (|TPA| + |FNA| + |FPA|).
    iou_sum: the sum over true positives of the IoU.
    """

    tp: NDArray[np.float64] = field(default_factory=_zeros)
    fn: NDArray[np.float64] = field(default_factory=_zeros)
    fp: NDArray[np.float64] = field(default_factory=_zeros)
    association_sum: NDArray[np.float64] = field(default_factory=_zeros)
    iou_sum: NDArray[np.float64] = field(default_factory=_zeros)

    def __add__(self, other: Hota) -> Hota:
        return Hota(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))

    @property
    def deta(self) -> NDArray[np.float64]:
        return self.tp / np.maximum(1, self.tp + self.fn + self.fp)

    @property
    def assa(self) -> NDArray[np.float64]:
        return self.association_sum / np.maximum(1, self.tp)

    @property
    def loca(self) -> NDArray[np.float64]:
        """Mean IoU of the true positives; 1 where there is none, as TrackEval defines it."""
        return np.maximum(1e-10, self.iou_sum) / np.maximum(1e-10, self.tp)

    @property
    def hota(self) -> NDArray[np.float64]:
        return np.sqrt(self.deta * self.assa)


def hota(overlaps: Overlaps) -> Hota:
    """HOTA of one class in one sequence.

    Each label time is matched once for all thresholds, by the assignment that maximises IoU times the alignment of
    the two identities over the whole sequence; a match then counts at every threshold its IoU reaches.
    """
    label_id, track_id, which = overlaps.identity_pairs()  # U identity pairs
    label_times = np.bincount(overlaps.label_id, minlength=overlaps.label_ids)[label_id]  # (U,)
    track_times = np.bincount(overlaps.track_id, minlength=overlaps.track_ids)[track_id]
    potential = np.bincount(which, _shared_iou(overlaps), minlength=len(label_id))
    alignment = potential / (label_times + track_times - potential)
    score = alignment[which] * overlaps.pair_iou

    matches = overlaps.best_pairs(score)
    match_iou, match_which = overlaps.pair_iou[matches], which[matches]

    sums = Hota()
    for a, alpha in enumerate(ALPHAS):
        hit = match_iou >= alpha - EPSILON
        together = np.bincount(match_which[hit], minlength=len(label_id))  # |TPA| of each identity pair
        sums.tp[a] = np.count_nonzero(hit)
        sums.iou_sum[a] = match_iou[hit].sum()
        sums.association_sum[a] = np.sum(together * together / (label_times + track_times - together))
    sums.fn[:] = len(overlaps.label_id) - sums.tp
    sums.fp[:] = len(overlaps.track_id) - sums.tp
    return sums


def _shared_iou(overlaps: Overlaps) -> NDArray[np.float64]:
    """IoU of each pair over all IoU of its label and its track at that time: iou / (row + column - iou), (P,)."""
    label_sum = np.bincount(overlaps.pair_label, overlaps.pair_iou, minlength=len(overlaps.label_id))
    track_sum = np.bincount(overlaps.pair_track, overlaps.pair_iou, minlength=len(overlaps.track_id))
    total = label_sum[overlaps.pair_label] + track_sum[overlaps.pair_track] - overlaps.pair_iou
    return np.divide(overlaps.pair_iou, total, out=np.zeros_like(total), where=total > EPSILON)
