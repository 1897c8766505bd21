"""Average precision of detections at label times, by COCO's definition.

Station: labels and detections of whole sequences go in, detection scores come out. Every label time that is left
after the protocol's filter is one COCO image. Average precision comes from faster-coco-eval (numbers identical to
pycocotools), precision-recall curves from the same greedy matching at IoU 0.5.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes, iou
from spiketrack.errors import LabelError
from spiketrack.metrics.protocols import (
    NamedPair,
    Protocol,
    check_sequences,
    counted,
    label_period_us,
    protocol_named,
)

MAX_DETECTIONS = 100  # per image and class, the best scores first
CURVE_IOU = 0.5

_log = logging.getLogger(__name__)
_Image = tuple[Boxes, Boxes]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Precision and recall of one class at IoU 0.5 for every score threshold, highest threshold first.

    score, precision, recall: (K,) float64, K the number of distinct scores; entry k counts detections with
    score >= score[k].
    """

    score: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def at(self, score: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Precision and recall at each of the given thresholds; 0 and 0 above the highest score."""
        count = np.searchsorted(-self.score, -np.asarray(score, np.float64), side="right")
        return np.r_[0.0, self.precision][count], np.r_[0.0, self.recall][count]


@dataclass(frozen=True, slots=True, eq=False)
class ClassScores:
    """Scores of one class that has labels. precision, recall and f1 hold at IoU 0.5 and the common threshold."""

    map: float
    ap50: float
    ap75: float
    precision: float
    recall: float
    f1: float
    labels: int
    detections: int
    curve: Curve


@dataclass(frozen=True, slots=True, eq=False)
class DetectionScores:
    """Detection scores over all sequences.

    map (IoU 0.50 to 0.95 in steps of 0.05), ap50, ap75, precision, recall and f1 are means over the classes that
    have labels; a class without labels is None in per_class and enters no mean. precision, recall and f1 hold at
    IoU 0.5 and at score_threshold, the lowest score with the best mean F1 (None where there is no detection).
    label_times, labels and detections count what was evaluated, detections_elsewhere those that passed the filter
    but lie at no label time: no label is not "no object", so they count nowhere. warnings are sentences for a user.
    """

    protocol: Protocol
    map: float
    ap50: float
    ap75: float
    precision: float
    recall: float
    f1: float
    score_threshold: float | None
    per_class: dict[str, ClassScores | None]
    label_times: int
    labels: int
    detections: int
    detections_elsewhere: int
    warnings: tuple[str, ...]


def average_precision(
    sequences: Sequence[NamedPair],
    class_names: Sequence[str],
    protocol: Protocol | str,
    annotated: Mapping[str, NDArray[np.int64]] | None = None,
) -> DetectionScores:
    """Score detections against labels at the label times.

    sequences: (name, labels, detections) of each recording, times from the start of the recording. class_names: one
    name per class id. annotated: per recording, times (us) whose objects all have labels, so that one without any is an
    image without objects; other times without labels say nothing. Raises LabelError where no label is left to evaluate,
    SettingsError for an unknown protocol.
    """
    if isinstance(protocol, str):
        protocol = protocol_named(protocol)
    check_sequences(sequences, class_names, "detections")
    images, elsewhere, warnings = _images(sequences, protocol, annotated or {})
    labels_per_class = np.zeros(len(class_names), np.int64)
    detections_per_class = np.zeros(len(class_names), np.int64)
    for labels, detections in images:
        labels_per_class += np.bincount(labels.class_id, minlength=len(class_names))
        detections_per_class += np.bincount(detections.class_id, minlength=len(class_names))
    labelled = np.flatnonzero(labels_per_class)
    precision = _coco_precision(images, labelled)  # (10, 101, C)
    curves = [_curve(images, class_id, int(labels_per_class[class_id])) for class_id in labelled]
    threshold, at_threshold = _best_f1(curves)  # (3, C)

    per_class: dict[str, ClassScores | None] = dict.fromkeys(class_names)
    for i, class_id in enumerate(labelled):
        per_class[class_names[class_id]] = ClassScores(
            float(precision[:, :, i].mean()),
            float(precision[0, :, i].mean()),
            float(precision[5, :, i].mean()),
            *(float(value) for value in at_threshold[:, i]),
            int(labels_per_class[class_id]),
            int(detections_per_class[class_id]),
            curves[i],
        )
    for class_id in np.flatnonzero((labels_per_class == 0) & (detections_per_class > 0)):
        warnings.append(
            f"class {class_names[class_id]!r} has no label under this protocol: its {detections_per_class[class_id]} "
            "detections count nowhere"
        )
    if not detections_per_class.sum():
        warnings.append(
            f"no detection at any of the {len(images)} label times ({elsewhere} detections at other times): all "
            "scores are 0"
        )
    return DetectionScores(
        protocol,
        float(precision.mean()),
        float(precision[0].mean()),
        float(precision[5].mean()),
        *(float(value) for value in at_threshold.mean(axis=1)),
        threshold,
        per_class,
        len(images),
        int(labels_per_class.sum()),
        int(detections_per_class.sum()),
        elsewhere,
        tuple(warnings),
    )


def _images(
    sequences: Sequence[NamedPair], protocol: Protocol, annotated: Mapping[str, NDArray[np.int64]]
) -> tuple[list[_Image], int, list[str]]:
    """Labels and detections of every label time, the number of detections at none, and warnings."""
    tolerance = protocol.tolerance_us or 0
    images: list[_Image] = []
    elsewhere = given = 0
    warnings: list[str] = []
    for name, labels, detections in sequences:
        given += len(labels)
        empty = np.setdiff1d(annotated.get(name, ()), labels.t).astype(np.int64)
        empty = empty if protocol.skip_us is None else empty[empty > protocol.skip_us]
        labels, detections = counted(labels, protocol), counted(detections, protocol)
        inside = np.zeros(len(detections), bool)
        for time, labels_then in [*labels.by_time(), *((int(time), Boxes.empty()) for time in empty)]:
            first, last = np.searchsorted(detections.t, (time - tolerance, time + tolerance + 1))
            inside[first:last] = True
            images.append((labels_then, detections[first:last]))
        elsewhere += int(np.count_nonzero(~inside))
        period = label_period_us(labels)
        if period is not None and 2 * tolerance >= period:
            warnings.append(
                f"sequence {name!r}: a tolerance of {tolerance} us reaches half the label period of {period} us or "
                "more, so detections of one label time also count at its neighbours; use less than "
                f"{(period + 1) // 2} us"
            )
    if not any(len(labels) for labels, _ in images):
        raise LabelError(
            f"nothing to evaluate: of {given} labels in {len(sequences)} sequences none is left under protocol "
            f"{protocol}; check the labels' scale and times, or choose another protocol"
        )
    return images, elsewhere, warnings


def _coco_precision(images: list[_Image], labelled: NDArray[np.int64]) -> NDArray[np.float64]:
    """Interpolated precision (10 IoU thresholds, 101 recalls, C labelled classes)."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(
        {
            "images": [{"id": i} for i in range(1, len(images) + 1)],
            "categories": [{"id": int(class_id) + 1, "name": str(class_id)} for class_id in labelled],
            "annotations": _annotations([labels for labels, _ in images], labelled),
        },
        print_function=_log.debug,
    )
    found = truth.loadRes(_annotations([detections for _, detections in images], labelled))
    evaluator = COCOeval_faster(truth, found, iouType="bbox", print_function=_log.debug)
    evaluator.params.maxDets = [1, 10, MAX_DETECTIONS]
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluator.evaluate()
    evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"], np.float64)[:, :, :, 0, -1]


