import json
import math
import re
import resource
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketrack.boxes import Boxes
from spiketrack.datasets.etram import LabelledSequence
from spiketrack.detector.decode import DecodeSettings
from spiketrack.detector.spikeyolo import ModelSettings
from spiketrack.errors import CheckpointError, RecordingError, SettingsError, SpiketrackError
from spiketrack.evaluation import EvaluationResult, SequenceResult
from spiketrack.events import Events
from spiketrack.history import EpochRecord, read_history, write_history
from spiketrack.metrics import average_precision, tracking_scores
from spiketrack.pipeline import Detector, TrackedStep
from spiketrack.recordings import EventWriter, load_labels, open_recording, windows
from spiketrack.report import TrackOutput, format_scores, track_recording, write_evaluation
from spiketrack.report.charts import Plot, bars, short, ticks
from spiketrack.report.statistics import BestMoments, BoundedSeries, RunStatistics, TrackTable
from spiketrack.representations import InputSettings
from spiketrack.streaming import Latency, StreamingResult
from spiketrack.tracking import ByteTrackSettings

NAMES = ("car", "<b>bus & tram")
VOID = {"meta", "img", "br", "link", "input", "hr", "image", "circle", "line", "rect", "path"}


class PageChecker(HTMLParser):
    """Collects text, references and unbalanced tags."""

    def __init__(self):
        super().__init__()
        self.stack, self.references, self.words, self.tags = [], [], [], Counter()

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.references += [value for name, value in attributes if name in ("src", "href", "action", "data")]
        if tag not in VOID or tag in ("circle", "rect"):
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.stack[-1:] == [tag]:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack[-1:] != ["style"]:
            self.words.append(data)


def read_page(path):
    """The page's visible words and tags, after checking that it is whole and needs nothing from outside."""
    html = path.read_text(encoding="utf-8")
    checker = PageChecker()
    checker.feed(html)
    checker.close()
    assert not checker.stack
    assert all(reference.startswith("data:image/png;base64,") for reference in checker.references)
    assert not re.search(r"https?://|url\(|@import|<script|<link", html)
    assert "nan" not in re.sub(r"base64,[^\"]*", "", html)
    return " ".join(" ".join(checker.words).split()), checker.tags


def recording_of(folder, t, width=64, height=48, name="crossing_td.h5"):
    path = folder / name
    rng = np.random.default_rng(3)
    with EventWriter(path, width, height) as writer:
        t = np.array(t, np.int64)
        x, y, p = (rng.integers(0, limit, len(t)) for limit in (width, height, 2))
        writer.append(Events.repaired(t, x, y, p, width, height)[0])
    return open_recording(path)


def steps_of(recording, slice_us=50_000):
    """Track 7 (car) moves 3 px right and 4 px down a step with score 0.8, 0.7, 0.6; track 9 (bus) is seen once."""
    for k, window in enumerate(windows(recording, slice_us)):
        boxes = [[10 + 3 * k, 5 + 4 * k, 20 + 3 * k, 15 + 4 * k], [40.25, 8.5, 60.125, 30]][: 2 if k == 1 else 1]
        n = len(boxes)
        tracks = Boxes.of(window.end_us, boxes, [0, 1][:n], [0.8 - 0.1 * k, 0.95][:n], [7, 9][:n])
        detections = Boxes.of(window.end_us, [*boxes, [0, 0, 9, 9]], [*[0, 1][:n], 1], [*tracks.score, 0.2])
        yield TrackedStep(window, detections, tracks)


THREE_STEPS = np.linspace(1_000, 150_999, 600).astype(int)


