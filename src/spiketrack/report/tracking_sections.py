"""Tracking sections of an evaluation page: scores, sequences and lights, objects over time."""

from __future__ import annotations

from collections.abc import Sequence

from spiketrack.boxes import NO_TRACK
from spiketrack.metrics import ALPHAS, TrackingScores
from spiketrack.metrics.timelines import Timeline
from spiketrack.report.breakdown import Breakdown, SequenceBreakdown
from spiketrack.report.charts import Plot, bars, category
from spiketrack.report.page import figure, note, pair, section, table
from spiketrack.report.score_tables import detection_rows, rows_by_class, tracking_rows

_BAR_ROWS = 24
_LIGHT = "Means over the classes; precision, recall and F1 at the score threshold of the whole evaluation."
_SEQUENCES = "Detection: means over the classes, at the score threshold of the whole evaluation. Tracking: all boxes."
_TIMELINES, _OBJECTS = 6, 40  # sequences with a timeline, objects in each


def tracking_section(tracking: TrackingScores, class_names: Sequence[str]) -> str:
    """Scores of each class, HOTA over its thresholds, scores of each sequence as bars."""
    head, rows = tracking_rows("class", rows_by_class(tracking))
    parts = [table(head, rows, [category(i) for i in range(len(class_names))], totals=2)]
    alpha = _alpha_chart(tracking, class_names)
    if len(tracking.per_sequence) <= _BAR_ROWS:
        groups = [(name, (row.hota, row.idf1, row.mota)) for name, row in tracking.per_sequence.items()]
        legend = [("HOTA", category(0)), ("IDF1", category(1)), ("MOTA", category(2))]
        chart = bars(groups, ["HOTA", "IDF1", "MOTA"])
        parts.append(pair(alpha, figure("Scores of each sequence", chart, "Over the boxes of all classes.", legend)))
    else:
        parts.append(alpha)
    return section("Tracking", *parts)


def light_section(parts: Breakdown) -> str:
    """Scores by day, at dusk and by night; nothing where no sequence says its light."""
    if set(parts.by_light) <= {"unknown"}:
        return ""
    named = [(f"{light} ({len(group.sequences)})", group) for light, group in parts.by_light.items()]
    first = "light (sequences)"
    detection = detection_rows(first, [(name, group.detection) for name, group in named])
    tracking = tracking_rows(
        first, [(name, None if group.tracking is None else group.tracking.class_average) for name, group in named]
    )
    return section("Light", f'<p class="soft">{_LIGHT}</p>', table(*detection), table(*tracking))


def sequences_section(parts: Breakdown, tracking: TrackingScores) -> str:
    """Every sequence with its light: detection over its classes, tracking over all its boxes."""
    names = {name: f"{name} ({part.light})" for name, part in parts.per_sequence.items()}
    detection = [(names[name], part.scores.detection) for name, part in parts.per_sequence.items()]
    tracked = [(names[name], tracking.per_sequence[name]) for name in names]
    return section(
        "Sequences",
        f'<p class="soft">{_SEQUENCES}</p>',
        table(*detection_rows("sequence (light)", detection)),
        table(*tracking_rows("sequence (light)", tracked)),
    )


def timelines_section(parts: Breakdown, class_names: Sequence[str]) -> str:
    """The objects over time of the sequences that lose most."""
    known = {name: part for name, part in parts.per_sequence.items() if part.timelines}
    if not known:
        return ""
    worst = sorted(known, key=lambda name: -_lost(known[name].timelines))[:_TIMELINES]
    chosen = [name for name in known if name in worst]
    hidden = len(known) - len(chosen)
    words = f"Shown are the {len(chosen)} sequences with the most label times without a track; {hidden} more are in "
    rest = [note(f"{words}metrics.json.")] if hidden else []
    return section("Objects over time", *rest, *(_timeline(name, known[name], class_names) for name in chosen))


def _lost(timelines: Sequence[Timeline]) -> int:
    return sum(line.times - line.tracked + line.switches for line in timelines)


def _timeline(name: str, part: SequenceBreakdown, class_names: Sequence[str]) -> str:
    shown = sorted(part.timelines, key=lambda line: line.tracked - line.times)[:_OBJECTS]
    shown.sort(key=lambda line: (line.class_id, line.spans[0].first_us))
    words = [f"{class_names[line.class_id]} #{line.label_id}" for line in shown]
    left = min(240, 20 + 7 * max(map(len, words)))
    first = min(line.spans[0].first_us for line in shown) / 1e6
    last = max(line.spans[-1].last_us for line in shown) / 1e6
    plot = Plot((first, last), (len(shown), 0), size=(1040, 18 * len(shown) + 52), labels=("time (s)", ""), left=left)
    plot.x_axis()
    for i, (line, what) in enumerate(zip(shown, words, strict=True)):
        plot.text(left - 8, float(plot.at_y(i + 0.5)) + 4, what, "end")
        ends = [span.first_us for span in line.spans[1:]] + [line.spans[-1].last_us]
        seen = list(dict.fromkeys(span.track_id for span in line.spans if span.track_id != NO_TRACK))
        for span, end in zip(line.spans, ends, strict=True):
            tracked = span.track_id != NO_TRACK
            colour = category(seen.index(span.track_id)) if tracked else "var(--line)"
            tip = f"{what}: {f'track #{span.track_id}' if tracked else 'no track'}, {span.times} label times"
            plot.block((span.first_us / 1e6, end / 1e6), (i + 0.15, i + 0.85), colour, tip)
    boxes = sum(stray.boxes for stray in part.strays)
    hidden = len(part.timelines) - len(shown)
    caption = (
        "One bar for each labelled object: grey where no track is on it, a new colour at each new track. "
        f"{boxes:,} boxes of {len(part.strays)} tracks lie on no object."
        + (f" {hidden} objects that are tracked best are left out." if hidden else "")
    )
    return figure(f"{name} ({part.light})", plot.svg(f"{len(shown)} objects of {name} over time"), caption)


def _alpha_chart(tracking: TrackingScores, class_names: Sequence[str]) -> str:
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
    return figure(
        "HOTA over the IoU threshold",
        plot.svg("HOTA over the IoU threshold for each class"),
        "How quality falls as boxes must fit better. HOTA is the mean over the thresholds; dashed: class average.",
        legend,
    )
