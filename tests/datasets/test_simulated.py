"""Data sets of simulated traffic: what is written, by how many processes, resuming, and the views."""

import json
from collections import Counter

import numpy as np
import pytest
from fake_traffic import SIDE, die_in_the_second, drive, empty, fill_the_disk, interrupt_the_third
from pydantic import ValidationError

from spiketrack.boxes import Boxes
from spiketrack.datasets import simulated
from spiketrack.datasets.etram import find_sequences, read_class_names
from spiketrack.datasets.simulated import TrafficDatasetSettings, plan_scenes, simulate_traffic_dataset
from spiketrack.datasets.synthetic import share_scenes
from spiketrack.drawing.scene_view import FRAME_US, MOST_TILES, view_of
from spiketrack.errors import RecordingError, SettingsError
from spiketrack.events import Events
from spiketrack.recordings import load_labels, open_recording
from spiketrack.traffic.actors import THREE_CLASSES, TRAFFIC_CLASSES
from spiketrack.traffic.annotations import ANNOTATION_DTYPE

SMALL = TrafficDatasetSettings(
    preset=("gen1",), train_scenes=3, val_scenes=1, test_scenes=1, duration_us=350_000, daytime="day"
)
ENDINGS = ("_td.h5", "_annotations.npy", "_bbox.npy", "_times.npy")
STEMS = [
    f"HDF5/{name.split('_')[0]}/{name}" for name in ("train_0000", "train_0001", "train_0002", "val_0000", "test_0000")
]
FILES = [stem + ending for stem in STEMS for ending in ENDINGS]


def make(folder, settings=SMALL, source=drive, **options):
    return simulate_traffic_dataset(folder, settings, source=source, **options)


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def events_of(path):
    recording = open_recording(path)
    return Events.concatenate([*recording.chunks()] or [Events.empty(recording.width, recording.height)])


def scenes_of(folder):
    return json.loads((folder / "dataset.json").read_text())["scenes"]


def test_a_scene_is_read_back_as_it_was_made(tmp_path):
    summary = make(tmp_path)
    assert files_of(tmp_path) == sorted(["classes.txt", "dataset.json", *FILES])
    stem = tmp_path / STEMS[1]
    planned = plan_scenes(SMALL)[1]
    chunks = list(drive(planned.traffic, 350_000, planned.seed, 70_000))
    made, events = Events.concatenate([chunk.events for chunk in chunks]), events_of(f"{stem}_td.h5")
    for name in "txyp":
        np.testing.assert_array_equal(getattr(events, name), getattr(made, name))
    labels, repairs = load_labels(f"{stem}_bbox.npy", width=304, height=240, class_names=TRAFFIC_CLASSES)
    assert not repairs
    # labelled every 33,333 us before 350,000: ten times, one object of class t // period % 8 each
    assert labels.t.tolist() == [33_333 * k for k in range(1, 11)]
    assert labels.class_id.tolist() == [1, 2, 3, 4, 5, 6, 7, 0, 1, 2]
    np.testing.assert_array_equal(labels.xyxy[0], [23, 50, 23 + SIDE, 50 + SIDE])
    rows = np.load(f"{stem}_annotations.npy")
    np.testing.assert_array_equal(rows, np.concatenate([chunk.annotations for chunk in chunks]))
    assert rows.dtype == ANNOTATION_DTYPE
    assert len(rows) == 20, "with those that nobody would label"
    np.testing.assert_array_equal(np.load(f"{stem}_times.npy"), labels.t)
    facts = scenes_of(tmp_path)
    assert [*facts] == [stem.rsplit("/")[-1] for stem in STEMS]
    seconds = facts["train_0001"].pop("seconds")
    assert 0 < seconds < 60
    assert facts["train_0001"] == {
        "preset": "gen1", "camera": "static", "daytime": "day", "events": len(made), "labels": 10, "tracks": 8,
    }  # fmt: skip
    assert (summary.written, summary.skipped, summary.events, summary.labels, summary.tracks) == (
        5, 0, sum(scene["events"] for scene in facts.values()), 50, 40,
    )  # fmt: skip


def test_training_finds_the_sequences(tmp_path):
    make(tmp_path)
    sequences = find_sequences(tmp_path, "train", read_class_names(tmp_path))
    assert [sequence.name for sequence in sequences] == ["train_0000", "train_0001", "train_0002"]
    assert all(len(sequence.labels) == len(sequence.annotated) == 10 for sequence in sequences)