def test_track_output_writes_the_four_files(tmp_path):
    recording = recording_of(tmp_path, THREE_STEPS)
    folder = tmp_path / "deep" / "out"
    with TrackOutput(folder, recording, NAMES, run={"Weights": "best.pt"}) as output:
        for step in steps_of(recording):
            output.append(step)
        assert not any(path.suffix != ".tmp" for path in folder.iterdir())
    assert (folder / "tracks.txt").read_text() == (
        "1,7,10.00,5.00,10.00,10.00,0.8000,-1,-1,-1\n"
        "2,7,13.00,9.00,10.00,10.00,0.7000,-1,-1,-1\n"
        "2,9,40.25,8.50,19.88,21.50,0.9500,-1,-1,-1\n"
        "3,7,16.00,13.00,10.00,10.00,0.6000,-1,-1,-1\n"
    )
    labels, repairs = load_labels(folder / "tracks_bbox.npy", width=64, height=48, class_names=NAMES)
    expected = Boxes.concatenate([step.tracks for step in steps_of(recording)])
    assert not repairs
    for column in ("t", "xyxy", "class_id", "score", "track_id"):
        np.testing.assert_array_equal(getattr(labels, column), getattr(expected, column))
    assert labels.t.tolist() == [51_000, 101_000, 101_000, 151_000]

    words, tags = read_page(folder / "report.html")
    assert "Tracks in crossing_td.h5" in words
    assert "best.pt" in words
    assert "600 (" in words
    # first, last, duration (s), boxes, mean score, length of the path: twice sqrt(3^2 + 4^2)
    assert "#7 car 0.051 0.151 0.100 3 0.70 10" in words
    assert "#9 <b>bus & tram 0.101 0.101 0.000 1 0.95 0" in words
    assert "libx264, 20 frames/s, real time" in words
    assert (tags["svg"], tags["img"], tags["image"]) == (5, 1, 1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.html",
        "tracks.txt",
        "tracks_bbox.npy",
        "video.mp4",
    ]
    summary = output.summary()
    assert summary["steps"] == "3 over 0.150 s"
    assert summary["found"] == "7 detections, 2 tracks"
    assert (summary["events"], summary["invalid"]) == ("600", "0")
    assert summary["video"] == str(folder / "video.mp4")


def test_an_empty_recording_gives_a_report_that_says_so(tmp_path):
    recording = recording_of(tmp_path, [])
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "video.mp4").write_bytes(b"of an earlier run")
    with TrackOutput(folder, recording, NAMES) as output:
        for step in steps_of(recording):
            output.append(step)
    words, tags = read_page(folder / "report.html")
    assert "holds no event in the part that was read" in words
    assert "video.mp4 not written" in words
    assert tags["svg"] == 0
    assert (folder / "tracks.txt").read_text() == ""
    assert len(load_labels(folder / "tracks_bbox.npy")[0]) == 0
    assert not (folder / "video.mp4").exists()
    assert output.summary()["video"] == "none: the recording has no time step"


def test_steps_without_events_and_boxes_still_give_plots(tmp_path):
    recording = recording_of(tmp_path, [0, 200_000])
    with TrackOutput(tmp_path / "out", recording, NAMES, video=False) as output:
        for window in windows(recording, 50_000):
            output.append(TrackedStep(window, Boxes.empty(), Boxes.empty()))
    words, tags = read_page(tmp_path / "out" / "report.html")
    assert "No track was found" in words
    assert tags["svg"] == 4  # no timeline
    assert output.summary()["video"] == "none: not asked for"


def test_what_was_dropped_while_reading_is_reported(tmp_path):
    recording = recording_of(tmp_path, THREE_STEPS)
    with TrackOutput(tmp_path / "out", recording, NAMES, video=False) as output:
        for step in steps_of(recording):
            output.append(step)
        recording.invalid["off_sensor"] = 12_345
        recording.first_invalid["off_sensor"] = "event 17"
    words, _ = read_page(tmp_path / "out" / "report.html")
    assert "Events dropped while reading: 12,345 off_sensor (first at event 17)." in words
    assert output.summary()["invalid"] == "12,345 off_sensor (first at event 17)"


@pytest.mark.parametrize("after", [0, 2])
def test_an_exception_leaves_no_new_file_and_keeps_older_ones(tmp_path, after):
    recording = recording_of(tmp_path, THREE_STEPS)
    folder = tmp_path / "out"
    folder.mkdir()
    names = ("tracks.txt", "tracks_bbox.npy", "video.mp4", "report.html")
    for name in names[after:]:
        (folder / name).write_text("older")

    def run():
        with TrackOutput(folder, recording, NAMES) as output:
            for step in steps_of(recording):
                output.append(step)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(names[after:], "older")


