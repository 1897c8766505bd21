"""Greedy matching: detections take labels in the order of their scores, as COCO's evaluation has it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes

MAX_DETECTIONS = 100  # per image and class, the best scores first
MATCH_IOU = 0.5
NO_LABEL = -1


def ranked(detections: Boxes, class_id: int) -> NDArray[np.int64]:
    """Which detections of that class take part, best score first."""
    of_class = np.flatnonzero(detections.class_id == class_id)
    return of_class[np.argsort(-detections.score[of_class], kind="stable")[:MAX_DETECTIONS]]


def greedy_labels(overlaps: NDArray[np.floating], threshold: float = MATCH_IOU) -> NDArray[np.int64]:
    """The label that each detection takes, or NO_LABEL: (D,) for overlaps (D, L), best score first.

    Each takes the free label that it overlaps most, if by `threshold` or more.
    """
    taken = np.full(len(overlaps), NO_LABEL, np.int64)
    free = np.where(overlaps >= threshold, overlaps, 0.0)
    for i in np.flatnonzero(free.any(axis=1)):
        # the last of equally good labels, as COCO's matcher takes it
        best = free.shape[1] - 1 - int(np.argmax(free[i, ::-1]))
        if free[i, best] > 0:
            taken[i] = best
            free[:, best] = 0
    return taken


def interpolated_precision(score: NDArray[np.floating], hit: NDArray[np.bool_], labels: int) -> float:
    """COCO's average precision at one IoU: the mean over 101 recalls of the best precision at that recall or above.

    score, hit: (D,) of all detections of a class; labels: how many there are to find, at least 1.
    """
    hits = np.cumsum(hit[np.argsort(-score, kind="stable")])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    reached = np.searchsorted(hits / labels, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0.0)[np.minimum(reached, len(precision))].mean())
