"""Association: which detection continues which track. Stateless, on whole matrices.

Station: boxes of tracks and of detections go in, a similarity matrix and then matched index pairs come out. The
trackers do the same on the pairs that touch (`spiketrack.matching`, `kernels`); this is the readable door to it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import iou

NEVER = -1.0  # similarity of a pair that must not match, below every minimum
_BARELY = 1e-9  # worth of a pair exactly at the minimum


class Assignment(NamedTuple):
    """pairs: (K, 2) int64 row and column; rest_rows, rest_columns: those without a partner, ascending."""

    pairs: NDArray[np.int64]
    rest_rows: NDArray[np.int64]
    rest_columns: NDArray[np.int64]


def overlap_similarity(
    tracks: NDArray[np.floating],
    detections: NDArray[np.floating],
    *,
    classes: tuple[NDArray[np.int32], NDArray[np.int32]] | None = None,
    score: NDArray[np.floating] | None = None,
) -> NDArray[np.floating]:
    """IoU of (N, 4) tracks with (M, 4) detections, xyxy: (N, M) in [0, 1], or NEVER.

    classes: class ids of the tracks and of the detections; pairs of different classes are NEVER. score: (M,) scores
    of the detections, multiplied onto the IoU ("fused").
    """
    similarity = iou(tracks, detections, np.float64)
    if score is not None:
        similarity *= score
    if classes is not None:
        similarity[classes[0][:, None] != classes[1][None, :]] = NEVER
    return similarity


def assign(similarity: NDArray[np.floating], minimum: float) -> Assignment:
    """One-to-one pairs with the largest sum of (similarity - minimum), among pairs of at least `minimum` (>= 0).

    Pairs below the minimum are taken out before solving, so that they cannot push good pairs apart.
    """
    from spiketrack.matching import ALONE, best_pairs  # compiled

    if not minimum >= 0:
        raise ValueError(f"association: the minimum similarity must be >= 0, got {minimum}")
    rows, columns = np.nonzero(similarity >= minimum)
    first = np.searchsorted(rows, np.arange(similarity.shape[0] + 1))
    partner = best_pairs(first, columns, similarity[rows, columns] - minimum + _BARELY, similarity.shape[1])
    matched = np.flatnonzero(partner != ALONE)
    return Assignment(
        np.stack([matched, partner[matched]], axis=1),
        np.flatnonzero(partner == ALONE),
        np.setdiff1d(np.arange(similarity.shape[1]), partner[matched]),
    )
