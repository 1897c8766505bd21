"""Confusion matrix: which class the detections on a label have, and what lies on no label.

Station: the label times of an evaluation go in, counts come out. Unlike average precision it pairs boxes whatever
their class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import iou
from spiketrack.metrics.greedy import MATCH_IOU
from spiketrack.metrics.label_times import LabelTime


@dataclass(frozen=True, slots=True, eq=False)
class Confusion:
    """Pairs of labels and detections at IoU >= 0.5 and score >= score_threshold (None: every score).

    counts: (C + 1, C + 1) int64, row: class of the label, the last for no label; column: class of the detection, the
    last for none. Rows sum to the labels, columns to the detections; the last corner is 0.
    """

    class_names: tuple[str, ...]
    score_threshold: float | None
    counts: NDArray[np.int64]


def confusion(
    images: Sequence[LabelTime], class_names: Sequence[str], score_threshold: float | None = None
) -> Confusion:
    """Pair the boxes of each image one to one, the largest overlap first; of equal ones, one of equal class first."""
    none = len(class_names)
    counts = np.zeros((none + 1, none + 1), np.int64)
    for labels, detections in images:
        if score_threshold is not None:
            detections = detections[detections.score >= score_threshold]
        overlaps = iou(labels.xyxy, detections.xyxy, np.float64)  # (L, D)
        rows, columns = np.nonzero(overlaps >= MATCH_IOU)
        confused = labels.class_id[rows] != detections.class_id[columns]
        seen = np.full(len(labels), none)
        free = np.ones(len(detections), bool)
        for i in np.lexsort((-detections.score[columns], confused, -overlaps[rows, columns])):
            if seen[rows[i]] == none and free[columns[i]]:
                seen[rows[i]], free[columns[i]] = detections.class_id[columns[i]], False
        np.add.at(counts, (labels.class_id, seen), 1)
        np.add.at(counts, (none, detections.class_id[free]), 1)
    return Confusion(tuple(class_names), score_threshold, counts)