def test_two_processes_write_what_one_does(tmp_path):
    calls = []
    make(tmp_path / "one")
    make(tmp_path / "two", processes=2, progress=lambda *call: calls.append(call))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert {name for name in files_of(tmp_path / "two")} == {"classes.txt", "dataset.json", *FILES}
    done = [done for done, _, _ in calls]
    assert done == sorted(done)
    assert (done[-1], {total for _, total, _ in calls}) == (5 * 350, {5 * 350})


def test_a_killed_process_is_named_and_made_up_for(tmp_path):
    with pytest.raises(RecordingError, match=r"train_0001: its process was killed by SIGKILL"):
        make(tmp_path, source=die_in_the_second, processes=2)
    assert [name for name in files_of(tmp_path) if "train_0001" in name] == [f"{STEMS[1]}_times.npy"]
    make(tmp_path)
    make(tmp_path / "whole")
    assert contents(tmp_path) == contents(tmp_path / "whole")


def test_a_second_run_makes_only_what_is_missing(tmp_path):
    make(tmp_path)
    before, facts = contents(tmp_path), scenes_of(tmp_path)
    for name in (f"{STEMS[1]}_td.h5", f"{STEMS[3]}_annotations.npy"):
        (tmp_path / name).unlink()
    calls = []
    summary = make(tmp_path, progress=lambda *call: calls.append(call))
    assert (summary.written, summary.skipped) == (2, 3)
    assert calls[-1][:2] == (700, 700), "the progress counts what there was to do"
    assert contents(tmp_path) == before
    again = scenes_of(tmp_path)
    assert [*again] == [*facts]
    assert again["train_0000"] == facts["train_0000"]
    assert make(tmp_path).written == 0


def test_facts_of_a_scene_that_the_record_missed(tmp_path):
    """As after a kill between a scene's last file and dataset.json."""
    make(tmp_path)
    facts = scenes_of(tmp_path)["val_0000"]
    record = json.loads((tmp_path / "dataset.json").read_text())
    del record["scenes"]["val_0000"]
    (tmp_path / "dataset.json").write_text(json.dumps(record))
    make(tmp_path)
    assert scenes_of(tmp_path)["val_0000"] == {**facts, "seconds": None}


def test_what_a_killed_run_left_is_removed(tmp_path):
    left, other = (tmp_path / "HDF5" / "train" / f".{name}.0123abcd.tmp" for name in ("train_0000_td.h5", "notes"))
    make(tmp_path)
    for path in (left, other):
        path.write_text("")
    (tmp_path / f"{STEMS[0]}_td.h5").unlink()
    make(tmp_path)
    assert not left.exists()
    assert other.exists(), "what is not ours stays"


def test_ctrl_c_keeps_what_is_complete(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, source=interrupt_the_third)
    times = f"{STEMS[2]}_times.npy"
    assert files_of(tmp_path) == sorted(["classes.txt", "dataset.json", *FILES[:8], times])
    assert [*scenes_of(tmp_path)] == ["train_0000", "train_0001"]
    assert make(tmp_path).skipped == 2


def test_a_scene_that_cannot_be_written_leaves_nothing_half_written(tmp_path):
    with pytest.raises(RecordingError, match=r"train_0000_td\.h5: cannot be written: No space"):
        make(tmp_path, source=fill_the_disk)
    assert files_of(tmp_path) == sorted(["classes.txt", "dataset.json", f"{STEMS[0]}_times.npy"])


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(SettingsError, match=r"settings\.duration_us: there 350000, now 400000"):
        make(tmp_path, SMALL.model_copy(update={"duration_us": 400_000}))
    with pytest.raises(SettingsError, match=r"settings\.classes: there 8, now 3"):
        make(tmp_path, SMALL.model_copy(update={"classes": 3}))
    assert contents(tmp_path) == before
    (tmp_path / "raw" / "RAW").mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"has a folder RAW but no dataset\.json"):
        make(tmp_path / "raw", SMALL.model_copy(update={"format": "raw"}))


def test_three_classes(tmp_path):
    make(tmp_path, SMALL.model_copy(update={"classes": 3}))
    assert read_class_names(tmp_path) == THREE_CLASSES
    labels, _ = load_labels(tmp_path / f"{STEMS[0]}_bbox.npy", class_names=THREE_CLASSES)
    rows = np.load(tmp_path / f"{STEMS[0]}_annotations.npy")
    # car, bicycle, bus, motorbike, truck, tram, wheelchair, pedestrian, car, bicycle
    assert labels.class_id.tolist() == [1, 2, 1, 2, 1, 1, 2, 0, 1, 2]
    assert rows["class_id"][0::2].tolist() == labels.class_id.tolist()
    assert set(rows["class_id"][1::2].tolist()) == {1}, "buses are vehicles"


