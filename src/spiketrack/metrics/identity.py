"""Identity metrics: IDF1, IDP, IDR, from one global assignment of track identities to label identities.

Source: Ristani et al. 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spiketrack.metrics.overlaps import Overlaps

MATCH_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Identity:
    """Boxes with the right, a missing and a wrong identity; add them to combine sequences or classes."""

    tp: int = 0
    fn: int = 0
    fp: int = 0

    def __add__(self, other: Identity) -> Identity:
        return Identity(self.tp + other.tp, self.fn + other.fn, self.fp + other.fp)

    @property
    def idf1(self) -> float:
        return self.tp / max(1.0, self.tp + 0.5 * self.fp + 0.5 * self.fn)

    @property
    def idp(self) -> float:
        return self.tp / max(1, self.tp + self.fp)

    @property
    def idr(self) -> float:
        return self.tp / max(1, self.tp + self.fn)


def identity_f1(overlaps: Overlaps) -> Identity:
    """Identity counts of one class in one sequence, at IoU >= 0.5.

    The one-to-one assignment of identities that minimises missing plus wrong boxes is the one that maximises the
    boxes both have in common, because fn + fp = labels + tracks - 2 tp.
    """
    from spiketrack.matching import best_pairs  # compiled

    label_id, track_id, which = overlaps.identity_pairs()
    common = np.bincount(which, overlaps.pair_iou >= MATCH_IOU, minlength=len(label_id))
    first = np.searchsorted(label_id, np.arange(overlaps.label_ids + 1))
    partner = best_pairs(first, track_id, common.astype(np.float64), overlaps.track_ids)
    true_positives = int(common[partner[label_id] == track_id].sum())
    return Identity(true_positives, len(overlaps.label_id) - true_positives, len(overlaps.track_id) - true_positives)
