"""Evaluation report: the scores of an evaluation as numbers for programs, a table for a terminal and a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from spiketrack.errors import RecordingError
from spiketrack.evaluation import EvaluationResult
from spiketrack.metrics import ALPHAS, ClassScores, Curve, DetectionScores, TrackingScore, TrackingScores
from spiketrack.replacing import make_folder, write_whole
from spiketrack.report.charts import Plot, bars, category
from spiketrack.report.page import facts as fact_list
from spiketrack.report.page import figure, note, page, pair, section, table, tiles
from spiketrack.training import EpochRecord

_DETECTION = ("map", "ap50", "ap75", "precision", "recall", "f1")
_NAMES = {
    "map": "mAP",
    "ap50": "AP50",
    "ap75": "AP75",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "hota": "HOTA",
    "deta": "DetA",
    "assa": "AssA",
    "mota": "MOTA",
    "idf1": "IDF1",
    "idsw": "IDSW",
    "frag": "Frag",
    "mt": "MT",
    "ml": "ML",
}
_TABLE_TRACKING = ("hota", "deta", "assa", "mota", "idf1", "idsw", "frag", "mt", "ml")
_CURVE_POINTS = 300
_BAR_ROWS = 24


def write_evaluation(
    folder: str | Path,
    result: EvaluationResult,
    class_names: Sequence[str],
    *,
    title: str,
    history: Sequence[EpochRecord] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write `metrics.json` (`metrics`) and `report.html` into a folder and return the path of the page.

    history: of the training, for its curves. facts: what was evaluated, shown on the page and kept under "facts".
    Raises RecordingError naming the file that cannot be written; older files then stay.
    """
    folder = Path(folder)
    make_folder(folder)
    values = {"title": title, **metrics(result), "facts": _plain(dict(facts or {}))}
    write_whole(folder / "metrics.json", json.dumps(values, indent=1, allow_nan=False) + "\n", RecordingError)
    path = folder / "report.html"
    write_whole(path, _page(result, class_names, title, history or (), facts or {}), RecordingError)
    return path


def metrics(result: EvaluationResult) -> dict[str, Any]:
    """All scores as plain numbers for JSON; None where a score is not defined."""
    detection, tracking = result.detection, result.tracking
    common = (*_DETECTION, "labels", "detections")
    return _plain(
        {
            "detection": {
                **{name: getattr(detection, name) for name in (*common, "score_threshold", "label_times")},
                "detections_elsewhere": detection.detections_elsewhere,
                "protocol": asdict(detection.protocol),
                "per_class": {
                    name: None if scores is None else {key: getattr(scores, key) for key in common}
                    for name, scores in detection.per_class.items()
                },
                "warnings": list(detection.warnings),
            },
            "tracking": {
                "class_average": _row(tracking.class_average),
                "detection_average": _row(tracking.detection_average),
                "per_class": {name: row and _row(row) for name, row in tracking.per_class.items()},
                "per_sequence": {name: _row(row) for name, row in tracking.per_sequence.items()},
                "label_times": tracking.label_times,
                "tracks_elsewhere": tracking.tracks_elsewhere,
            },
            "sequences": [item.sequence.name for item in result.sequences],
        }
    )


def format_scores(result: EvaluationResult) -> str:
    """The scores as plain text, one table for detection and one for tracking; undefined values are a dash."""
    detection, tracking = result.detection, result.tracking
    head, rows = _detection_rows(detection)
    lines = [f"detection, protocol {detection.protocol}, {detection.label_times} label times"]
    lines += _aligned(head, rows)
    if detection.score_threshold is not None:
        lines.append(f"precision, recall and F1 at IoU 0.5 and score {detection.score_threshold:.3f}")
    lines += [f"note: {warning}" for warning in detection.warnings]
    head, rows = _tracking_rows("class", _by_class(tracking))
    lines += ["", f"tracking, {tracking.label_times} label times", *_aligned(head, rows)]
    return "\n".join(lines)


