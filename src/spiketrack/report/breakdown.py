"""Breakdown: the scores of an evaluation told apart by sequence, light, kind of error, class and size.

Station: an evaluation goes in, everything that its report shows beyond the overall scores comes out, computed once for
the page and for metrics.json. All of it under the evaluation's own protocol and at its own score threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.datasets.light import LIGHTS, Light, light_of
from spiketrack.errors import LabelError
from spiketrack.evaluation import EvaluationResult, SequenceResult
from spiketrack.metrics import DetectionScores, TrackingScores, average_precision, tracking_scores
from spiketrack.metrics.confusion import Confusion, confusion
from spiketrack.metrics.detection_errors import DetectionErrors, JudgedDetections, detection_errors
from spiketrack.metrics.label_times import label_times
from spiketrack.metrics.recall_by_size import RecallBySide, SizeScores, recall_by_side, scores_by_size
from spiketrack.metrics.timelines import StrayTrack, Timeline, track_timelines


@dataclass(frozen=True, slots=True, eq=False)
class GroupScores:
    """Scores of some of the sequences; None where they hold no label (under the protocol)."""

    sequences: tuple[str, ...]
    detection: DetectionScores | None
    tracking: TrackingScores | None


@dataclass(frozen=True, slots=True, eq=False)
class SequenceBreakdown:
    """One sequence: its light, its scores, its labelled objects over time and the boxes of tracks on none of them."""

    light: Light
    scores: GroupScores
    timelines: list[Timeline]
    strays: list[StrayTrack]


@dataclass(frozen=True, slots=True, eq=False)
class Breakdown:
    """An evaluation told apart. by_light: in the order of LIGHTS, only those that occur."""

    errors: DetectionErrors
    confusion: Confusion
    by_size: dict[str, SizeScores]
    recall_by_side: RecallBySide
    per_sequence: dict[str, SequenceBreakdown]
    by_light: dict[Light, GroupScores]


def break_down(result: EvaluationResult, class_names: Sequence[str]) -> Breakdown:
    """Tell the scores of an evaluation apart; class_names: one per class id."""
    detection, classes = result.detection, len(class_names)
    pairs = [(item.sequence.name, item.sequence.labels, item.detections) for item in result.sequences]
    annotated = {item.sequence.name: item.sequence.annotated for item in result.sequences}
    images = label_times(pairs, detection.protocol, annotated).images
    judged = JudgedDetections.of(images, classes)
    threshold = detection.score_threshold
    per_sequence = {item.sequence.name: _sequence(item, result, class_names) for item in result.sequences}
    by_light = {}
    for light in LIGHTS:
        chosen = [item for item in result.sequences if per_sequence[item.sequence.name].light == light]
        if chosen:
            by_light[light] = _group(chosen, result, class_names)
    return Breakdown(
        detection_errors(judged, class_names, threshold),
        confusion(images, class_names, threshold),
        scores_by_size(images, classes),
        recall_by_side(judged, classes, threshold),
        per_sequence,
        by_light,
    )


def _sequence(item: SequenceResult, result: EvaluationResult, class_names: Sequence[str]) -> SequenceBreakdown:
    sequence = item.sequence
    timelines = track_timelines(sequence.labels, item.tracks, len(class_names), sequence.annotated)
    return SequenceBreakdown(light_of(sequence), _group([item], result, class_names), *timelines)


def _group(items: Sequence[SequenceResult], result: EvaluationResult, class_names: Sequence[str]) -> GroupScores:
    """Scores of some sequences alone; those of all are known already."""
    names = tuple(item.sequence.name for item in items)
    if len(items) == len(result.sequences):
        return GroupScores(names, result.detection, result.tracking)
    annotated: dict[str, NDArray[np.int64]] = {item.sequence.name: item.sequence.annotated for item in items}

    def pairs(kind: str) -> list[tuple[str, Boxes, Boxes]]:
        return [(item.sequence.name, item.sequence.labels, getattr(item, kind)) for item in items]

    try:
        overall = result.detection
        detection = average_precision(
            pairs("detections"), class_names, overall.protocol, annotated, overall.score_threshold
        )
    except LabelError:  # no label is left under the protocol
        detection = None
    try:
        tracking = tracking_scores(pairs("tracks"), class_names, annotated)
    except LabelError:
        tracking = None
    return GroupScores(names, detection, tracking)
