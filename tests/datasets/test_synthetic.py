"""Synthetic data sets: layout, what is read back, splits, resuming, and what stops them."""

import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from pydantic import ValidationError

from spiketrack.boxes import Boxes
from spiketrack.datasets import synthetic
from spiketrack.datasets.synthetic import (
    ComposeDatasetSettings,
    SimulateDatasetSettings,
    compose_dataset,
    simulate_dataset,
)
from spiketrack.errors import RecordingError, SettingsError
from spiketrack.events import Events
from spiketrack.recordings import load_labels, open_recording
from spiketrack.simulation import ComposeSettings, SceneSettings, simulate_scene

SMALL = ComposeDatasetSettings(
    train_scenes=3, train_s=0.3, val_scenes=1, val_s=0.2, test_scenes=1, test_s=0.4,
    val_share=0.25, scene=ComposeSettings(width=96, height=80),
)  # fmt: skip
FILES = [
    f"HDF5/{split}/{split}_{index:04d}{ending}"
    for split, count in (("train", 3), ("val", 1), ("test", 1))
    for index in range(count)
    for ending in ("_td.h5", "_bbox.npy")
]


@pytest.fixture(scope="module")
def nmnist(tmp_path_factory):
    """A small N-MNIST: four Train/ and two Test/ blobs of each class."""
    folder, rng = tmp_path_factory.mktemp("nmnist"), np.random.default_rng(0)
    for split, count in (("Train", 4), ("Test", 2)):
        for name in "0123456789":
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                write_bin(folder / split / name / f"{index:05d}.bin", rng)
    return folder


def write_bin(path, rng):
    xy = np.clip(rng.normal(17, 4, (400, 2)), 0, 33).astype(np.uint8)
    t = np.sort(rng.integers(0, 300_000, 400))
    high = (rng.integers(0, 2, 400) << 7) | (t >> 16)
    rows = np.column_stack([xy, high, (t >> 8) & 255, t & 255]).astype(np.uint8)
    path.write_bytes(rows.tobytes())


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def read(folder, name, settings):
    recording = open_recording(folder / f"{name}_td.h5")
    labels, repairs = load_labels(folder / f"{name}_bbox.npy", width=recording.width, height=recording.height)
    assert not repairs, "labels as written need no repair"
    assert (recording.width, recording.height) == (settings.scene.width, settings.scene.height)
    return Events.concatenate(list(recording.chunks())), labels


def test_layout_and_summary(nmnist, tmp_path):
    calls = []
    summary = compose_dataset(nmnist, tmp_path / "out", SMALL, lambda *call: calls.append(call))
    assert files_of(tmp_path / "out") == sorted(["classes.txt", "dataset.json", *FILES])
    assert (tmp_path / "out" / "classes.txt").read_text() == "".join(f"{digit}\n" for digit in range(10))
    assert calls == [
        (1, 5, "train_0000"), (2, 5, "train_0001"), (3, 5, "train_0002"), (4, 5, "val_0000"), (5, 5, "test_0000"),
    ]  # fmt: skip
    assert (summary.written, summary.skipped) == (5, 0)
    scenes = [read(tmp_path / "out" / "HDF5" / name.split("_")[0], name, SMALL) for _, _, name in calls]
    assert summary.events == sum(len(events) for events, _ in scenes)
    assert summary.labels == sum(len(labels) for _, labels in scenes)
    assert summary.tracks == sum(len(set(labels.track_id.tolist())) for _, labels in scenes)
    assert [labels.t[-1] for _, labels in scenes] == [33_333 * k for k in (9, 9, 9, 6, 12)]