def _page(
    result: EvaluationResult,
    class_names: Sequence[str],
    title: str,
    history: Sequence[EpochRecord],
    facts: Mapping[str, Any],
) -> str:
    detection, tracking = result.detection, result.tracking
    average = tracking.class_average
    best = [
        (f"{value:.3f}", name)
        for value, name in (
            (detection.map, "mAP, IoU 0.50 to 0.95"),
            (detection.ap50, "AP50"),
            (average.hota, "HOTA"),
            (average.idf1, "IDF1"),
            (average.mota, "MOTA"),
        )
    ]
    notes = "".join(note(warning[:1].upper() + warning[1:] + ".") for warning in detection.warnings)
    body = [
        tiles(best),
        f'<div style="margin-top:20px">{notes}</div>' if notes else "",
        _detection_section(detection, class_names),
        _tracking_section(tracking, class_names),
        _training_section(history),
        section("Evaluation", fact_list(_all_facts(result, facts))),
    ]
    sequences = len(result.sequences)
    subtitle = (
        f"{detection.labels:,} labels at {detection.label_times:,} times in {sequences} "
        f"sequence{'s' if sequences != 1 else ''}; averages over {len(class_names)} classes"
    )
    return page(title, subtitle, [part for part in body if part])


def _all_facts(result: EvaluationResult, facts: Mapping[str, Any]) -> dict[str, object]:
    detection = result.detection
    threshold = detection.score_threshold
    return {
        **facts,
        "Protocol": detection.protocol,
        "Label times": f"{detection.label_times:,}",
        "Labels": f"{detection.labels:,}",
        "Detections": f"{detection.detections:,} at label times, {detection.detections_elsewhere:,} at other times",
        "Score threshold": "none: there is no detection" if threshold is None else f"{threshold:.3f} (best mean F1)",
        "Sources": "AP as COCO (faster-coco-eval); HOTA Luiten 2021, MOTA Bernardin 2008, IDF1 Ristani 2016",
    }


def _detection_section(detection: DetectionScores, class_names: Sequence[str]) -> str:
    head, rows = _detection_rows(detection)
    curves = Plot((0, 1), (0, 1), size=(500, 330), labels=("recall", "precision"))
    curves.x_axis(5)
    curves.y_axis(5)
    colours = {name: category(i) for i, name in enumerate(class_names)}
    for name, scores in detection.per_class.items():
        if scores is not None:
            recall, precision = _thinned(scores.curve)
            curves.line(recall, precision, colours[name], f"{name}: AP50 {scores.ap50:.3f}")
            if detection.score_threshold is not None:
                curves.dot(scores.recall, scores.precision, colours[name], f"{name} at the score threshold")
    shown = [name for name in class_names if detection.per_class[name] is not None]
    kinds = ("map", "ap50", "ap75")
    groups = [(name, [getattr(detection.per_class[name], kind, None) for kind in kinds]) for name in class_names]
    names = [_NAMES[kind] for kind in kinds]
    return section(
        "Detection",
        table(head, rows, [*(colours[name] for name in detection.per_class), ""], totals=1),
        pair(
            figure(
                "Precision and recall",
                curves.svg("precision over recall for each class"),
                "At IoU 0.5. A dot marks the score threshold with the best mean F1.",
                [(name, colours[name]) for name in shown],
            ),
            figure(
                "Average precision of each class",
                bars(groups, names),
                "mAP: mean over IoU 0.50 to 0.95. AP50 and AP75: at IoU 0.50 and 0.75.",
                [(name, category(i)) for i, name in enumerate(names)],
            ),
        ),
    )


def _tracking_section(tracking: TrackingScores, class_names: Sequence[str]) -> str:
    head, rows = _tracking_rows("class", _by_class(tracking))
    plot = Plot((0, 1), (0, 1), size=(500, 330), labels=("IoU threshold alpha", "HOTA"))
    plot.x_axis(5)
    plot.y_axis(5)
    legend = []
    for i, name in enumerate(class_names):
        row = tracking.per_class[name]
        if row is not None:
            plot.line(ALPHAS, row.hota_by_alpha, category(i), f"{name}: HOTA {row.hota:.3f}")
            legend.append((name, category(i)))
    average = tracking.class_average
    plot.line(ALPHAS, average.hota_by_alpha, "var(--ink)", f"class average: HOTA {average.hota:.3f}", dashed=True)
    alpha = figure(
        "HOTA over the IoU threshold",
        plot.svg("HOTA over the IoU threshold for each class"),
        "How quality falls as boxes must fit better. HOTA is the mean over the thresholds; dashed: class average.",
        legend,
    )
    sequence_head, sequence_rows = _tracking_rows("sequence", list(tracking.per_sequence.items()))
    parts = [table(head, rows, [category(i) for i in range(len(class_names))], totals=2)]
    if len(tracking.per_sequence) <= _BAR_ROWS:
        groups = [(name, (row.hota, row.idf1, row.mota)) for name, row in tracking.per_sequence.items()]
        legend = [("HOTA", category(0)), ("IDF1", category(1)), ("MOTA", category(2))]
        chart = bars(groups, ["HOTA", "IDF1", "MOTA"])
        parts.append(pair(alpha, figure("Scores of each sequence", chart, "Over the boxes of all classes.", legend)))
    else:
        parts.append(alpha)
    return section("Tracking", *parts) + section("Sequences", table(sequence_head, sequence_rows))