def _annotations(images: list[Boxes], labelled: NDArray[np.int64]) -> list[dict]:
    """COCO annotations of the labelled classes; ids count from 1, since COCO's matcher takes id 0 for no match."""
    annotations = []
    for image_id, boxes in enumerate(images, start=1):
        corners = boxes.xyxy.astype(np.float64)
        xywh = np.c_[corners[:, :2], corners[:, 2:] - corners[:, :2]]
        for i in np.flatnonzero(np.isin(boxes.class_id, labelled)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(boxes.class_id[i]) + 1,
                    "bbox": xywh[i].tolist(),
                    "area": float(xywh[i, 2] * xywh[i, 3]),
                    "iscrowd": 0,
                    "score": float(boxes.score[i]),
                }
            )
    return annotations


def _curve(images: list[_Image], class_id: int, labels: int) -> Curve:
    scores, hits = [np.empty(0, np.float32)], [np.empty(0, bool)]
    for truth, found in images:
        of_class = found.class_id == class_id
        order = np.argsort(-found.score[of_class], kind="stable")[:MAX_DETECTIONS]
        scores.append(found.score[of_class][order])
        overlaps = iou(found.xyxy[of_class][order], truth.xyxy[truth.class_id == class_id], np.float64)
        hits.append(_greedy_hits(overlaps))
    score = np.concatenate(scores).astype(np.float64)
    order = np.argsort(-score, kind="stable")
    score, true_positives = score[order], np.cumsum(np.concatenate(hits)[order])
    last = np.flatnonzero(np.diff(score, append=-1.0))  # equal scores enter together
    true_positives = true_positives[last]
    return Curve(score[last], true_positives / (last + 1), true_positives / labels)


def _greedy_hits(overlaps: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which detections, best score first, find a label still free; overlaps (detections, labels)."""
    hits = np.zeros(len(overlaps), bool)
    free = np.where(overlaps >= CURVE_IOU, overlaps, 0.0)
    for i in np.flatnonzero(free.any(axis=1)):
        # the last of equally good labels, as COCO's matcher takes it
        best = free.shape[1] - 1 - int(np.argmax(free[i, ::-1]))
        if free[i, best] > 0:
            hits[i] = True
            free[:, best] = 0
    return hits


def _best_f1(curves: list[Curve]) -> tuple[float | None, NDArray[np.float64]]:
    """The lowest score with the best mean F1, and precision, recall, F1 of each class there: (3, C)."""
    thresholds = np.unique(np.concatenate([curve.score for curve in curves]))
    if not len(thresholds):
        return None, np.zeros((3, len(curves)))
    f1 = np.mean([_f1(*curve.at(thresholds)) for curve in curves], axis=0)
    best = int(np.argmax(f1))
    at_best = [curve.at(thresholds[best]) for curve in curves]
    return float(thresholds[best]), np.array([(p, r, _f1(p, r)) for p, r in at_best], np.float64).T


def _f1(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.asarray(precision + recall)
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