def test_a_full_disk_is_named_and_nothing_is_half_written(tmp_path):
    recording = recording_of(tmp_path, THREE_STEPS)
    folder = tmp_path / "out"

    def run():
        with TrackOutput(folder, recording, NAMES, video=False) as output:
            for step in steps_of(recording):
                output.append(step)

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit, name in ((100, "tracks"), (2_000, "report.html")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
        try:
            with pytest.raises(SpiketrackError, match=name):
                run()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert not [path for path in folder.iterdir() if path.suffix in (".tmp", ".html")]
    with pytest.raises(RecordingError, match=r"crossing_td\.h5/out: cannot make this folder"):
        TrackOutput(recording.path / "out", recording, NAMES).__enter__()


def test_track_recording_runs_detector_and_tracker(tmp_path):
    torch.manual_seed(0)
    detector = Detector.build(ModelSettings(), InputSettings(slice_us=50_000), DecodeSettings(), NAMES)
    detector.model.eval()
    recording = recording_of(tmp_path, THREE_STEPS)
    calls = []
    facts = track_recording(
        recording,
        detector,
        ByteTrackSettings(),
        tmp_path / "out",
        weights="none",
        start_us=1_000,
        end_us=120_000,
        on_step=lambda done, total, name: calls.append((done, total, name)),
    )
    assert calls == [(1, 2, "crossing_td.h5"), (2, 2, "crossing_td.h5")]
    assert facts["steps"] == "2 over 0.100 s"
    words, _ = read_page(tmp_path / "out" / "report.html")
    assert "SpikeYOLO-p, input 64 x 48 pixels" in words
    with pytest.raises(SettingsError, match="lost_us = 49999"):
        track_recording(recording, detector, ByteTrackSettings(lost_us=49_999), tmp_path / "o", weights="none")


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 9)), max_size=200), st.integers(1, 8))
@settings(deadline=None)
def test_merging_bins_keeps_every_sum(values, half):
    series = BoundedSeries(2, capacity=2 * half)
    for value in values:
        series.append(value)
    assert len(series.sums) <= 2 * half
    assert series.steps_in_bins.sum() == series.steps == len(values)
    spans = [values[i : i + series.steps_per_bin] for i in range(0, len(values), series.steps_per_bin)]
    expected = np.array([np.sum(span, axis=0) for span in spans]).reshape(-1, 2)
    np.testing.assert_array_equal(series.sums, expected)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=300), st.integers(1, 6))
@settings(deadline=None)
def test_best_moments_are_spread_and_hold_the_best(ranks, count):
    moments = BestMoments(count)
    for step, rank in enumerate(ranks):
        moments.offer((rank,), lambda step=step: step)
    chosen = moments.items()
    assert chosen == sorted(set(chosen))
    assert min(count, len(ranks)) == len(chosen)
    assert max(ranks) == max(ranks[step] for step in chosen)
    assert len(moments._spans) <= 2 * count
    if len(ranks) >= 2 * count:  # one in each of `count` parts, none longer than two of the kept spans and a half
        assert max(np.diff([0, *chosen, len(ranks)])) <= 4 * math.ceil(2 * len(ranks) / count)


def test_a_moment_is_drawn_only_when_it_is_the_best_so_far():
    drawn = []
    moments = BestMoments(2)
    for step, rank in enumerate([5, 4, 6, 6, 7, 1, 1, 1]):
        moments.offer((rank,), lambda step=step: drawn.append(step))
    # spans of one step until four are kept, of two steps from step 4 on: (5), (6), (7, 1), (1, 1)
    assert drawn == [0, 1, 2, 3, 4, 6]


def test_the_track_table_keeps_the_longest_and_counts_all():
    table = TrackTable(kept=3)
    for k in range(50):  # track k lives k + 1 s, one track every 100 s
        for second in range(min(k, 30) + 1):
            t = 100_000_000 * k + 1_000_000 * second
            table.add(Boxes.of(t, [[second, 0, second + 2, 2]], [0], [0.5], [k]))
    assert table.count == 50
    assert len(table._known) <= 2 * 3 + 2
    assert [item.track_id for item in table.longest()] == [30, 31, 32]
    assert {item.duration_us for item in table.longest()} == {30_000_000}


def test_a_path_is_thinned_but_its_length_is_not():
    table = TrackTable()
    for k in range(1001):
        table.add(Boxes.of(k, [[k, 0, k + 2, 2]], [0], [0.5], [1]))
    (item,) = table.longest()
    assert (item.length, item.boxes, item.score) == (1000, 1001, 0.5)
    assert len(item.path) <= 129
    assert (item.path[0], item.path[-1]) == ((1, 1), (1001, 1))
    steps = np.diff([x for x, _ in item.path[:-1]])
    assert (steps == steps[0]).all()