def _training_section(history: Sequence[EpochRecord]) -> str:
    if not history:
        return ""
    epochs = [record.epoch for record in history]
    terms = {
        "loss": [record.loss for record in history],
        "box": [record.box for record in history],
        "classes": [record.classes for record in history],
        "dfl": [record.dfl for record in history],
    }
    scores = {
        "validation mAP": [np.nan if record.val_map is None else record.val_map for record in history],
        "validation AP50": [np.nan if record.val_ap50 is None else record.val_ap50 for record in history],
    }
    span = (float(min(epochs)), float(max(epochs)))
    highest = max((value for values in terms.values() for value in values if math.isfinite(value)), default=1.0)
    charts = []
    for name, series, top in (("Loss", terms, 1.05 * highest), ("Validation", scores, 1.0)):
        plot = Plot(span, (0, top), size=(500, 300), labels=("epoch", "loss" if name == "Loss" else "score"))
        plot.x_axis(min(8, max(1, len(epochs) - 1)), form=lambda value: f"{value:g}")
        plot.y_axis()
        for i, (key, values) in enumerate(series.items()):
            plot.line(epochs, values, category(i), key)
        legend = [(key, category(i)) for i, key in enumerate(series)]
        charts.append(figure(name, plot.svg(f"{name} over epochs"), legend=legend))
    return section("Training", pair(*charts))


def _thinned(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """At most _CURVE_POINTS points of the curve, evenly spread over recall, with both ends."""
    recall, precision = curve.recall, curve.precision
    if len(recall) > _CURVE_POINTS:
        chosen = np.unique(np.searchsorted(recall, np.linspace(recall[0], recall[-1], _CURVE_POINTS)))
        recall, precision = recall[chosen], precision[chosen]
    return recall, precision


def _detection_rows(detection: DetectionScores) -> tuple[list[str], list[list[str]]]:
    head = ["class", *(_NAMES[name] for name in _DETECTION), "labels", "detections"]
    rows = []
    named: list[tuple[str, ClassScores | DetectionScores | None]] = [*detection.per_class.items()]
    for name, scores in [*named, ("mean", detection)]:
        if scores is None:
            rows.append([name, *("-" for _ in head[1:])])
        else:
            values = [_number(getattr(scores, key)) for key in _DETECTION]
            rows.append([name, *values, f"{scores.labels:,}", f"{scores.detections:,}"])
    return head, rows


def _by_class(tracking: TrackingScores) -> list[tuple[str, TrackingScore | None]]:
    return [
        *tracking.per_class.items(),
        ("class average", tracking.class_average),
        ("all boxes", tracking.detection_average),
    ]


def _tracking_rows(first: str, named: Sequence[tuple[str, TrackingScore | None]]) -> tuple[list[str], list[list[str]]]:
    head = [first, *(_NAMES[name] for name in _TABLE_TRACKING)]
    rows = []
    for name, scores in named:
        values = ["-" if scores is None else _number(getattr(scores, key)) for key in _TABLE_TRACKING]
        rows.append([name, *values])
    return head, rows


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in [head, *rows]
    ]


def _row(score: TrackingScore) -> dict[str, Any]:
    return {part.name: getattr(score, part.name) for part in fields(score)}


def _plain(value: Any) -> Any:
    """As JSON can hold it: arrays become lists, numbers Python's, what is not finite None, other things text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