def test_raw_holds_the_same_events(tmp_path):
    make(tmp_path / "hdf5")
    make(tmp_path / "raw", SMALL.model_copy(update={"format": "raw"}))
    stems = [stem.replace("HDF5", "RAW") for stem in STEMS]
    wanted = [stem + ending for stem in stems for ending in ("_td.raw", *ENDINGS[1:])]
    assert files_of(tmp_path / "raw") == sorted(["classes.txt", "dataset.json", *wanted])
    one, other = events_of(tmp_path / "hdf5" / f"{STEMS[4]}_td.h5"), events_of(tmp_path / "raw" / f"{stems[4]}_td.raw")
    for name in "txyp":
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (other.width, other.height) == (304, 240)


def test_scenes_without_anything_are_complete(tmp_path):
    summary = make(tmp_path, source=empty)
    assert (summary.written, summary.events, summary.labels) == (5, 0, 0)
    assert len(np.load(tmp_path / f"{STEMS[0]}_annotations.npy")) == 0
    assert len(np.load(tmp_path / f"{STEMS[0]}_times.npy")) == 10, "known to be empty"
    assert make(tmp_path).skipped == 5


def test_a_scene_depends_on_its_number_alone():
    mixed = SMALL.model_copy(update={"camera": "mixed", "daytime": "mixed"})
    few, many = (plan_scenes(mixed.model_copy(update={"train_scenes": n, "val_scenes": 0})) for n in (4, 9))
    assert few[:4] == many[:4]
    seeds = [scene.seed for scene in plan_scenes(mixed)]
    assert len(set(seeds)) == len(seeds), "no scene is in two splits"


def test_mixed_takes_turns():
    settings = TrafficDatasetSettings.model_validate(
        {"preset": ["mixed"], "camera": "mixed", "daytime": "mixed", "label_hz": 20}
        | {"train_scenes": 12, "val_scenes": 6, "test_scenes": 6}
    )
    scenes = plan_scenes(settings)
    turn = ["evk4", "gen3", "gen1", "davis346"]
    assert [scene.traffic.preset for scene in scenes] == turn * 6
    assert {scene.traffic.label_period_us for scene in scenes} == {50_000}
    for split, count in (("train", 12), ("val", 6)):
        of_split = [scene.traffic for scene in scenes if scene.split == split]
        assert set(Counter(traffic.camera for traffic in of_split).values()) == {count // 2}
        assert set(Counter(traffic.daytime for traffic in of_split).values()) == {count // 3}
        assert {traffic.daytime for traffic in of_split[:3]} == {"day", "dusk", "night"}
    assert len({(s.traffic.camera, s.traffic.daytime) for s in scenes}) == 6, "one says nothing about the other"


@pytest.mark.parametrize(
    ("scenes", "shares"), [(20, (14, 3, 3)), (100, (70, 15, 15)), (3, (1, 1, 1)), (5, (3, 1, 1)), (2, (2, 0, 0))]
)
def test_scenes_are_shared_out(scenes, shares):
    assert tuple(share_scenes(scenes).values()) == shares


@pytest.mark.parametrize(
    "settings", [{"preset": ["evk5"]}, {"preset": []}, {"classes": 5}, {"duration_us": 0}, {"label_hz": 0}, {"sede": 1}]
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValidationError):
        TrafficDatasetSettings.model_validate(settings)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ValidationError, match="'evk4', 'gen3', 'gen1' or 'davis346'"):
        TrafficDatasetSettings.model_validate({"preset": ["evk5"]})


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="cannot make this folder"):
        make(tmp_path / "file")