def test_statistics_count_everything_once(tmp_path):
    recording = recording_of(tmp_path, THREE_STEPS)
    statistics = RunStatistics(64, 48, 2)
    steps = list(steps_of(recording))
    for step in steps:
        statistics.add(step)
    assert statistics.total("on") + statistics.total("off") == 600 == statistics.density.sum()
    assert statistics.total("on") == sum(int(step.window.p.sum()) for step in steps)
    assert (statistics.total("detections"), statistics.total("tracks")) == (7, 4)
    assert statistics.boxes_by_class.tolist() == [[3, 4], [3, 1]]
    assert statistics.score_counts[0][[4, 19]].tolist() == [3, 1]  # 0.2 of every step, 0.95
    assert statistics.score_counts.sum(axis=1).tolist() == [7, 4]
    assert (statistics.first_us, statistics.last_us, statistics.duration_us) == (1_000, 151_000, 150_000)


def test_ticks_and_numbers():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ticks(0.0004, 12.6, 6) == [0, 2, 4, 6, 8, 10, 12]
    assert ticks(913.71, 913.82, 5) == pytest.approx([913.72, 913.74, 913.76, 913.78, 913.8, 913.82])
    assert ticks(-90_000, 110_000, 4) == [-50_000, 0, 50_000, 100_000]
    assert ticks(3, 3) == [3]
    assert [short(v) for v in (0, 950, 1_250_000, -50_000, 999_900, 2.5e9)] == [
        "0",
        "950",
        "1.25M",
        "50k",
        "1M",
        "2.5G",
    ]


def test_a_plot_maps_data_to_pixels():
    plot = Plot((0, 10), (0, 4), size=(272, 252))  # 200 x 200 pixels at (58, 12)
    np.testing.assert_allclose(plot.at_x([0, 5, 10]), [58, 158, 258])
    np.testing.assert_allclose(plot.at_y([0, 1, 4]), [212, 162, 12])
    plot.line([0, 5, 10], [0, np.nan, 4], "red")
    plot.area([0, 5, 10], [1, 2], "red")
    svg = plot.svg("x")
    assert 'points="58.0,212.0 258.0,12.0"' in svg
    assert 'points="58.0,212.0 58.0,162.0 158.0,162.0 158.0,112.0 258.0,112.0 258.0,212.0"' in svg
    assert bars([("a", [None]), ("b", [0.5])], ["AP50"]).count(">-<") == 1


def evaluation():
    """Two sequences; car is found in full, of bus one of two boxes, no label of tram."""
    names = ("car", "bus", "tram")
    labels = Boxes.of(
        [0, 0, 1000, 1000],
        [[0, 0, 10, 10], [20, 20, 40, 40], [1, 0, 11, 10], [20, 20, 40, 40]],
        [0, 1, 0, 1],
        None,
        [1, 2, 1, 2],
    )
    found = Boxes.of(labels.t[:3], labels.xyxy[:3], labels.class_id[:3], [0.9, 0.8, 0.7], [5, 6, 5])
    return evaluated({"one_day": (labels, found), "two_night": (labels, found)}, names), names


def evaluated(pairs, names):
    """The result of boxes that are detections and tracks at once: {name: (labels, found)}."""
    sequences = [
        SequenceResult(LabelledSequence(name, Path(f"{name}_td.h5"), 64, 48, labels, Counter()), found, found)
        for name, (labels, found) in pairs.items()
    ]
    rows = [(name, *boxes) for name, boxes in pairs.items()]
    return EvaluationResult(average_precision(rows, names, "unfiltered"), tracking_scores(rows, names), sequences)


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_metrics_json_holds_every_number(tmp_path):
    result, names = evaluation()
    facts = {"Weights": tmp_path / "best.pt", "steps": np.int64(3), "share": float("nan")}
    path = write_evaluation(tmp_path / "a" / "b", result, names, title="Test", facts=facts)
    values = json.loads(path.with_name("metrics.json").read_text(), parse_constant=refuse)
    detection, tracking = values["detection"], values["tracking"]
    assert detection["ap50"] == pytest.approx((1 + 51 / 101) / 2)  # bus: recall 0.5, 51 of 101 recall points
    assert detection["per_class"]["car"]["ap50"] == pytest.approx(1)
    assert detection["per_class"]["tram"] is None
    assert detection["protocol"] == {
        "name": "unfiltered",
        "min_diagonal": 0.0,
        "min_side": 0.0,
        "skip_us": None,
        "tolerance_us": None,
        "grid_us": None,
    }
    assert detection["score_threshold"] == pytest.approx(0.7)
    assert (detection["labels"], detection["detections"], detection["label_times"]) == (8, 6, 4)
    assert tracking["per_class"]["car"]["hota"] == 1
    assert tracking["per_class"]["bus"]["mota"] == 0.5
    assert tracking["class_average"]["mota"] == 0.75
    assert tracking["per_sequence"]["two_night"]["fn"] == 1
    assert tracking["per_class"]["tram"] is None
    assert len(tracking["class_average"]["hota_by_alpha"]) == 19
    assert values["facts"] == {"Weights": str(tmp_path / "best.pt"), "steps": 3, "share": None}
    assert values["sequences"] == ["one_day", "two_night"]


