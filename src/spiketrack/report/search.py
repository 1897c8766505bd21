"""Search page: how the trials of a search went, which settings mattered, and which values were good.

Station: the end of a search. In come the trials as plain records, out go trials.csv, trials.json and report.html.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spiketrack.errors import RecordingError
from spiketrack.replacing import write_whole
from spiketrack.report.charts import Plot, bars, category
from spiketrack.report.page import facts as fact_list
from spiketrack.report.page import figure, note, page, pair, section, table, tiles

STATES = ("complete", "pruned", "failed", "running", "waiting")
_COLOURS = {"complete": category(0), "pruned": category(1), "failed": category(3), "running": category(7)}


@dataclass(frozen=True)
class TrialRow:
    """One trial: its settings, the validation mAP of each epoch and what became of it.

    state: one of STATES. score: the best of the epochs; None of a trial that has none. note: why it failed.
    """

    number: int
    state: str
    score: float | None
    values: Mapping[str, Any]
    epochs: Mapping[int, float]
    seconds: float | None
    host: str
    attempts: int
    note: str
    folder: str


@dataclass(frozen=True)
class Scale:
    """Where the values of one setting lie on an axis. kind: linear, log or choice."""

    key: str
    kind: str
    low: float
    high: float
    choices: tuple[Any, ...] = ()

    def at(self, value: Any) -> float:
        """Place on the axis; NaN where there is no value."""
        if value is None and None not in self.choices:
            return math.nan
        if self.kind == "choice":
            return float(self.choices.index(value))
        return math.log10(value) if self.kind == "log" else float(value)

    @property
    def bounds(self) -> tuple[float, float]:
        if self.kind == "choice":
            return -0.5, len(self.choices) - 0.5
        return self.at(self.low), self.at(self.high)

    def word(self, place: float) -> str:
        """What stands at a place."""
        if self.kind == "choice":
            return str(self.choices[round(place)])
        return f"{10**place:.3g}" if self.kind == "log" else f"{place:.4g}"


@dataclass(frozen=True)
class SearchSummary:
    """A search: its trials in the order of their numbers; importances are shares, or there is a word why not."""

    study: str
    trials: tuple[TrialRow, ...]
    scales: tuple[Scale, ...]
    importances: Mapping[str, float]
    no_importances: str
    facts: Mapping[str, str]

    def of_state(self, *states: str) -> list[TrialRow]:
        return [trial for trial in self.trials if trial.state in states]

    @property
    def best(self) -> TrialRow | None:
        """The finished trial with the best score, the first of equals."""
        return max(self.of_state("complete"), key=lambda trial: trial.score or 0.0, default=None)


def write_search(folder: Path, found: SearchSummary) -> Path:
    """Write trials.csv, trials.json and report.html; returns the page. Raises RecordingError naming the file."""
    keys = [scale.key for scale in found.scales]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["trial", "state", "score", "epochs", "seconds", "attempts", "host", *keys, "note"])
    for trial in found.trials:
        drawn = [trial.values.get(key, "") for key in keys]
        rows.writerow(
            [trial.number, trial.state, _cell(trial.score), len(trial.epochs), _cell(trial.seconds), trial.attempts,
             trial.host, *drawn, trial.note]
        )  # fmt: skip
    write_whole(folder / "trials.csv", text.getvalue(), RecordingError)
    best = found.best
    content = {
        "study": found.study,
        "best": None if best is None else best.number,
        "importances": dict(found.importances),
        "facts": dict(found.facts),
        "trials": [asdict(trial) for trial in found.trials],
    }
    write_whole(folder / "trials.json", json.dumps(content, indent=1) + "\n", RecordingError)
    write_whole(folder / "report.html", _page(found), RecordingError)
    return folder / "report.html"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _page(found: SearchSummary) -> str:
    best = found.best
    counts = [(str(len(found.of_state(state))), state) for state in STATES if found.of_state(state)]
    heads = [("-" if best is None else f"{best.score:.3f}", "best validation mAP"), *counts]
    body = [tiles(heads)]
    if best is not None:
        values = {"trial": best.number, **{key: _word(value) for key, value in best.values.items()}}
        body.append(section("The best trial", fact_list(values), note(SELECTED)))
    body += [
        section("History", pair(_history(found), _curves(found))),
        section("Importance of the settings", _importance(found)),
        section("Scores by setting", _slices(found)),
        section("All settings together", _parallel(found)),
        section("Trials", _table(found)),
        section("The search", fact_list(dict(found.facts))),
    ]
    return page(f"Search: {found.study}", f"{len(found.trials)} trials", body)


SELECTED = (
    "The best of many trials was partly lucky: its validation mAP is too high an estimate. Train it in full and quote "
    "the test split."
)


def _history(found: SearchSummary) -> str:
    """Scores by trial number, and the best so far."""
    scored = [trial for trial in found.of_state("complete", "pruned") if trial.score is not None]
    if not scored:
        return note("No trial has a score yet.")
    plot = _plot((0, max(trial.number for trial in found.trials)), scored, ("trial", "validation mAP"))
    best, numbers, line = -math.inf, [], []
    for trial in scored:
        if trial.state == "complete":
            best = max(best, trial.score or 0.0)
            numbers.append(trial.number)
            line.append(best)
    plot.line(np.repeat(numbers, 2)[1:], np.repeat(line, 2)[:-1], category(2), "best so far")
    for trial in scored:
        plot.dot(trial.number, trial.score or 0.0, _COLOURS[trial.state], _tip(trial))
    legend = [("complete", _COLOURS["complete"]), ("pruned", _COLOURS["pruned"]), ("best so far", category(2))]
    return figure("Scores", plot.svg("scores of the trials"), "A dot is a trial.", legend)


def _curves(found: SearchSummary) -> str:
    """Scores by epoch."""
    scored = [trial for trial in found.trials if trial.epochs]
    if not scored:
        return ""
    most = max(max(trial.epochs) for trial in scored)
    plot = _plot((1, most), scored, ("epoch", "validation mAP"), whole=most - 1)
    for trial in scored:
        epochs, scores = list(trial.epochs), list(trial.epochs.values())
        plot.line(epochs, scores, _COLOURS.get(trial.state, category(7)), _tip(trial))
    legend = [(state, _COLOURS[state]) for state in ("complete", "pruned", "failed") if found.of_state(state)]
    return figure("Scores over the epochs", plot.svg("scores of the trials by epoch"), "A line is a trial.", legend)


def _importance(found: SearchSummary) -> str:
    if not found.importances:
        return note(found.no_importances)
    rows = [(key, [share]) for key, share in found.importances.items()]
    caption = (
        "PED-ANOVA: how much the values of the best trials differ from those of all that ran to their end, "
        f"{len(found.of_state('complete'))} here. Of few trials these are hints."
    )
    return figure("", bars(rows, ["share"], width=1040, limit=max(found.importances.values())), caption)


def _slices(found: SearchSummary) -> str:
    """A chart for each setting."""
    charts = []
    everything = [trial for trial in found.of_state("complete", "pruned") if trial.score is not None]
    for scale in found.scales:
        scored = [trial for trial in everything if scale.key in trial.values]
        if not scored:
            continue
        plot = Plot(scale.bounds, _range(everything), size=(500, 240), labels=(scale.key, "validation mAP"))
        count = len(scale.choices) if scale.kind == "choice" else 5
        if scale.kind == "choice":
            for place, choice in enumerate(scale.choices):
                plot.text(float(plot.at_x(place)), plot.height - 22, str(choice), "middle")
        plot.x_axis(count, form=(lambda place: "") if scale.kind == "choice" else scale.word)
        plot.y_axis()
        for trial in scored:
            plot.dot(scale.at(trial.values[scale.key]), trial.score or 0.0, _COLOURS[trial.state], _tip(trial))
        charts.append(figure("", plot.svg(f"scores by {scale.key}")))
    if len(charts) % 2:
        charts.append("<div></div>")  # as wide as the others
    return "".join(pair(*charts[i : i + 2]) for i in range(0, len(charts), 2)) or note("No trial has a score yet.")


def _parallel(found: SearchSummary) -> str:
    """Parallel coordinates: a line is a trial, an axis a setting; the better the trial, the more orange."""
    scored = [trial for trial in found.of_state("complete", "pruned") if trial.score is not None]
    scales = [scale for scale in found.scales if any(scale.key in trial.values for trial in scored)]
    if len(scales) < 2:
        return note("There are fewer than two settings with scores.")
    plot = Plot((-0.4, len(scales) - 0.6), (-0.08, 1.08), size=(1040, 340), left=20)
    for i, scale in enumerate(scales):
        plot.line([i, i], [0, 1], "var(--soft);stroke-width:1", scale.key)
    order = sorted(scored, key=lambda trial: trial.score or 0.0)
    for rank, trial in enumerate(order):
        good = rank / max(1, len(order) - 1)
        colour = f"color-mix(in srgb,var(--on) {100 * good:.0f}%,var(--off));stroke-opacity:{0.25 + 0.7 * good:.2f}"
        places = [(scale.at(trial.values.get(scale.key)) - scale.bounds[0]) / np.ptp(scale.bounds) for scale in scales]
        plot.line(np.arange(len(scales)), places, colour, _tip(trial))
    for i, scale in enumerate(scales):
        x, (low, high) = float(plot.at_x(i)), scale.bounds
        plot.text(x, plot.height - 8 - 14 * (i % 2), scale.key.rpartition(".")[2], "middle")
        ends = [(p + 0.5) / len(scale.choices) for p in range(len(scale.choices))] if scale.choices else [0.0, 1.0]
        words = [str(choice) for choice in scale.choices] or [scale.word(low), scale.word(high)]
        for share, word in zip(ends, words, strict=True):
            plot.text(x + 5, float(plot.at_y(share)) - 3, word)
    legend = [("best", "var(--on)"), ("worst", "var(--off)")]
    return figure(
        "",
        plot.svg("settings of the trials"),
        "A line is a trial, an axis a setting; a trial without a setting passes by its axis.",
        legend,
    )


def _table(found: SearchSummary) -> str:
    scales = found.scales
    order = sorted(found.trials, key=lambda trial: (trial.score is None, -(trial.score or 0.0), trial.number))
    rows = [
        [f"{trial.number} {trial.state}", "-" if trial.score is None else f"{trial.score:.4f}", str(len(trial.epochs)),
         "-" if trial.seconds is None else f"{trial.seconds:.0f}", str(trial.attempts),
         *(_word(trial.values.get(scale.key, "-")) for scale in scales), trial.host, trial.note]
        for trial in order
    ]  # fmt: skip
    names = [scale.key.removeprefix("training.") for scale in scales]
    return table(["trial", "mAP", "epochs", "seconds", "attempts", *names, "host", "note"], rows)


def _plot(
    x: tuple[float, float], scored: Sequence[TrialRow], labels: tuple[str, str], whole: int | None = None
) -> Plot:
    plot = Plot(x, _range(scored), size=(500, 300), labels=labels)
    span = int(x[1] - x[0]) if whole is None else whole
    plot.x_axis(min(8, max(1, span)), form=lambda value: f"{value:g}")
    plot.y_axis()
    return plot


def _range(scored: Sequence[TrialRow]) -> tuple[float, float]:
    """From zero to a little above the best score, of epochs too."""
    scores = [score for trial in scored for score in (trial.score, *trial.epochs.values()) if score is not None]
    low, high = min(0.0, *scores), max(0.0, *scores)
    return low, high + 0.05 * (high - low)


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _tip(trial: TrialRow) -> str:
    score = "no score" if trial.score is None else f"mAP {trial.score:.4f}"
    drawn = ", ".join(f"{key.rpartition('.')[2]} {_word(value)}" for key, value in trial.values.items())
    return f"trial {trial.number}, {trial.state}: {score}; {drawn}"
