"""Error breakdown: what is wrong with each wrong detection, and what each kind of error costs.

Station: the label times of an evaluation go in; every detection leaves as right or as one of five kinds of error, every
label as found, nearly found or missed. Source: Bolya et al. 2020, TIDE (section 2.2 for the kinds, 2.3 for the cost).

With IoU >= 0.5 for a hit and IoU >= 0.1 for being near, a wrong detection is, the first that fits:
    localisation     near a label of its class, and no label of its class is hit
    classification   hits a label of another class
    duplicate        hits a label of its class that a better score already took
    background       near no label at all
    both             near a label of another class only: wrong class, wrong place
A label that no detection took is missed, unless a localisation or classification error was about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import iou
from spiketrack.metrics.greedy import MATCH_IOU, NO_LABEL, greedy_labels, interpolated_precision, ranked
from spiketrack.metrics.label_times import LabelTime

NEAR_IOU = 0.1
KINDS = ("localisation", "classification", "duplicate", "background", "both")
MISSED = "missed"
RIGHT = -1
_LOCALISATION, _CLASSIFICATION, _DUPLICATE, _BACKGROUND, _BOTH = range(len(KINDS))


@dataclass(frozen=True, slots=True, eq=False)
class JudgedDetections:
    """Every detection that takes part (at most 100 an image and class, the best) and every label of an evaluation.

    score: (D,) float64. class_id: (D,) int64. kind: (D,) int64, RIGHT or an index into KINDS. label: (D,) int64, which
    label it took or, of a localisation or classification error, which one it is about; NO_LABEL for the others.
    label_class: (L,) int64. label_side: (L,) float64, the square root of the label's area, in pixels.
    """

    score: NDArray[np.float64]
    class_id: NDArray[np.int64]
    kind: NDArray[np.int64]
    label: NDArray[np.int64]
    label_class: NDArray[np.int64]
    label_side: NDArray[np.float64]

    @classmethod
    def of(cls, images: Sequence[LabelTime], classes: int) -> Self:
        """Judge the detections of all images; `classes` is the number of class ids."""
        columns: list[list[NDArray]] = [[np.empty(0, np.float64)], *([np.empty(0, np.int64)] for _ in range(3))]
        first = 0
        for image in images:
            for class_id in range(classes):
                order = ranked(image.detections, class_id)
                kind, label = _judged(image, order, class_id)
                found = (image.detections.score[order], np.full(len(order), class_id), kind)
                for column, values in zip(
                    columns, (*found, np.where(label >= 0, label + first, NO_LABEL)), strict=True
                ):
                    column.append(values)
            first += len(image.labels)
        labels = [image.labels for image in images]
        sides = [np.sqrt(np.prod(boxes.size.astype(np.float64), axis=1)) for boxes in labels]
        return cls(
            np.concatenate(columns[0]).astype(np.float64),
            *(np.concatenate(column).astype(np.int64) for column in columns[1:]),
            np.concatenate([np.empty(0, np.int64), *(boxes.class_id for boxes in labels)]).astype(np.int64),
            np.concatenate([np.empty(0), *sides]),
        )

    def above(self, score: float | None) -> Self:
        """Only the detections of at least this score; None keeps all. No other detection's kind depends on the rest."""
        keep = np.ones(len(self.score), bool) if score is None else self.score >= score
        return replace(
            self, score=self.score[keep], class_id=self.class_id[keep], kind=self.kind[keep], label=self.label[keep]
        )

    @property
    def label_found(self) -> NDArray[np.bool_]:
        """(L,) whether a detection took the label."""
        return self._labels_of(self.kind == RIGHT)

    @property
    def label_near(self) -> NDArray[np.bool_]:
        """(L,) whether the label was not found but a localisation or classification error was about it."""
        return self._labels_of((self.kind == _LOCALISATION) | (self.kind == _CLASSIFICATION)) & ~self.label_found

    def _labels_of(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        marked = np.zeros(len(self.label_class), bool)
        marked[self.label[chosen]] = True
        return marked


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """detections = right + the sum over kinds; labels = found + near + missed; right = found.

    near: not found, but a localisation or classification error is about it.
    """

    detections: int
    right: int
    kinds: dict[str, int]
    labels: int
    found: int
    near: int
    missed: int


@dataclass(frozen=True, slots=True)
class DetectionErrors:
    """Errors at a score threshold (None: at every score), over all classes and by class, and what each kind costs.

    per_class: errors by the class of the detection, labels by their own. ap50: of all scores. ap50_gain: how much AP50
    would rise, over all scores, were no such error made; by kind and "missed". The gains do not add up to 1 - ap50.
    """

    score_threshold: float | None
    total: ErrorCounts
    per_class: dict[str, ErrorCounts]
    ap50: float
    ap50_gain: dict[str, float]


def detection_errors(
    judged: JudgedDetections, class_names: Sequence[str], score_threshold: float | None
) -> DetectionErrors:
    """Count the errors of at least that score; the gains are over all of them."""
    counted = judged.above(score_threshold)
    per_class = {name: _counts(counted, class_id) for class_id, name in enumerate(class_names)}
    hit = judged.kind == RIGHT
    labels = np.bincount(judged.label_class, minlength=len(class_names))
    ap50 = _ap50(judged.score, judged.class_id, hit, labels)
    gains = {}
    for kind, name in enumerate(KINDS):
        score, class_id, right = _repaired(judged, kind)
        gains[name] = _ap50(score, class_id, right, labels) - ap50
    missed = ~judged.label_found & ~judged.label_near
    left = labels - np.bincount(judged.label_class[missed], minlength=len(class_names))
    gains[MISSED] = _ap50(judged.score, judged.class_id, hit, left) - ap50 if left.any() else 1.0 - ap50
    return DetectionErrors(score_threshold, _counts(counted), per_class, ap50, gains)


def _judged(image: LabelTime, order: NDArray[np.int64], class_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Kind of each detection of one class in one image, best score first, and its label there."""
    overlaps = iou(image.detections.xyxy[order], image.labels.xyxy, np.float64)  # (D, L)
    same = image.labels.class_id == class_id
    own, other = np.where(same, overlaps, -1.0), np.where(same, -1.0, overlaps)
    label = greedy_labels(np.where(same, overlaps, 0.0))
    if not len(image.labels):
        return np.full(len(order), _BACKGROUND), label
    best_own, best_other = own.max(axis=1), other.max(axis=1)
    fits = [
        label != NO_LABEL,
        (best_own >= NEAR_IOU) & (best_own < MATCH_IOU),
        best_other >= MATCH_IOU,
        best_own >= MATCH_IOU,
        best_other < NEAR_IOU,
    ]
    kind = np.select(fits, [RIGHT, _LOCALISATION, _CLASSIFICATION, _DUPLICATE, _BACKGROUND], _BOTH)
    label = np.where(kind == _LOCALISATION, own.argmax(axis=1), label)
    return kind, np.where(kind == _CLASSIFICATION, other.argmax(axis=1), label)


def _counts(judged: JudgedDetections, class_id: int | None = None) -> ErrorCounts:
    detections = np.ones(len(judged.kind), bool) if class_id is None else judged.class_id == class_id
    labels = np.ones(len(judged.label_class), bool) if class_id is None else judged.label_class == class_id
    by_kind = np.bincount(judged.kind[detections] + 1, minlength=len(KINDS) + 1).tolist()
    found, near = int(judged.label_found[labels].sum()), int(judged.label_near[labels].sum())
    total = int(labels.sum())
    return ErrorCounts(
        int(detections.sum()),
        by_kind[0],
        dict(zip(KINDS, by_kind[1:], strict=True)),
        total,
        found,
        near,
        total - found - near,
    )


def _repaired(judged: JudgedDetections, kind: int) -> tuple[NDArray, NDArray, NDArray]:
    """Score, class and rightness of what is left once no error of the kind is made.

    The best localisation or classification error about a label that nobody took becomes right, as one of the label's
    class; all other errors of the kind are gone.
    """
    errors = np.flatnonzero(judged.kind == kind)
    repaired = np.empty(0, np.int64)
    if kind in (_LOCALISATION, _CLASSIFICATION):
        open_errors = errors[~judged.label_found[judged.label[errors]]]
        by_score = open_errors[np.argsort(-judged.score[open_errors], kind="stable")]
        repaired = by_score[np.unique(judged.label[by_score], return_index=True)[1]]
    keep = np.r_[np.flatnonzero(judged.kind != kind), repaired]
    keep.sort()
    right = np.isin(keep, repaired) | (judged.kind[keep] == RIGHT)
    class_id = judged.class_id.copy()
    class_id[repaired] = judged.label_class[judged.label[repaired]]
    return judged.score[keep], class_id[keep], right


def _ap50(
    score: NDArray[np.float64], class_id: NDArray[np.int64], right: NDArray[np.bool_], labels: NDArray[np.int64]
) -> float:
    """Mean over the classes that have labels; labels: how many of each class."""
    of_class = [class_id == labelled for labelled in np.flatnonzero(labels)]
    counts = labels[labels > 0]
    values = [
        interpolated_precision(score[own], right[own], n) for own, n in zip(of_class, counts.tolist(), strict=True)
    ]
    return float(np.mean(values)) if values else 0.0
