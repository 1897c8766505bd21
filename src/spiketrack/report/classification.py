"""Classification report: the scores of a classifier as numbers for programs, a table for a terminal and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spiketrack.classification import Answers, ClassifierEpoch
from spiketrack.datasets.classified import name_of
from spiketrack.errors import RecordingError
from spiketrack.metrics.classification import ClassificationScores, ClassResult, Roc
from spiketrack.replacing import make_folder, write_whole
from spiketrack.report.charts import Plot, bars, category
from spiketrack.report.page import facts as fact_list
from spiketrack.report.page import figure, note, page, pair, section, table, tiles

_CURVE_POINTS = 200
_MISTAKES = 20
_DEEPEST = 45  # per cent of colour, on which numbers can still be read
_HEAD = ("class", "samples", "answers", "precision", "recall", "F1", "AUC")


def write_classification(
    folder: str | Path,
    scores: ClassificationScores,
    answers: Answers,
    *,
    title: str,
    history: Sequence[ClassifierEpoch] = (),
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write `metrics.json` (`classification_metrics`) and `report.html` into a folder; returns the path of the page.

    history: of the training, for its curves. facts: what was evaluated, shown on the page and kept under "facts".
    Raises RecordingError naming the file that cannot be written; older files then stay.
    """
    folder = Path(folder)
    make_folder(folder)
    told = {**(facts or {}), **_facts(answers)}
    values = {"title": title, **classification_metrics(scores, answers), "facts": {k: str(v) for k, v in told.items()}}
    write_whole(folder / "metrics.json", json.dumps(values, indent=1, allow_nan=False) + "\n", RecordingError)
    body = [
        tiles(_tiles(scores)),
        f'<div style="margin-top:20px">{_notes(answers)}</div>',
        _classes_section(scores),
        _mistakes_section(scores, answers),
        _training_section(history),
        section("Evaluation", fact_list(told)),
    ]
    what = f"Classification of {scores.samples:,} samples of {len(scores.per_class)} classes"
    path = folder / "report.html"
    write_whole(path, page(title, what, body), RecordingError)
    return path


def classification_metrics(scores: ClassificationScores, answers: Answers) -> dict[str, Any]:
    """All scores as plain numbers for JSON; None where a score is not defined. Curves: pairs of rates."""
    return {
        "samples": scores.samples,
        "accuracy": scores.accuracy,
        "accuracy_interval_95": list(scores.interval),
        "balanced_accuracy": scores.balanced_accuracy,
        "area_under_roc": scores.area,
        "loss": answers.loss,
        "spiking": answers.spiking,
        "confusion": {"rows": "truth", "columns": "answer", "counts": scores.confusion.tolist()},
        "per_class": {
            name: {
                "samples": result.samples,
                "answers": result.answers,
                "precision": result.precision,
                "recall": result.recall,
                "f1": result.f1,
                "area_under_roc": None if result.roc is None else result.roc.area,
                "roc": None if result.roc is None else np.stack(_thinned(result.roc), axis=1).round(5).tolist(),
            }
            for name, result in scores.per_class.items()
        },
        "repairs": dict(answers.repairs),
        "empty_samples": answers.empty,
    }


def format_classification(scores: ClassificationScores) -> str:
    """The scores as plain text; undefined values are a dash."""
    rows = [_HEAD, *_rows(scores)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(_HEAD))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    low, high = scores.interval
    said = f"accuracy {scores.accuracy:.3f} ({low:.3f} to {high:.3f} with 95 %) on {scores.samples:,} samples"
    return "\n".join([*lines, "", f"{said}; AUC {_number(scores.area)}"])


def _tiles(scores: ClassificationScores) -> list[tuple[str, str]]:
    low, high = scores.interval
    return [
        (f"{scores.accuracy:.3f}", f"accuracy, 95 %: {low:.3f} to {high:.3f}"),
        (f"{scores.balanced_accuracy:.3f}", "balanced accuracy"),
        (_number(scores.area), "AUC" if len(scores.per_class) == 2 else "AUC, mean of one against the rest"),
        (f"{scores.samples:,}", "samples"),
    ]


def _notes(answers: Answers) -> str:
    said = [f"{count:,} events of the samples were repaired: {kind}." for kind, count in answers.repairs.items()]
    said += [f"{answers.empty:,} samples have no events."] if answers.empty else []
    return "".join(note(text) for text in said)


def _facts(answers: Answers) -> dict[str, str]:
    return {
        "answer": "the class of the largest sum of logits over time steps and places",
        "loss": f"{answers.loss:.4f} (cross-entropy)",
        "spiking": f"{100 * answers.spiking:.2f} % of neuron-steps have a spike",
    }


def _rows(scores: ClassificationScores) -> list[list[str]]:
    return [_row(name, result) for name, result in scores.per_class.items()]


def _row(name: str, result: ClassResult) -> list[str]:
    area = None if result.roc is None else result.roc.area
    numbers = [_number(value) for value in (result.precision, result.recall, result.f1, area)]
    return [name, f"{result.samples:,}", f"{result.answers:,}", *numbers]


