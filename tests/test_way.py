"""The whole way: simulate, train, evaluate, track; and real recordings through `track`."""

import json
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from loud_detector import loud_detector

from spiketrack.cli import main
from spiketrack.datasets.synthetic import SimulateDatasetSettings, simulate_dataset
from spiketrack.detector.checkpoint import save_checkpoint
from spiketrack.pipeline import Detector
from spiketrack.recordings import LABEL_DTYPE, open_recording
from spiketrack.representations import InputSettings
from spiketrack.simulation import SHAPE_CLASSES, SceneSettings

SCENE = SceneSettings(width=64, height=48, size_px=(14, 24))
DATA = SimulateDatasetSettings(
    train_scenes=2, train_s=0.4, val_scenes=1, val_s=0.3, test_scenes=1, test_s=0.5, scene=SCENE
)  # fmt: skip


def spiketrack(*arguments) -> str:
    """Run a command; returns what it printed. A code other than 0 is a failure that shows it."""
    patch, out = pytest.MonkeyPatch(), []
    with patch.context() as patched:
        patched.setattr(sys, "argv", ["spiketrack", *map(str, arguments)])
        patched.setattr("builtins.print", lambda *text, **_: out.append(" ".join(map(str, text))))
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code, end.value.code
    return "\n".join(out)


