"""Average precision of detections at label times, by COCO's definition.

Station: labels and detections of whole sequences go in, detection scores come out. Every label time that is left
after the protocol's filter is one COCO image. Average precision comes from faster-coco-eval (numbers identical to
pycocotools), precision-recall curves from the same greedy matching at IoU 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import iou
from spiketrack.errors import LabelError
from spiketrack.metrics.coco import coco_arrays
from spiketrack.metrics.greedy import greedy_labels, ranked
from spiketrack.metrics.label_times import LabelTime, label_times
from spiketrack.metrics.protocols import NamedPair, Protocol, check_sequences, protocol_named


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
    IoU 0.5 and at score_threshold, the one given or the lowest score with the best mean F1 (None where there is no
    detection).
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
    score_threshold: float | None = None,
) -> DetectionScores:
    """Score detections against labels at the label times.

    sequences: (name, labels, detections) of each recording, times from the start of the recording. class_names: one
    name per class id. annotated: per recording, times (us) whose objects all have labels, so that one without any is an
    image without objects; other times without labels say nothing. score_threshold: at which precision, recall and F1
    hold; default the best. Raises LabelError where no label is left to evaluate, SettingsError for an unknown protocol.
    """
    if isinstance(protocol, str):
        protocol = protocol_named(protocol)
    check_sequences(sequences, class_names, "detections")
    times = label_times(sequences, protocol, annotated)
    images, elsewhere, warnings = times.images, times.elsewhere, list(times.warnings)
    if not any(len(image.labels) for image in images):
        raise LabelError(
            f"nothing to evaluate: of {times.given} labels in {len(sequences)} sequences none is left under protocol "
            f"{protocol}; check the labels' scale and times, or choose another protocol"
        )
    labels_per_class = np.zeros(len(class_names), np.int64)
    detections_per_class = np.zeros(len(class_names), np.int64)
    for labels, detections in images:
        labels_per_class += np.bincount(labels.class_id, minlength=len(class_names))
        detections_per_class += np.bincount(detections.class_id, minlength=len(class_names))
    labelled = np.flatnonzero(labels_per_class)
    precision = coco_arrays(images, labelled).precision[..., 0]  # (10, 101, C)
    curves = [_curve(images, class_id, int(labels_per_class[class_id])) for class_id in labelled]
    threshold = _best_f1(curves) if score_threshold is None else score_threshold
    at_threshold = _at(curves, threshold)  # (3, C)

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


def _curve(images: list[LabelTime], class_id: int, labels: int) -> Curve:
    scores, hits = [np.empty(0, np.float32)], [np.empty(0, bool)]
    for truth, found in images:
        order = ranked(found, class_id)
        scores.append(found.score[order])
        overlaps = iou(found.xyxy[order], truth.xyxy[truth.class_id == class_id], np.float64)
        hits.append(greedy_labels(overlaps) >= 0)
    score = np.concatenate(scores).astype(np.float64)
    order = np.argsort(-score, kind="stable")
    score, true_positives = score[order], np.cumsum(np.concatenate(hits)[order])
    last = np.flatnonzero(np.diff(score, append=-1.0))  # equal scores enter together
    true_positives = true_positives[last]
    return Curve(score[last], true_positives / (last + 1), true_positives / labels)


def _best_f1(curves: list[Curve]) -> float | None:
    """The lowest score with the best mean F1."""
    thresholds = np.unique(np.concatenate([curve.score for curve in curves]))
    if not len(thresholds):
        return None
    return float(thresholds[np.argmax(np.mean([_f1(*curve.at(thresholds)) for curve in curves], axis=0))])


def _at(curves: list[Curve], threshold: float | None) -> NDArray[np.float64]:
    """Precision, recall and F1 of each class at the threshold: (3, C); 0 where there is no detection."""
    if threshold is None:
        return np.zeros((3, len(curves)))
    rates = [curve.at(np.array([threshold])) for curve in curves]
    return np.array([(*p, *r, *_f1(p, r)) for p, r in rates], np.float64).T


def _f1(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.asarray(precision + recall)
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