def test_metrics_json_tells_scores_apart(tmp_path):
    result, names = evaluation()
    write_evaluation(tmp_path, result, names, title="Test")
    values = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    detection, tracking = values["detection"], values["tracking"]
    errors = detection["errors"]
    assert (errors["total"]["detections"], errors["total"]["right"], errors["total"]["missed"]) == (6, 6, 2)
    assert errors["ap50"] == pytest.approx(detection["ap50"])
    assert errors["ap50_gain"]["missed"] == pytest.approx(1 - detection["ap50"])
    assert detection["confusion"]["counts"] == [[4, 0, 0, 0], [0, 2, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert detection["by_size"]["small"]["ap50"] == pytest.approx(detection["ap50"])
    assert detection["by_size"]["large"] == {
        "sides": [96.0, 100000.0],
        "labels": 0,
        "ap": None,
        "ap50": None,
        "recall": None,
        "recall50": None,
    }
    sides = detection["recall_by_side"]
    assert sides["edges"] == [0, 8, 16, 32, 64, 128, None]
    assert (sides["labels"]["car"], sides["found"]["bus"]) == ([0, 4, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0])
    assert detection["curves"]["car"] == {"score": pytest.approx([0.9, 0.7]), "precision": [1, 1], "recall": [0.5, 1]}
    assert detection["curves"]["tram"] is None
    assert detection["per_sequence"]["one_day"]["ap50"] == pytest.approx(detection["ap50"])
    assert values["light"] == {"one_day": "day", "two_night": "night"}
    assert list(values["by_light"]) == ["day", "night"]
    night = values["by_light"]["night"]
    assert night["sequences"] == ["two_night"]
    assert night["detection"]["per_class"]["bus"]["recall"] == 0.5
    assert night["tracking"]["class_average"]["mota"] == 0.75
    bus = tracking["timelines"]["one_day"][1]
    assert (bus["label_id"], bus["class_id"], bus["switches"]) == (2, 1, 0)
    assert bus["spans"] == [
        {"track_id": 6, "first_us": 0, "last_us": 0, "times": 1},
        {"track_id": -1, "first_us": 1000, "last_us": 1000, "times": 1},
    ]
    assert tracking["strays"]["one_day"] == []
    assert "latency" not in values


def test_a_sequence_without_labels_has_no_scores(tmp_path):
    labels = Boxes.of([0], [[0, 0, 10, 10]], [0], None, [1])
    result = evaluated({"one": (labels, labels), "bare": (Boxes.empty(), Boxes.empty())}, ("car",))
    words, _ = read_page(write_evaluation(tmp_path, result, ("car",), title="Bare"))
    values = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert values["detection"]["per_sequence"]["bare"] is None
    assert values["tracking"]["timelines"]["bare"] == []
    assert values["by_light"]["unknown"]["detection"]["ap50"] == pytest.approx(1)
    assert "bare (unknown) - - -" in words
    assert "Light" not in words


def test_latency_of_a_streaming_evaluation(tmp_path):
    result, names = evaluation()
    stations = 1e-3 * np.array([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 14]])
    latency = Latency(stations, np.array([0, 0.005, 0.010]), 20_000, "cpu, 1 threads")
    streaming = StreamingResult(result.detection, result.tracking, result.sequences, latency)
    words, tags = read_page(write_evaluation(tmp_path, streaming, names, title="Streaming"))
    assert "3 steps of 20 ms, one at a time, on cpu, 1 threads: 1.50x real time." in words
    assert "network 2.00 2.00 2.00 2.00 2.00" in words
    assert "all stations 13.33 10.00 19.00 19.80 20.00" in words
    assert tags["svg"] == 10
    values = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)["latency"]
    assert (values["steps"], values["slice_us"], values["real_time_factor"]) == (3, 20_000, pytest.approx(1.5))
    assert values["ms"]["track"] == pytest.approx({"mean": 22 / 3, "p50": 4, "p95": 13, "p99": 13.8, "max": 14})
    assert values["ms"]["delay"]["max"] == pytest.approx(30)
    slow = StreamingResult(
        result.detection, result.tracking, result.sequences, Latency(3 * stations, latency.waited, 20_000, "cpu")
    )
    assert "The steps pile up" in read_page(write_evaluation(tmp_path, slow, names, title="Slow"))[0]
    still = StreamingResult(
        result.detection, result.tracking, result.sequences, Latency(stations[:0], np.empty(0), 20_000, "cpu")
    )
    assert "No step was run" in read_page(write_evaluation(tmp_path, still, names, title="Still"))[0]


