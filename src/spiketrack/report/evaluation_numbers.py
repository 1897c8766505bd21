"""Evaluation numbers: an evaluation and its breakdown as plain values for metrics.json.

None stands where a score is not defined. Keys keep their meaning from one version to the next; docs/evaluation.md lists
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from spiketrack.evaluation import EvaluationResult
from spiketrack.metrics import Curve, DetectionScores, TrackingScore, TrackingScores
from spiketrack.metrics.recall_by_size import SIDE_EDGES
from spiketrack.report.breakdown import Breakdown, GroupScores
from spiketrack.report.score_tables import DETECTION_SCORES
from spiketrack.streaming import STATIONS, Latency, StreamingResult

CURVE_POINTS = 300
_COMMON = (*DETECTION_SCORES, "labels", "detections")


def evaluation_numbers(result: EvaluationResult, parts: Breakdown) -> dict[str, Any]:
    """All scores of an evaluation; `parts` is its breakdown."""
    errors = parts.errors
    values = {
        "detection": {
            **_detection(result.detection),
            "protocol": asdict(result.detection.protocol),
            "warnings": list(result.detection.warnings),
            "curves": _curves(result.detection),
            "errors": asdict(errors),
            "confusion": {
                "class_names": parts.confusion.class_names,
                "score_threshold": parts.confusion.score_threshold,
                "counts": parts.confusion.counts,
            },
            "by_size": {name: asdict(scores) for name, scores in parts.by_size.items()},
            "recall_by_side": {
                "edges": SIDE_EDGES,
                "score_threshold": parts.recall_by_side.score_threshold,
                "labels": dict(zip(errors.per_class, parts.recall_by_side.labels, strict=True)),
                "found": dict(zip(errors.per_class, parts.recall_by_side.found, strict=True)),
            },
            "per_sequence": {
                name: part.scores.detection and _detection(part.scores.detection)
                for name, part in parts.per_sequence.items()
            },
        },
        "tracking": {
            **_tracking(result.tracking),
            "per_sequence": {name: _row(row) for name, row in result.tracking.per_sequence.items()},
            "timelines": {name: [asdict(line) for line in part.timelines] for name, part in parts.per_sequence.items()},
            "strays": {name: [asdict(stray) for stray in part.strays] for name, part in parts.per_sequence.items()},
        },
        "by_light": {light: _group(scores) for light, scores in parts.by_light.items()},
        "light": {name: part.light for name, part in parts.per_sequence.items()},
        "sequences": [item.sequence.name for item in result.sequences],
    }
    if isinstance(result, StreamingResult):
        values["latency"] = latency_numbers(result.latency)
    return plain(values)


def latency_numbers(latency: Latency) -> dict[str, Any]:
    """Milliseconds of each station, of a whole step, and from the end of its slice; None without any step."""
    spent = {**dict(zip(STATIONS, latency.stations.T, strict=True)), "total": latency.total, "delay": latency.delay}
    return {
        "steps": len(latency.total),
        "slice_us": latency.slice_us,
        "device": latency.device,
        "real_time_factor": latency.real_time_factor,
        "ms": {name: _percentiles(1e3 * seconds) for name, seconds in spent.items()},
    }


def thinned(curve: Curve) -> np.ndarray:
    """(3, K) score, precision and recall at most CURVE_POINTS points, evenly spread over recall, with both ends."""
    values = np.stack([curve.score, curve.precision, curve.recall])
    if values.shape[1] > CURVE_POINTS:
        recall = curve.recall
        values = values[:, np.unique(np.searchsorted(recall, np.linspace(recall[0], recall[-1], CURVE_POINTS)))]
    return values


def plain(value: Any) -> Any:
    """As JSON can hold it: arrays become lists, numbers Python's, what is not finite None, other things text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _detection(scores: DetectionScores) -> dict[str, Any]:
    return {
        **{name: getattr(scores, name) for name in (*_COMMON, "score_threshold", "label_times")},
        "detections_elsewhere": scores.detections_elsewhere,
        "per_class": {
            name: None if row is None else {key: getattr(row, key) for key in _COMMON}
            for name, row in scores.per_class.items()
        },
    }


def _tracking(scores: TrackingScores) -> dict[str, Any]:
    return {
        "class_average": _row(scores.class_average),
        "detection_average": _row(scores.detection_average),
        "per_class": {name: row and _row(row) for name, row in scores.per_class.items()},
        "label_times": scores.label_times,
        "tracks_elsewhere": scores.tracks_elsewhere,
    }


def _group(scores: GroupScores) -> dict[str, Any]:
    return {
        "sequences": scores.sequences,
        "detection": scores.detection and _detection(scores.detection),
        "tracking": scores.tracking and _tracking(scores.tracking),
    }


def _curves(scores: DetectionScores) -> dict[str, dict[str, np.ndarray] | None]:
    keys = ("score", "precision", "recall")
    return {
        name: None if row is None else dict(zip(keys, thinned(row.curve), strict=True))
        for name, row in scores.per_class.items()
    }


def _row(score: TrackingScore) -> dict[str, Any]:
    return {part.name: getattr(score, part.name) for part in fields(score)}


def _percentiles(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {"mean": values.mean(), "p50": p50, "p95": p95, "p99": p99, "max": values.max()}
