"""Identity metrics: IDF1, IDP, IDR, from one global assignment of track identities to label identities.

Source: Ristani et al. 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spiketrack.metrics.overlaps import Overlaps, best_assignment

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
    label_id, track_id, which = overlaps.identity_pairs()
    common = np.bincount(which, overlaps.pair_iou >= MATCH_IOU, minlength=len(label_id))
    met = common > 0
    rows, row = np.unique(label_id[met], return_inverse=True)
    columns, column = np.unique(track_id[met], return_inverse=True)
    matrix = np.zeros((len(rows), len(columns)))
    matrix[row, column] = common[met]
    true_positives = int(matrix[best_assignment(matrix)].sum())
    return Identity(true_positives, len(overlaps.label_id) - true_positives, len(overlaps.track_id) - true_positives)