def _classes_section(scores: ClassificationScores) -> str:
    colours = [category(i) for i in range(len(scores.per_class))]
    recall = bars([(name, [result.recall]) for name, result in scores.per_class.items()], ["recall"])
    return section(
        "Classes",
        table(_HEAD, _rows(scores), colours),
        pair(figure("Recall", recall, "Share of a class's samples that were named rightly."), _roc_figure(scores)),
        _confusion_figure(scores),
    )


def _roc_figure(scores: ClassificationScores) -> str:
    plot = Plot((0, 1), (0, 1), size=(500, 380), labels=("false positive rate", "true positive rate"))
    plot.x_axis(5)
    plot.y_axis(5)
    plot.line([0, 1], [0, 1], "var(--soft)", "chance", dashed=True)
    legend = []
    shown = list(scores.per_class.items())
    for i, (name, result) in enumerate(shown):
        if result.roc is not None and (len(shown) != 2 or i == 1):
            plot.line(*_thinned(result.roc), category(i), f"{name}: AUC {result.roc.area:.3f}")
            legend.append((f"{name} {result.roc.area:.3f}", category(i)))
    kind = "" if len(shown) == 2 else " of each class against the rest"
    return figure("ROC", plot.svg("ROC curves"), f"Over all thresholds of the probability{kind}; AUC.", legend)


def _confusion_figure(scores: ClassificationScores) -> str:
    names, confusion = list(scores.per_class), scores.confusion
    k = len(names)
    left = min(160, 24 + max(7 * len(name) for name in names))
    plot = Plot((0, k), (k, 0), size=(1040, 90 + 34 * k), left=left)
    per_row = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    for i, j in np.ndindex(k, k):
        share = round(_DEEPEST * float(per_row[i, j]))
        colour = f"color-mix(in srgb,var({'--c3' if i == j else '--c4'}) {share}%,var(--grid))"
        count, tip = int(confusion[i, j]), f"{names[i]} taken for {names[j]}"
        plot.block((j + 0.03, j + 0.97), (i + 0.04, i + 0.96), colour, f"{tip}: {count}")
        if count:
            plot.text(float(plot.at_x(j + 0.5)), float(plot.at_y(i + 0.5)) + 4, f"{count:,}", "middle")
    for i, name in enumerate(names):
        plot.text(left - 8, float(plot.at_y(i + 0.5)) + 4, name, "end")
        plot.text(float(plot.at_x(i + 0.5)), float(plot.at_y(k)) + 18, name, "middle")
    caption = "Rows: the truth. Columns: the answer. Counts, coloured by their share of the row."
    return figure("Confusion", plot.svg("Confusion matrix"), caption)


def _mistakes_section(scores: ClassificationScores, answers: Answers) -> str:
    names, chances = list(scores.per_class), answers.probabilities
    said = chances.argmax(1)
    wrong = np.flatnonzero(said != answers.class_ids)
    if not len(wrong):
        return section("Mistakes", note("Every sample was named rightly."))
    surest = wrong[np.argsort(-chances[wrong, said[wrong]], kind="stable")][:_MISTAKES]
    rows = [
        [
            "/".join(name_of(answers.samples[i]).split("/")[-3:]),
            names[answers.class_ids[i]],
            names[said[i]],
            f"{chances[i, said[i]]:.3f}",
            f"{chances[i, answers.class_ids[i]]:.3f}",
        ]
        for i in surest.tolist()
    ]
    heading = f"Mistakes ({len(wrong):,}; the surest {len(rows)})"
    return section(heading, table(["sample", "truth", "answer", "its probability", "of the truth"], rows, names=3))


def _training_section(history: Sequence[ClassifierEpoch]) -> str:
    if not history:
        return ""
    epochs = [record.epoch for record in history]
    nothing = float("nan")
    series = {
        "Loss": {
            "training": [record.loss for record in history],
            "validation": [nothing if record.val_loss is None else record.val_loss for record in history],
        },
        "Accuracy": {
            "training": [record.accuracy for record in history],
            "validation": [nothing if record.val_accuracy is None else record.val_accuracy for record in history],
        },
    }
    charts = []
    for name, lines in series.items():
        finite = [value for values in lines.values() for value in values if value == value]
        top = 1.0 if name == "Accuracy" else 1.05 * max(finite)
        plot = Plot((min(epochs), max(epochs)), (0, top), size=(500, 300), labels=("epoch", name.lower()))
        plot.x_axis(min(8, max(1, len(epochs) - 1)), form=lambda value: f"{value:g}")
        plot.y_axis()
        for i, (key, values) in enumerate(lines.items()):
            plot.line(epochs, values, category(i), key)
        shown = [(key, category(i)) for i, (key, values) in enumerate(lines.items()) if any(v == v for v in values)]
        charts.append(figure(name, plot.svg(f"{name} over epochs"), legend=shown))
    caption = "Training: on augmented samples, with smoothed labels in the loss; validation: neither."
    return section("Training", pair(*charts), f'<p class="soft">{caption}</p>')


def _thinned(curve: Roc) -> tuple[np.ndarray, np.ndarray]:
    """At most _CURVE_POINTS points of the curve, with both ends."""
    points = len(curve.false_positive)
    chosen = np.unique(np.linspace(0, points - 1, min(points, _CURVE_POINTS)).astype(np.int64))
    return curve.false_positive[chosen], curve.true_positive[chosen]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