def test_a_simulated_scene_is_read_back_as_it_was_made(tmp_path):
    settings = SimulateDatasetSettings(
        seed=5, train_scenes=1, train_s=0.3, val_scenes=0, test_scenes=0, scene=SceneSettings(width=120, height=90)
    )
    simulate_dataset(tmp_path, settings)
    events, labels = read(tmp_path / "HDF5" / "train", "train_0000", settings)
    made = list(simulate_scene(settings.scene, 300_000, (5, 1, 0)))
    expected, expected_labels = Events.concatenate([e for e, _ in made]), Boxes.concatenate([b for _, b in made])
    for name in "txyp":
        np.testing.assert_array_equal(getattr(events, name), getattr(expected, name))
    np.testing.assert_allclose(labels.xyxy, expected_labels.xyxy, atol=1e-4)
    for name in ("t", "class_id", "track_id"):
        np.testing.assert_array_equal(getattr(labels, name), getattr(expected_labels, name))
    assert (tmp_path / "classes.txt").read_text().split() == ["disc", "square", "triangle"]


def test_the_same_seed_gives_the_same_data(nmnist, tmp_path):
    for name in ("one", "two"):
        compose_dataset(nmnist, tmp_path / name, SMALL)
    other = SMALL.model_copy(update={"seed": 1})
    compose_dataset(nmnist, tmp_path / "other", other)
    for split in ("train", "test"):
        a, b, c = (
            read(tmp_path / name / "HDF5" / split, f"{split}_0000", SMALL)[0] for name in ("one", "two", "other")
        )
        np.testing.assert_array_equal(a.t, b.t)
        np.testing.assert_array_equal(a.x, b.x)
        assert len(a) != len(c)


def test_no_digit_is_in_two_splits(nmnist, tmp_path):
    compose_dataset(nmnist, tmp_path, SMALL)
    digits = json.loads((tmp_path / "dataset.json").read_text())["digits"]
    for name in "0123456789":
        train, val = set(digits["train"][name]), set(digits["val"][name])
        assert not train & val
        assert sorted(train | val) == ["00000", "00001", "00002", "00003"]
        assert len(val) == 1
        assert digits["test"][name] == ["00000", "00001"]


def test_scenes_read_only_the_digits_of_their_split(monkeypatch, nmnist, tmp_path):
    used = []
    load = synthetic._load_digit
    monkeypatch.setattr(synthetic, "_load_digit", lambda path, class_id: used.append(path) or load(path, class_id))
    for split in ("train", "val", "test"):
        scenes = {f"{other}_scenes": 2 if other == split else 0 for other in ("train", "val", "test")}
        used.clear()
        compose_dataset(nmnist, tmp_path / split, SMALL.model_copy(update=scenes))
        allowed = json.loads((tmp_path / split / "dataset.json").read_text())["digits"][split]
        assert used
        for path in used:
            assert path.parent.parent.name == ("Test" if split == "test" else "Train")
            assert path.stem in allowed[path.parent.name]


def test_digits_are_dealt_equally_often_and_classes_take_turns():
    pool = [[f"{c}-{i}" for i in range(3)] for c in range(10)]
    dealt = list(islice(synthetic._deal(pool, np.random.default_rng(0)), 60))
    assert set(Counter(name for _, name in dealt).values()) == {2}
    for first in range(0, 60, 10):
        assert {class_id for class_id, _ in dealt[first : first + 10]} == set(range(10))
    assert all(name.startswith(f"{class_id}-") for class_id, name in dealt)