class Page(HTMLParser):
    """Counts the tags of a page and checks that they are balanced; remembers what it refers to."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input", "wbr"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"{path}: {self.open} is never closed"

    def handle_starttag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        self.text += data


def assert_stands_alone(page: Page) -> None:
    """Nothing is fetched: every reference is inside the page."""
    assert all(reference.startswith(("data:", "#")) for reference in page.references)


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def assert_tracks_agree(folder: Path, steps: int, slice_us: int, start_us: int) -> int:
    """MOT text and label rows tell the same tracks; returns how many boxes there are."""
    rows = np.load(folder / "tracks_bbox.npy")
    assert rows.dtype == LABEL_DTYPE
    lines = [line.split(",") for line in (folder / "tracks.txt").read_text().splitlines()]
    assert len(lines) == len(rows)
    assert all(len(line) == 10 for line in lines)
    if len(rows):
        mot = np.array(lines, float)
        assert mot[:, 0].min() >= 1
        assert mot[:, 0].max() <= steps
        # frame k ends at start + k * slice
        np.testing.assert_array_equal(start_us + mot[:, 0] * slice_us, rows["t"])
        np.testing.assert_array_equal(mot[:, 1], rows["track_id"])
        for column, name in enumerate("xywh", start=2):
            np.testing.assert_allclose(mot[:, column], rows[name], atol=0.0051)
        np.testing.assert_allclose(mot[:, 6], rows["class_confidence"], atol=0.000051)
        assert (mot[:, 7:] == -1).all()
    return len(rows)


@pytest.fixture(scope="module")
def way(tmp_path_factory):
    """A folder in which the whole way was gone: data, run, evaluation and tracks."""
    folder = tmp_path_factory.mktemp("way")
    simulate_dataset(folder / "data", DATA)
    tree = {
        "name": "way",
        "data": {"root": str(folder / "data")},
        "training": {"epochs": 2, "batch_size": 4, "steps": 2},
        "evaluation": {"warm_up_steps": 2},
        # a network that has learnt next to nothing shall still draw something
        "decoding": {"score": 0.0005, "max_boxes": 5},
        "tracking": {"high_score": 0.001, "low_score": 0.0005, "new_score": 0.001},
    }
    config = folder / "way.yaml"
    config.write_text(yaml.safe_dump(tree))
    weights = folder / "run" / "best.pt"
    printed = {"train": spiketrack("train", config, "--out", folder / "run")}
    printed["evaluate"] = spiketrack("evaluate", config, "--weights", weights, "--out", folder / "scores")
    recording = folder / "data" / "HDF5" / "test" / "test_0000_td.h5"
    printed["track"] = spiketrack(
        "track", recording, "--weights", weights, "--config", config, "--out", folder / "tracks"
    )
    return folder, printed


def test_every_station_leaves_its_files(way):
    folder, _ = way
    for name, expected in {
        "data": ["HDF5", "classes.txt", "dataset.json"],
        "run": ["best.pt", "experiment.yaml", "history.json", "last.pt"],
        "scores": ["metrics.json", "report.html"],
        "tracks": ["report.html", "tracks.txt", "tracks_bbox.npy", "video.mp4"],
    }.items():
        assert sorted(path.name for path in (folder / name).iterdir()) == expected


def test_numbers_agree_from_station_to_station(way):
    folder, printed = way
    history = json.loads((folder / "run" / "history.json").read_text())
    assert f"epoch 2: loss {history[1]['loss']:.3f}" in printed["train"]
    metrics = json.loads((folder / "scores" / "metrics.json").read_text())
    labels = np.load(folder / "data" / "HDF5" / "test" / "test_0000_bbox.npy")
    assert metrics["detection"]["labels"] == metrics["tracking"]["detection_average"]["labels"] == len(labels)
    assert metrics["detection"]["label_times"] == len(np.unique(labels["t"]))
    assert metrics["sequences"] == ["test_0000"]
    assert set(metrics["detection"]["per_class"]) == set(SHAPE_CLASSES)
    detector = Detector.load(folder / "run" / "best.pt")
    assert detector.class_names == SHAPE_CLASSES
    assert detector.input == InputSettings()


def test_tracks_in_two_formats_agree(way):
    folder, printed = way
    recording = open_recording(folder / "data" / "HDF5" / "test" / "test_0000_td.h5")
    start_us = int(next(recording.chunks()).t[0])
    rows = dict(line.split(maxsplit=1) for line in printed["track"].splitlines())
    steps = int(rows["steps"].split()[0])
    assert steps == -(-(500_000 - start_us) // 33_333)
    assert assert_tracks_agree(folder / "tracks", steps, 33_333, start_us) > 0


def test_the_video_decodes(way):
    folder, printed = way
    steps = int(printed["track"].split()[1])
    frames = frames_of(folder / "tracks" / "video.mp4")
    assert len(frames) == steps
    assert len({frame.shape for frame in frames}) == 1
    height, width, _ = frames[0].shape
    assert height >= 48
    assert width >= 64
    # events, boxes and time change from frame to frame
    assert all(not np.array_equal(a, b) for a, b in pairwise(frames))


def test_the_reports_stand_alone(way):
    folder, _ = way
    tracks, scores = Page(folder / "tracks" / "report.html"), Page(folder / "scores" / "report.html")
    for page in (tracks, scores):
        assert_stands_alone(page)
    assert "test_0000_td.h5" in tracks.text
    metrics = json.loads((folder / "scores" / "metrics.json").read_text())
    for value in (metrics["detection"]["map"], metrics["tracking"]["class_average"]["hota"]):
        assert f"{value:.3f}" in scores.text


def test_tracking_again_gives_the_same_tracks(way):
    folder, _ = way
    recording = folder / "data" / "HDF5" / "test" / "test_0000_td.h5"
    options = ["--weights", folder / "run" / "best.pt", "--config", folder / "way.yaml", "--no-video"]
    spiketrack("track", recording, *options, "--out", folder / "again")
    for name in ("tracks.txt", "tracks_bbox.npy"):
        assert (folder / "again" / name).read_bytes() == (folder / "tracks" / name).read_bytes()


# name: size of the network's input, start and end (at most a third of a second)
REAL = {
    "gen3_evt2.raw": ("320x240", None, 913_716_224 + 100_000),
    "evk4_evt3.raw": ("320x180", 16_700_000, 16_900_000),
    "evk4_same_as_evt3.dat": ("320x180", None, 11_200_224 - 11_194_368 + 200_000),
    "NCARS_obj_004397_td.dat": (None, None, None),
    "davis346_board.aedat4": ("160x120", None, None),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "loud.pt"
    save_checkpoint(path, loud_detector(input=InputSettings()).content())
    return path


@pytest.mark.real_data
def test_every_real_recording_is_tried(real_data):
    assert {path.name for path in (real_data / "recordings").iterdir()} == set(REAL)


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_a_real_recording_goes_through_track(real_data, weights, tmp_path, caplog, name):
    size, start_us, end_us = REAL[name]
    options = {"--size": size, "--start-us": start_us, "--end-us": end_us}
    given = [text for pair in options.items() if pair[1] is not None for text in pair]
    out = tmp_path / "tracks"
    recording = real_data / "recordings" / name
    printed = spiketrack("track", recording, "--weights", weights, "--out", out, *given)
    rows = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert (rows["invalid"], rows["repaired"]) == ("0", "0")
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
    steps = int(rows["steps"].split()[0])
    opened = open_recording(recording)
    begin = int(next(opened.chunks(start_us)).t[0]) if start_us is None else start_us
    if end_us is not None:
        assert steps == (end_us - begin) // 33_333
    seen = opened.read(begin, begin + steps * 33_333)
    assert rows["events"] == f"{len(seen):,}"
    assert len(seen) > 1_000
    assert assert_tracks_agree(out, steps, 33_333, begin) > steps
    assert len(frames_of(out / "video.mp4")) == steps
    assert name in Page(out / "report.html").text
