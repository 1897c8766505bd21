"""Training section of an evaluation page: loss and validation scores over the epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from spiketrack.history import EpochRecord
from spiketrack.report.charts import Plot, category
from spiketrack.report.page import figure, pair, section

_TERMS = {name: name for name in ("loss", "box", "classes", "dfl", "track")}
_SCORES = {"val_map": "validation mAP", "val_ap50": "validation AP50"}


def training_section(history: Sequence[EpochRecord]) -> str:
    """Charts of a training run; nothing without one. A term that the network's loss has not is left out."""
    if not history:
        return ""
    terms, scores = _series(history, _TERMS), _series(history, _SCORES)
    highest = max((value for values in terms.values() for value in values if math.isfinite(value)), default=1.0)
    return section(
        "Training",
        pair(_chart(history, "Loss", terms, 1.05 * highest), _chart(history, "Validation", scores, 1.0)),
    )


def _series(history: Sequence[EpochRecord], names: Mapping[str, str]) -> dict[str, list[float]]:
    columns = {words: [getattr(record, name) for record in history] for name, words in names.items()}
    return {
        words: [math.nan if value is None else float(value) for value in values]
        for words, values in columns.items()
        if any(value is not None for value in values)
    }


def _chart(history: Sequence[EpochRecord], name: str, series: Mapping[str, list[float]], top: float) -> str:
    epochs = np.array([record.epoch for record in history], np.float64)
    span = (float(epochs.min()), float(epochs.max()))
    plot = Plot(span, (0, top), size=(500, 300), labels=("epoch", "loss" if name == "Loss" else "score"))
    plot.x_axis(min(8, max(1, len(epochs) - 1)), form=lambda value: f"{value:g}")
    plot.y_axis()
    for i, (words, values) in enumerate(series.items()):
        plot.line(epochs, values, category(i), words)
    legend = [(words, category(i)) for i, words in enumerate(series)]
    return figure(name, plot.svg(f"{name} over epochs"), legend=legend)