def test_a_second_run_skips_what_is_complete(nmnist, tmp_path):
    compose_dataset(nmnist, tmp_path, SMALL)
    before = contents(tmp_path)
    (tmp_path / "HDF5/train/train_0001_td.h5").unlink()
    (tmp_path / "HDF5/test/test_0000_bbox.npy").unlink()
    summary = compose_dataset(nmnist, tmp_path, SMALL)
    assert (summary.written, summary.skipped) == (2, 3)
    after = contents(tmp_path)
    for name in FILES:
        if name.endswith(".npy") or ("train_0001" not in name and "test_0000" not in name):
            assert after[name] == before[name], name
    again = compose_dataset(nmnist, tmp_path, SMALL)
    assert (again.written, again.skipped, again.events) == (0, 5, 0)


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_an_interrupted_scene_leaves_nothing_and_is_made_up_for(monkeypatch, nmnist, tmp_path, error):
    compose_dataset(nmnist, tmp_path / "whole", SMALL)
    compose = synthetic.compose_scene
    started = []

    def breaking(*arguments):
        started.append(1)
        for number, chunk in enumerate(compose(*arguments)):
            if len(started) == 2 and number == 2:
                raise error
            yield chunk

    monkeypatch.setattr(synthetic, "compose_scene", breaking)
    with pytest.raises(error):
        compose_dataset(nmnist, tmp_path / "cut", SMALL)
    assert files_of(tmp_path / "cut") == sorted(["classes.txt", "dataset.json", *FILES[:2]])
    monkeypatch.undo()
    summary = compose_dataset(nmnist, tmp_path / "cut", SMALL)
    assert (summary.written, summary.skipped) == (4, 1)
    for name in ("train_0001", "test_0000"):
        split = name.split("_")[0]
        whole, cut = (read(tmp_path / side / "HDF5" / split, name, SMALL)[0] for side in ("whole", "cut"))
        np.testing.assert_array_equal(whole.t, cut.t)
        np.testing.assert_array_equal(whole.y, cut.y)


def test_labels_are_in_place_before_the_events(monkeypatch, nmnist, tmp_path):
    seen = []
    leave = synthetic.EventWriter.__exit__

    def watched(writer, *error):
        seen.append(
            (writer.path.with_name(writer.path.name.replace("_td.h5", "_bbox.npy")).is_file(), writer.path.is_file())
        )
        return leave(writer, *error)

    monkeypatch.setattr(synthetic.EventWriter, "__exit__", watched)
    compose_dataset(nmnist, tmp_path, SMALL)
    assert seen == [(True, False)] * 5


def test_a_full_disk_is_a_recording_error_and_loses_nothing(monkeypatch, nmnist, tmp_path):
    compose_dataset(nmnist, tmp_path, SMALL.model_copy(update={}))
    before = contents(tmp_path)
    (tmp_path / "HDF5/test/test_0000_td.h5").unlink()

    def full(writer, parts):
        raise writer._failed(OSError(28, "No space left on device"))

    monkeypatch.setattr(synthetic.EventWriter, "_write_events", full)
    with pytest.raises(RecordingError, match=r"test_0000_td\.h5: cannot be written.*No space left"):
        compose_dataset(nmnist, tmp_path, SMALL)
    left = [name for name in FILES if name != "HDF5/test/test_0000_td.h5"]
    assert files_of(tmp_path) == sorted(["classes.txt", "dataset.json", *left])
    assert all((tmp_path / name).read_bytes() == before[name] for name in left)


def test_other_settings_in_the_same_folder_are_refused_by_name(nmnist, tmp_path):
    compose_dataset(nmnist, tmp_path, SMALL)
    before = contents(tmp_path)
    other = SMALL.model_copy(update={"scene": ComposeSettings(width=97, height=80)})
    with pytest.raises(SettingsError, match=r"settings\.scene\.width: there 96, now 97"):
        compose_dataset(nmnist, tmp_path, other)
    with pytest.raises(SettingsError, match="kind: there 'compose', now 'simulate'"):
        simulate_dataset(tmp_path, SimulateDatasetSettings())
    assert contents(tmp_path) == before


def test_a_folder_that_is_not_ours_is_left_alone(nmnist, tmp_path):
    (tmp_path / "HDF5").mkdir()
    with pytest.raises(SettingsError, match=r"no dataset\.json"):
        compose_dataset(nmnist, tmp_path, SMALL)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(SettingsError, match="cannot be read"):
        compose_dataset(nmnist, tmp_path, SMALL)
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(SettingsError, match="other settings"):
        compose_dataset(nmnist, tmp_path, SMALL)
    assert files_of(tmp_path) == ["dataset.json"]


def test_an_output_folder_that_cannot_be_is_a_recording_error(nmnist, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="cannot make this folder"):
        compose_dataset(nmnist, tmp_path / "file", SMALL)


