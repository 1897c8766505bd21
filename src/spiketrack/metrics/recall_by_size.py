"""Scores by size: how well small and large objects are found.

Station: the label times of an evaluation go in. Two views come out: COCO's small, medium and large objects with their
average precision and recall, and a finer staircase of recall over the side of the objects at one score threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spiketrack.metrics.coco import coco_arrays
from spiketrack.metrics.detection_errors import JudgedDetections
from spiketrack.metrics.label_times import LabelTime

# COCO's ranges of the square root of the area, in pixels; both ends inclusive, as COCO has them
COCO_SIZES = {"small": (0.0, 32.0), "medium": (32.0, 96.0), "large": (96.0, 1e5)}
SIDE_EDGES = (0.0, 8.0, 16.0, 32.0, 64.0, 128.0, math.inf)


@dataclass(frozen=True, slots=True)
class SizeScores:
    """COCO's scores of the objects of one size: AP_small, AR_small and their like.

    sides: range of the square root of the area, pixels. ap and recall: means over IoU 0.50 to 0.95, ap50 and recall50
    at IoU 0.5, each over the classes with labels of this size, nan where there is none; recall at the lowest score.
    """

    sides: tuple[float, float]
    labels: int
    ap: float
    ap50: float
    recall: float
    recall50: float


@dataclass(frozen=True, slots=True, eq=False)
class RecallBySide:
    """labels, found: (C, S) int64 for each class and each side of SIDE_EDGES[s] <= side < SIDE_EDGES[s + 1] pixels."""

    score_threshold: float | None
    labels: NDArray[np.int64]
    found: NDArray[np.int64]


def scores_by_size(images: Sequence[LabelTime], classes: int) -> dict[str, SizeScores]:
    """COCO's scores of small, medium and large objects; detections of another size count as neither right nor wrong."""
    labels_of = [image.labels for image in images]
    class_id = np.concatenate([np.empty(0, np.int32), *(boxes.class_id for boxes in labels_of)])
    area = np.concatenate([np.empty(0), *(np.prod(boxes.size.astype(np.float64), axis=1) for boxes in labels_of)])
    areas = [(low**2, high**2) for low, high in COCO_SIZES.values()]
    labelled = np.flatnonzero(np.bincount(class_id, minlength=classes))
    counts = [int(np.count_nonzero((area >= low) & (area <= high))) for low, high in areas]
    if not len(labelled):
        return {name: SizeScores(sides, 0, *4 * (math.nan,)) for name, sides in COCO_SIZES.items()}
    precision, recall = coco_arrays(images, labelled, areas)
    return {
        name: SizeScores(
            sides,
            counts[i],
            _mean(precision[..., i]),
            _mean(precision[0, ..., i]),
            _mean(recall[..., i]),
            _mean(recall[0, ..., i]),
        )
        for i, (name, sides) in enumerate(COCO_SIZES.items())
    }


def recall_by_side(judged: JudgedDetections, classes: int, score_threshold: float | None) -> RecallBySide:
    """How many labels of each class and side were found at IoU 0.5 by detections of at least that score."""
    found = judged.above(score_threshold).label_found
    side = np.searchsorted(SIDE_EDGES, judged.label_side, side="right") - 1
    counts = np.zeros((2, classes, len(SIDE_EDGES) - 1), np.int64)
    np.add.at(counts[0], (judged.label_class, side), 1)
    np.add.at(counts[1], (judged.label_class[found], side[found]), 1)
    return RecallBySide(score_threshold, *counts)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of what is defined: COCO writes -1 for the rest."""
    defined = values[values > -1]
    return float(defined.mean()) if len(defined) else math.nan
