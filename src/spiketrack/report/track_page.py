"""Track page: the report of one tracking run as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spiketrack.drawing import BACKGROUND, Frame, box_colour, contact_sheet, encode_png
from spiketrack.recordings import Recording
from spiketrack.report.charts import Plot, category, paths_over, picture, short
from spiketrack.report.page import facts, figure, note, page, pair, section, table, tiles
from spiketrack.report.statistics import SCORE_BINS, SERIES, RunStatistics, TrackSummary

_DENSITY_COLOUR = (150, 166, 194)  # of the pixels with the most events
_LABELLED_ROWS = 40
_SHEET_COLOURS = 96


def track_page(
    recording: Recording,
    statistics: RunStatistics,
    class_names: Sequence[str],
    moments: Sequence[Frame],
    computing_s: float,
    run: Mapping[str, object],
    video: str | None,
) -> str:
    """The whole document. moments: pictures in order of time; video: how it was written, None where there is none."""
    shown = statistics.table.longest()
    body = [_tiles(statistics, computing_s), *_notes(recording, statistics)]
    if statistics.steps:
        body.append(_moments(moments))
        body.append(_over_time(statistics))
        body.append(_tracks(statistics, class_names, shown))
    body.append(_facts(recording, statistics, run, computing_s, video))
    subtitle = (
        f"Objects detected and tracked in {statistics.duration_us / 1e6:.3f} s of an event-camera recording, "
        f"{recording.width} x {recording.height} pixels"
    )
    return page(f"Tracks in {recording.path.name}", subtitle, body)


def counted(counts: Mapping[str, int], first: Mapping[str, str] | None = None) -> str:
    """Counts by kind as text, with the place of the first of each kind where it is known."""
    if not counts:
        return "0"
    places = first or {}
    parts = [f"{n:,} {kind}" + (f" (first at {places[kind]})" if kind in places else "") for kind, n in counts.items()]
    return ", ".join(parts)


def _tiles(statistics: RunStatistics, computing_s: float) -> str:
    values = [
        (f"{statistics.table.count:,}", "tracks"),
        (f"{statistics.total('detections'):,}", "detections"),
        (short(statistics.total("on") + statistics.total("off")), "events"),
        (f"{statistics.duration_us / 1e6:.2f} s", f"in {statistics.steps:,} time steps"),
    ]
    if statistics.steps:
        factor = statistics.duration_us / 1e6 / max(computing_s, 1e-9)
        values.append((f"{factor:.2f}x", "real time, without drawing"))
    return tiles(values)


def _notes(recording: Recording, statistics: RunStatistics) -> list[str]:
    notes = []
    if not statistics.steps:
        notes.append(note("The recording holds no event in the part that was read, so there is nothing to track."))
    elif not statistics.table.count:
        notes.append(
            note("No track was found: no detection was sure enough to start one. Look at the scores of the detections.")
        )
    if recording.invalid:
        notes.append(note(f"Events dropped while reading: {counted(recording.invalid, recording.first_invalid)}."))
    if recording.repaired:
        notes.append(note(f"Events repaired while reading: {counted(recording.repaired)}."))
    return [f'<div style="margin-top:20px">{"".join(notes)}</div>'] if notes else []


def _moments(moments: Sequence[Frame]) -> str:
    png = encode_png(contact_sheet(moments, columns=3), _SHEET_COLOURS)
    caption = (
        "The moment with the most tracks of each part of the recording. ON events are orange, OFF events blue; "
        "a caption gives the track and its class."
    )
    return section("Moments", figure("", picture(png, f"{len(moments)} moments with their tracks"), caption))


def _over_time(statistics: RunStatistics) -> str:
    series = statistics.series
    slice_us = statistics.slice_us or 1
    edges = (statistics.first_us or 0) / 1e6 + np.r_[0, np.cumsum(series.steps_in_bins)] * slice_us / 1e6
    seconds = series.steps_in_bins * slice_us / 1e6
    on, off = (series.sums[:, SERIES.index(name)] / seconds for name in ("on", "off"))
    rate = Plot((edges[0], edges[-1]), (-_top(off), _top(on)), labels=("time (s)", "events/s"))
    rate.x_axis()
    rate.y_axis(form=short)
    rate.area(edges, on, "var(--on)", 0.85)
    rate.area(edges, -off, "var(--off)", 0.85)

    detections, tracks = (
        series.sums[:, SERIES.index(name)] / series.steps_in_bins for name in ("detections", "tracks")
    )
    count = Plot(
        (edges[0], edges[-1]), (0, _top(np.maximum(detections, tracks))), labels=("time (s)", "boxes per step")
    )
    count.x_axis()
    count.y_axis()
    count.area(edges, detections, "var(--c8)", 0.35)
    count.staircase(edges, tracks, "var(--c3)")
    span = f"Means over {series.steps_per_bin} time steps." if series.steps_per_bin > 1 else ""
    return section(
        "Over time",
        figure("Event rate", rate.svg("event rate over time"), span, [("ON", "var(--on)"), ("OFF", "var(--off)")]),
        figure(
            "Detections and tracks",
            count.svg("number of detections and tracks over time"),
            span,
            [("detections", "var(--c8)"), ("tracks", "var(--c3)")],
        ),
    )


def _top(values: np.ndarray) -> float:
    return 1.05 * max(float(values.max(initial=0)), 0.95)


def _tracks(statistics: RunStatistics, class_names: Sequence[str], shown: Sequence[TrackSummary]) -> str:
    hidden = statistics.table.count - len(shown)
    classes = _by_class(statistics, class_names)
    parts = []
    if hidden:
        parts.append(note(f"Shown are the {len(shown)} longest tracks; {hidden:,} shorter ones are only in the files."))
    if shown:
        parts.append(_timeline(statistics, class_names, shown))
    parts.append(pair(_trajectories(statistics, class_names, shown), f"<div>{_scores(statistics)}{classes}</div>"))
    if shown:
        parts.append(_table(class_names, shown))
    return section("Tracks", *parts)


def _timeline(statistics: RunStatistics, class_names: Sequence[str], shown: Sequence[TrackSummary]) -> str:
    row = float(np.clip(480 / len(shown), 3, 18))
    first, last = (statistics.first_us or 0) / 1e6, (statistics.last_us or 0) / 1e6
    plot = Plot((first, last), (len(shown), 0), size=(1040, round(row * len(shown)) + 60), labels=("time (s)", ""))
    plot.x_axis()
    step_us = statistics.slice_us or 1
    for i, item in enumerate(shown):
        name = class_names[item.class_id]
        span = ((item.first_us - step_us) / 1e6, item.last_us / 1e6)
        title = f"#{item.track_id} {name}, {span[0]:.3f} .. {span[1]:.3f} s"
        plot.block(span, (i + 0.12, i + 0.88), category(item.class_id), title)
        if len(shown) <= _LABELLED_ROWS:
            plot.text(50, float(plot.at_y(i + 0.5)) + 4, f"#{item.track_id}", "end")
    legend = [(class_names[i], category(i)) for i in sorted({item.class_id for item in shown})]
    caption = "One bar for each track, from its first to its last box, in the colour of its class."
    return figure("Timeline", plot.svg(f"timeline of {len(shown)} tracks"), caption, legend)


def _trajectories(statistics: RunStatistics, class_names: Sequence[str], shown: Sequence[TrackSummary]) -> str:
    density = statistics.density
    bright = np.log1p(density) / np.log1p(max(1.0, float(np.quantile(density, 0.998))))
    share = np.clip(bright, 0, 1)[:, :, None] ** 2  # squared: noise recedes, contours stay
    image = np.array(BACKGROUND) * (1 - share) + np.array(_DENSITY_COLOUR) * share
    paths = [
        (
            item.path,
            "#{:02x}{:02x}{:02x}".format(*box_colour(item.track_id)),
            f"#{item.track_id} {class_names[item.class_id]}",
        )
        for item in shown
    ]
    sensor = (statistics.width, statistics.height)
    caption = "The way of each track's centre, in its colour of the video, over all events. A dot marks the end."
    return figure("Trajectories", paths_over(encode_png(image.astype(np.uint8), 64), sensor, paths), caption)


def _scores(statistics: RunStatistics) -> str:
    edges = np.linspace(0, 1, SCORE_BINS + 1)
    detections, tracks = statistics.score_counts
    plot = Plot((0, 1), (0, _top(statistics.score_counts)), size=(500, 300), labels=("score", "boxes"))
    plot.x_axis(5)
    plot.y_axis(form=short)
    for row, colour, inset in ((detections, "var(--c8)", 0.002), (tracks, "var(--c3)", 0.012)):
        for left, right, count in zip(edges, edges[1:], row.tolist(), strict=False):
            if count:
                title = f"{count:,} of score {left:.2f} .. {right:.2f}"
                plot.block((left + inset, right - inset), (0, count), colour, title)
    legend = [("detections", "var(--c8)"), ("of them in tracks", "var(--c3)")]
    return figure("Scores", plot.svg("histogram of scores"), legend=legend)


def _by_class(statistics: RunStatistics, class_names: Sequence[str]) -> str:
    detections, tracks = statistics.boxes_by_class.tolist()
    present = [i for i in range(len(class_names)) if detections[i] or tracks[i]]
    if not present:
        return ""
    rows = [[class_names[i], f"{detections[i]:,}", f"{tracks[i]:,}"] for i in present]
    return table(["class", "detections", "boxes in tracks"], rows, [category(i) for i in present])


def _table(class_names: Sequence[str], shown: Sequence[TrackSummary]) -> str:
    head = ["track", "class", "first (s)", "last (s)", "duration (s)", "boxes", "mean score", "path (px)"]
    rows = [
        [
            f"#{item.track_id}",
            class_names[item.class_id],
            f"{item.first_us / 1e6:.3f}",
            f"{item.last_us / 1e6:.3f}",
            f"{item.duration_us / 1e6:.3f}",
            f"{item.boxes:,}",
            f"{item.score:.2f}",
            f"{item.length:.0f}",
        ]
        for item in shown
    ]
    colours = ["#{:02x}{:02x}{:02x}".format(*box_colour(item.track_id)) for item in shown]
    return table(head, rows, colours, names=2)


def _facts(
    recording: Recording,
    statistics: RunStatistics,
    run: Mapping[str, object],
    computing_s: float,
    video: str | None,
) -> str:
    on, off = statistics.total("on"), statistics.total("off")
    seconds = statistics.duration_us / 1e6
    values: dict[str, object] = {
        "File": recording.path,
        "Format": recording.format,
        "Sensor": f"{recording.width} x {recording.height} pixels",
        "Events": f"{on + off:,} ({on:,} ON, {off:,} OFF)",
        "Dropped events": counted(recording.invalid, recording.first_invalid),
        "Repaired events": counted(recording.repaired),
    }
    if statistics.steps:
        first, last = statistics.first_us or 0, statistics.last_us or 0
        values["Time covered"] = f"{first / 1e6:.6f} .. {last / 1e6:.6f} s"
        values["Mean event rate"] = f"{short((on + off) / seconds)} events/s"
        rate = statistics.steps / max(computing_s, 1e-9)
        factor = seconds / max(computing_s, 1e-9)
        run = {
            **run,
            "Computing": f"{computing_s:.2f} s for {statistics.steps:,} steps: {rate:.1f} steps/s, {factor:.2f}x real "
            "time (reading, detection and tracking, without drawing)",
        }
    files = {
        "tracks.txt": "MOTChallenge text: frame (from 1, one per time step), id, left, top, width, height, score, "
        "-1, -1, -1",
        "tracks_bbox.npy": "label rows: t (us), x, y, w, h, class_id, track_id, class_confidence",
        "video.mp4": video or "not written",
    }
    return section("Recording", facts(values)) + section("Run", facts(run)) + section("Files", facts(files))
