"""Score tables: detection and tracking scores as rows of text, for a page and for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from spiketrack.evaluation import EvaluationResult
from spiketrack.metrics import ClassScores, DetectionScores, TrackingScore, TrackingScores

DETECTION_SCORES = {
    "map": "mAP",
    "ap50": "AP50",
    "ap75": "AP75",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
}
TRACKING_SCORES = {
    "hota": "HOTA",
    "deta": "DetA",
    "assa": "AssA",
    "mota": "MOTA",
    "motp": "MOTP",
    "idf1": "IDF1",
    "idsw": "IDSW",
    "frag": "Frag",
    "mt": "MT",
    "ml": "ML",
}
UNDEFINED = "-"


def format_scores(result: EvaluationResult) -> str:
    """The scores as plain text, one table for detection and one for tracking; undefined values are a dash."""
    detection, tracking = result.detection, result.tracking
    head, rows = detection_rows("class", [*detection.per_class.items(), ("mean", detection)])
    lines = [f"detection, protocol {detection.protocol}, {detection.label_times} label times"]
    lines += _aligned(head, rows)
    if detection.score_threshold is not None:
        lines.append(f"precision, recall and F1 at IoU 0.5 and score {detection.score_threshold:.3f}")
    lines += [f"note: {warning}" for warning in detection.warnings]
    head, rows = tracking_rows("class", rows_by_class(tracking))
    lines += ["", f"tracking, {tracking.label_times} label times", *_aligned(head, rows)]
    return "\n".join(lines)


def detection_rows(
    first: str, named: Sequence[tuple[str, ClassScores | DetectionScores | None]]
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table; first: what the names in the first column are."""
    head = [first, *DETECTION_SCORES.values(), "labels", "detections"]
    rows = []
    for name, scores in named:
        if scores is None:
            rows.append([name, *(UNDEFINED for _ in head[1:])])
        else:
            values = [number(getattr(scores, key)) for key in DETECTION_SCORES]
            rows.append([name, *values, f"{scores.labels:,}", f"{scores.detections:,}"])
    return head, rows


def tracking_rows(first: str, named: Sequence[tuple[str, TrackingScore | None]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table; first: what the names in the first column are."""
    head = [first, *TRACKING_SCORES.values()]
    rows = []
    for name, scores in named:
        values = [UNDEFINED if scores is None else number(getattr(scores, key)) for key in TRACKING_SCORES]
        rows.append([name, *values])
    return head, rows


def rows_by_class(tracking: TrackingScores) -> list[tuple[str, TrackingScore | None]]:
    """Every class, then the two averages."""
    return [
        *tracking.per_class.items(),
        ("class average", tracking.class_average),
        ("all boxes", tracking.detection_average),
    ]


def number(value: float | None) -> str:
    """A count in full, a rate with three decimals, what is not defined as a dash."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in [head, *rows]
    ]