def picture(path):
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def film(path):
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float(stream.average_rate), [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def test_views(tmp_path):
    view = view_of(tmp_path / "view", TRAFFIC_CLASSES, [scene.name for scene in plan_scenes(SMALL)])
    make(tmp_path, audience=view)
    sheet = picture(view.write_sheet())
    tile = picture(tmp_path / "view" / "train_0001.png")
    # panels of 480 x 379 (gen1 is 304 x 240), 2 apart, under a title of 18
    assert tile.shape == (379 + 18, 2 * 480 + 2, 3)
    assert sheet.shape == (3 * tile.shape[0] + 2 * 6, 2 * tile.shape[1] + 6, 3)
    np.testing.assert_array_equal(sheet[: tile.shape[0], tile.shape[1] + 6 :], tile)
    assert tile[:18].max() > 200, "a title"
    # the picture: ground of 60, the object of 200 from (42, 50) of the sensor at 0.2 s, enlarged 1.58 times
    assert tile[18 + 300, 100].tolist() == [60, 60, 60]
    assert tile[18 + 100, 90].tolist() == [200, 200, 200]
    events = tile[18:, 482:]
    box = events[round(50 * 1.58) : round(90 * 1.58), round(40 * 1.58) : round(82 * 1.58)]
    assert box.max() > 200
    assert events[:60].max() < box.max()
    rate, frames = film(tmp_path / "view" / "train_0000.mp4")
    assert rate == pytest.approx(30, abs=0.01)
    assert len(frames) == 350_000 // FRAME_US == 10
    assert frames[0].shape == (758 + 32, 2 * 960 + 4, 3)
    assert 150 < frames[5][32 + 200, 200].mean() < 250
    assert frames[5][:, 964:].max() > 150
    assert files_of(tmp_path / "view") == sorted(
        ["contact_sheet.png", "train_0000.mp4", *(f"{stem.rsplit('/')[-1]}.png" for stem in STEMS)]
    )


def test_a_view_of_complete_scenes_writes_only_the_view(monkeypatch, tmp_path):
    make(tmp_path)
    make(tmp_path / "both", audience=view_of(tmp_path / "both" / "view", TRAFFIC_CLASSES, ["train_0000", "val_0000"]))
    before = contents(tmp_path)
    view = view_of(tmp_path / "view", TRAFFIC_CLASSES, ["train_0000", "val_0000"])
    assert make(tmp_path, audience=view).written == 0
    assert contents(tmp_path) == before
    for name in ("val_0000.png", "train_0000.png", "train_0000.mp4"):
        assert (tmp_path / "view" / name).read_bytes() == (tmp_path / "both" / "view" / name).read_bytes(), name
    monkeypatch.setattr(simulated, "_make", None)
    assert make(tmp_path, audience=view).skipped == 5, "what is there is not made again"


def test_boxes_of_the_film_belong_to_the_end_of_its_frame(monkeypatch, tmp_path):
    """Labels of k periods stand at the start of the chunk after those events."""
    from spiketrack.drawing import scene_view

    seen = []

    def note(image, window, boxes, *_):
        seen.append((window.end_us, np.unique(boxes.t).tolist(), int(image[60].argmax()), boxes.xyxy[:, 0].tolist()))
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(scene_view, "_side_by_side", note)
    view = view_of(tmp_path / "view", TRAFFIC_CLASSES, ["train_0000"])
    make(tmp_path, SMALL.model_copy(update={"val_scenes": 0, "test_scenes": 0, "train_scenes": 1}), audience=view)
    framed = [entry for entry in seen if entry[0] % FRAME_US == 0]
    assert {end_us for end_us, *_ in framed} == {FRAME_US * k for k in range(1, 11)}
    for end_us, times, left, boxes in framed:
        assert times == [end_us]
        assert boxes == [left]


def test_the_sheet_shows_scenes_of_the_whole_data_set():
    names = [f"train_{k:04d}" for k in range(95)] + [f"test_{k:04d}" for k in range(5)]
    view = view_of(None, TRAFFIC_CLASSES, names)
    assert len(view.tiles) == MOST_TILES
    assert (view.tiles[0], view.tiles[-1], view.filmed) == ("train_0000", "test_0004", "train_0000")
    assert view_of(None, TRAFFIC_CLASSES, names[:2]).tiles == tuple(names[:2])


def test_boxes_on_the_edge_can_be_drawn():
    from PIL import Image

    from spiketrack.drawing.scene_view import _draw_boxes

    image = Image.new("RGB", (96, 80))
    boxes = Boxes.of(0, [[0, 0, 96, 80], [90, 70, 96, 80], [5, 5, 5, 5]], [0, 1, 7])
    _draw_boxes(image, boxes, TRAFFIC_CLASSES, (1.0, 1.0))
    drawn = np.asarray(image)
    assert drawn[0, 50].any()
    assert drawn[79, 50].any()
    assert not drawn[60, 40].any()