def test_missing_and_broken_digits_are_named(tmp_path):
    with pytest.raises(RecordingError, match="no such folder; expected N-MNIST"):
        compose_dataset(tmp_path / "absent", tmp_path / "out", SMALL)
    rng = np.random.default_rng(0)
    for split in ("Train", "Test"):
        for name in "0123456789":
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(2):
                write_bin(tmp_path / split / name / f"{index}.bin", rng)
    (tmp_path / "Train" / "4" / "1.bin").unlink()
    with pytest.raises(RecordingError, match=r"Train/4: expected at least 2 .*found 1"):
        compose_dataset(tmp_path, tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists(), "nothing is written before the digits are known"
    write_bin(tmp_path / "Train" / "4" / "1.bin", rng)
    for path in (tmp_path / "Test").rglob("*.bin"):
        path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(RecordingError, match=r"Test/\d/\d\.bin"):
        compose_dataset(tmp_path, tmp_path / "out", SMALL)
    for path in (tmp_path / "Test").rglob("*.bin"):
        path.write_bytes(bytes([3, 3, 0, 0, 0, 9, 9, 0, 0, 1]))
    with pytest.raises(RecordingError, match=r"Test/\d/\d\.bin: no digit among 2 events"):
        compose_dataset(tmp_path, tmp_path / "out", SMALL)


@pytest.mark.parametrize("settings", [{"train_scenes": -1}, {"val_s": 0}, {"val_share": 1}, {"scene": {"widht": 3}}])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValidationError):
        ComposeDatasetSettings.model_validate(settings)


@pytest.mark.real_data
def test_real_digits(real_data, tmp_path):
    settings = ComposeDatasetSettings(train_scenes=2, train_s=1, val_scenes=1, val_s=1, test_scenes=1, test_s=1)
    compose_dataset(real_data / "nmnist", tmp_path, settings)
    digits = json.loads((tmp_path / "dataset.json").read_text())["digits"]
    held = {split: {(n, d) for n, names in digits[split].items() for d in names} for split in digits}
    assert len(held["train"]) + len(held["val"]) == 1000
    assert not held["train"] & held["val"]
    assert not {d for _, d in held["test"]} & {d for _, d in held["train"] | held["val"]}
    assert 0.90 <= len(held["train"]) / 1000 <= 0.95
    events, labels = read(tmp_path / "HDF5" / "test", "test_0000", settings)
    inside = np.zeros(len(events), bool)
    for t_us, boxes in labels.by_time():
        now = np.abs(events.t - t_us) < 2_000
        for left, top, right, bottom in boxes.xyxy:
            inside |= now & (events.x >= left) & (events.x < right) & (events.y >= top) & (events.y < bottom)
    near_label = np.zeros(len(events), bool)
    for t_us in np.unique(labels.t):
        near_label |= np.abs(events.t - t_us) < 2_000
    # background: 0.3 Hz on 304x240 px, about 22 k events/s beside about 60 k/s of digits
    assert inside[near_label].mean() > 0.6
    assert 3 <= len(labels) / len(np.unique(labels.t)) <= 7


def test_train_scenes_may_hold_more_objects_than_the_others(nmnist, tmp_path):
    crowd = SMALL.model_copy(update={"train_objects": (20, 25)})
    compose_dataset(nmnist, tmp_path / "few", SMALL)
    compose_dataset(nmnist, tmp_path / "many", crowd)

    def tracks(folder, name):
        return len(np.unique(load_labels(tmp_path / folder / "HDF5" / f"{name}_bbox.npy")[0].track_id))

    assert tracks("many", "train/train_0000") >= 10 > tracks("few", "train/train_0000")
    for name in ("val/val_0000", "test/test_0000"):
        few, many = (tmp_path / folder / "HDF5" / f"{name}_td.h5" for folder in ("few", "many"))
        assert few.read_bytes() == many.read_bytes()