def test_evaluation_page(tmp_path):
    result, names = evaluation()
    history = [
        EpochRecord(1, 3.0, 1.0, 1.0, 5.0, 1e-3, None, None, dfl=1.0),
        EpochRecord(2, 2.0, 0.5, 0.5, 6.0, 1e-3, 0.25, 0.5, dfl=1.0),
    ]
    path = write_evaluation(
        tmp_path, result, names, title="Shapes <test>", history=history, facts={"Weights": "best.pt"}
    )
    words, tags = read_page(path)
    assert "Shapes <test>" in words
    assert "8 labels at 4 times in 2 sequences" in words
    assert "bus 0.505 0.505 0.505 1.000 0.500 0.667 4 2" in words
    assert "tram - - -" in words
    assert "bus 0.500 0.500 0.500 0.500 1.000 0.667 0 0 0 0" in words
    assert "best.pt" in words
    assert "bus 2 2 0 0 0 0 0 4 2 0 2" in words  # errors: detections, right, five kinds, labels, found, nearly, missed
    assert "day (1) 0.752 0.752 0.752" in words
    assert "two_night (night)" in words
    assert "One bar for each labelled object" in words
    assert tags["svg"] == 11
    assert "loss box classes dfl" in words
    assert "dfl track" not in words  # a term that this loss has not
    without, tags = read_page(write_evaluation(tmp_path, result, names, title="Again"))
    assert tags["svg"] == 9
    assert "Training" not in without


def test_no_detection_at_all_still_gives_a_report(tmp_path):
    names = NAMES
    labels = Boxes.of([0], [[0, 0, 10, 10]], [0], None, [1])
    empty = evaluated({"one": (labels, Boxes.empty())}, names)
    words, _ = read_page(write_evaluation(tmp_path, empty, names, title="Nothing"))
    assert "No detection at any of the 1 label times" in words
    assert "none: there is no detection" in words
    assert json.loads((tmp_path / "metrics.json").read_text())["detection"]["score_threshold"] is None
    assert "note: no detection at any" in format_scores(empty)


def test_scores_for_a_terminal():
    result, _ = evaluation()
    lines = format_scores(result).splitlines()
    assert lines[0].startswith("detection, protocol unfiltered (")
    assert lines[1:6] == [
        "class    mAP   AP50   AP75  precision  recall     F1  labels  detections",
        "car    1.000  1.000  1.000      1.000   1.000  1.000       4           4",
        "bus    0.505  0.505  0.505      1.000   0.500  0.667       4           2",
        "tram       -      -      -          -       -      -       -           -",
        "mean   0.752  0.752  0.752      1.000   0.750  0.833       8           6",
    ]
    assert lines[6] == "precision, recall and F1 at IoU 0.5 and score 0.700"
    assert lines[8] == "tracking, 4 label times"
    assert lines[9].split() == ["class", "HOTA", "DetA", "AssA", "MOTA", "MOTP", "IDF1", "IDSW", "Frag", "MT", "ML"]
    assert lines[10].split() == ["car", *(6 * ["1.000"]), "0", "0", "2", "0"]


def test_history_round_trip(tmp_path):
    history = [EpochRecord(1, 3.0, 1.0, 1.0, 1.0, 5.0, 1e-3, None, 0.5)]
    write_history(tmp_path / "history.json", history)
    assert read_history(tmp_path / "history.json") == history
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_history(tmp_path / "missing.json")
    for text in ("[", '[{"epoch": 1}]', "[3]", "3"):
        (tmp_path / "history.json").write_text(text)
        with pytest.raises(CheckpointError, match="not a history"):
            read_history(tmp_path / "history.json")
