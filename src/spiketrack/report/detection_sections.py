"""Detection sections of an evaluation page: scores, curves, kinds of error, confusion, size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spiketrack.metrics import DetectionScores
from spiketrack.metrics.confusion import Confusion
from spiketrack.metrics.detection_errors import KINDS, MISSED, DetectionErrors, ErrorCounts
from spiketrack.metrics.recall_by_size import SIDE_EDGES, RecallBySide, SizeScores
from spiketrack.report.breakdown import Breakdown
from spiketrack.report.charts import Plot, bars, category
from spiketrack.report.evaluation_numbers import thinned
from spiketrack.report.matrix import matrix
from spiketrack.report.page import figure, pair, section, table
from spiketrack.report.score_tables import DETECTION_SCORES, detection_rows, number

_MEANINGS = {
    "localisation": "right class, IoU 0.1 to 0.5",
    "classification": "IoU 0.5 or more with a label of another class",
    "duplicate": "the label was taken by a better score",
    "background": "IoU below 0.1 with every label",
    "both": "wrong class and IoU 0.1 to 0.5",
    MISSED: "labels that no detection is about",
}


def detection_section(detection: DetectionScores, class_names: Sequence[str]) -> str:
    """Scores of each class, precision over recall, average precision."""
    head, rows = detection_rows("class", [*detection.per_class.items(), ("mean", detection)])
    colours = {name: category(i) for i, name in enumerate(class_names)}
    kinds = ("map", "ap50", "ap75")
    groups = [(name, [getattr(detection.per_class[name], kind, None) for kind in kinds]) for name in class_names]
    names = [DETECTION_SCORES[kind] for kind in kinds]
    shown = [(name, colours[name]) for name in class_names if detection.per_class[name] is not None]
    return section(
        "Detection",
        table(head, rows, [*(colours[name] for name in detection.per_class), ""], totals=1),
        pair(
            figure(
                "Precision and recall",
                _curves(detection, colours),
                "At IoU 0.5. A dot marks the score threshold with the best mean F1.",
                shown,
            ),
            figure(
                "Average precision of each class",
                bars(groups, names),
                "mAP: mean over IoU 0.50 to 0.95. AP50 and AP75: at IoU 0.50 and 0.75.",
                [(name, category(i)) for i, name in enumerate(names)],
            ),
        ),
    )


def errors_section(parts: Breakdown) -> str:
    """What is wrong with the wrong detections, and what each kind of error costs."""
    errors = parts.errors
    gains = [(name, [errors.ap50_gain[name]]) for name in (*KINDS, MISSED)]
    highest = max(errors.ap50_gain.values())
    return section(
        "Errors",
        _error_table(errors),
        pair(
            figure(
                "What each kind of error costs",
                bars(gains, ["AP50 gained"], limit=max(highest, 1e-3)),
                f"By how much AP50, now {errors.ap50:.3f}, would rise without any such error, over all scores (TIDE).",
            ),
            figure(
                "Confusion",
                matrix(*_shares(parts.confusion)),
                f"Boxes paired at IoU 0.5 whatever their class, {_threshold(errors.score_threshold)}. Row: class of "
                "the label; shade: share of the row.",
            ),
        ),
        _kinds(errors.total),
    )


def size_section(parts: Breakdown, class_names: Sequence[str]) -> str:
    """How well small and large objects are found."""
    by_side = parts.recall_by_side
    groups, legend = _recall_groups(by_side, class_names)
    return section(
        "Size",
        table(*_size_table(parts.by_size)),
        figure(
            "Recall by size",
            bars(groups, [name for name, _ in legend], width=1040),
            f"Share of the labels found at IoU 0.5, {_threshold(by_side.score_threshold)}, by the square root of their "
            "area in pixels.",
            legend,
        ),
    )


def _curves(detection: DetectionScores, colours: dict[str, str]) -> str:
    plot = Plot((0, 1), (0, 1), size=(500, 330), labels=("recall", "precision"))
    plot.x_axis(5)
    plot.y_axis(5)
    for name, scores in detection.per_class.items():
        if scores is not None:
            _, precision, recall = thinned(scores.curve)
            plot.line(recall, precision, colours[name], f"{name}: AP50 {scores.ap50:.3f}")
            if detection.score_threshold is not None:
                plot.dot(scores.recall, scores.precision, colours[name], f"{name} at the score threshold")
    return plot.svg("precision over recall for each class")


def _error_table(errors: DetectionErrors) -> str:
    head = ["class", "detections", "right", *KINDS, "labels", "found", "nearly", MISSED]
    rows = [
        [name, *(f"{n:,}" for n in (c.detections, c.right, *c.kinds.values(), c.labels, c.found, c.near, c.missed))]
        for name, c in [*errors.per_class.items(), ("all", errors.total)]
    ]
    return table(head, rows, [category(i) for i in range(len(errors.per_class))], totals=1)


def _kinds(total: ErrorCounts) -> str:
    counts = {**total.kinds, MISSED: total.missed}
    rows = [[name, _MEANINGS[name], f"{counts[name]:,}"] for name in counts]
    return table(["kind", "meaning", "boxes"], rows, names=2)


def _shares(confusion: Confusion) -> tuple[np.ndarray, np.ndarray, Sequence[str], Sequence[str]]:
    """Counts, their share of the row, and the names of rows and columns."""
    sums = confusion.counts.sum(axis=1, keepdims=True)
    shares = np.divide(confusion.counts, sums, out=np.zeros(confusion.counts.shape), where=sums > 0)
    return confusion.counts, shares, [*confusion.class_names, "no label"], [*confusion.class_names, "not found"]


def _size_table(by_size: dict[str, SizeScores]) -> tuple[list[str], list[list[str]]]:
    head = ["size", "side (px)", "labels", "mAP", "AP50", "mean recall", "recall at IoU 0.5"]
    rows = []
    for name, scores in by_size.items():
        low, high = scores.sides
        values = [number(value) for value in (scores.ap, scores.ap50, scores.recall, scores.recall50)]
        rows.append([name, f"{low:g} to {high:g}" if high < 1e4 else f"from {low:g}", f"{scores.labels:,}", *values])
    return head, rows


def _recall_groups(
    by_side: RecallBySide, class_names: Sequence[str]
) -> tuple[list[tuple[str, list[float | None]]], list[tuple[str, str]]]:
    """One group for each side that occurs, one bar for each class, and the legend."""
    groups = []
    for k in np.flatnonzero(by_side.labels.sum(axis=0)):
        low, high = SIDE_EDGES[k : k + 2]
        labels, found = by_side.labels[:, k].tolist(), by_side.found[:, k].tolist()
        name = (
            f"{low:g} to {high:g} px ({sum(labels):,})" if high < float("inf") else f"from {low:g} px ({sum(labels):,})"
        )
        groups.append((name, [f / n if n else None for f, n in zip(found, labels, strict=True)]))
    return groups, [(name, category(i)) for i, name in enumerate(class_names)]


def _threshold(score: float | None) -> str:
    return "at every score" if score is None else f"score {score:.3f} or more"
