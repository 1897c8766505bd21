"""Training keypoints: from a data set to scores; stopping and going on do not change a run."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spiketrack.boxes import Boxes
from spiketrack.cli import app
from spiketrack.errors import CheckpointError, LabelError, SettingsError
from spiketrack.events import Events
from spiketrack.keypoints import CropSettings, KeypointEstimator, KeypointExperiment, find_crops, keypoint_trainer
from spiketrack.keypoints.evaluation import evaluate_crops, in_boxes, mean_pose_of, poses_of
from spiketrack.keypoints.view import draw_crops
from spiketrack.recordings import create_recording, open_recording, save_labels
from spiketrack.traffic.annotations import ANNOTATION_DTYPE

SIDE, PERIOD_US = 100, 50_000


def write_people(root, split, scenes, seed=0):
    """Scenes of 0.3 s with a pedestrian of 30 x 60 pixels: fifteen blinking blocks, joint k at height 4 k."""
    folder = root / "HDF5" / split
    folder.mkdir(parents=True)
    (root / "classes.txt").write_text("pedestrian\nvehicle\n")
    for scene in range(scenes):
        rng = np.random.default_rng([seed, scene])
        corner = rng.integers(10, 30, 2)
        joints = np.stack([rng.uniform(2, 28, 15), np.arange(15) * 4 + 2], axis=1) + corner
        times = np.arange(PERIOD_US, 6 * PERIOD_US + 1, PERIOD_US)
        t = np.sort(rng.integers(0, 6 * PERIOD_US, 3000))
        at = joints[rng.integers(0, 15, 3000)] + rng.uniform(-1.5, 1.5, (3000, 2))
        x, y = at.astype(np.uint16).T
        name = f"{split}_{scene:04d}"
        with create_recording(folder / f"{name}_td.h5", SIDE, SIDE) as writer:
            writer.append(
                Events(
                    t, np.ascontiguousarray(x), np.ascontiguousarray(y), rng.integers(0, 2, 3000, np.uint8), SIDE, SIDE
                )
            )
        rows = np.zeros(len(times), ANNOTATION_DTYPE)
        box = np.concatenate([corner, corner + np.array([30, 60])])
        rows["t"], rows["track_id"], rows["whole"], rows["visible"], rows["labelled"] = times, 7, box, box, True
        rows["keypoints"][:, :, :2], rows["keypoints"][:, :, 2] = joints, 1
        np.save(folder / f"{name}_annotations.npy", rows)
        ids = np.full(len(times), 7)
        labels = Boxes.of(times, np.tile(box, (len(times), 1)), np.zeros(len(times)), track_id=ids)
        save_labels(folder / f"{name}_bbox.npy", labels)
    return root


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    root = tmp_path_factory.mktemp("people")
    write_people(root, "train", 3)
    return write_people(root, "val", 1, seed=1)


def experiment_on(root, **training):
    return KeypointExperiment.model_validate(
        {
            "name": "tiny",
            "data": {"root": root, "every": 1, "cache": root / "crops"},
            "input": {"bins": 1, "height": 64, "width": 32, "duration_us": 100_000},
            "training": {"epochs": 2, "batch_size": 6, "ema": 0.5, **training},
        }
    )


def test_crops_by_hand(people, tmp_path):
    """Six label times, of which the first has less than 100 ms before it; kept crops are the same."""
    find = {"duration_us": 100_000, "aspect": 0.5}
    crops = find_crops(people, "train", CropSettings(), cache=tmp_path, **find)
    assert (len(crops), len(find_crops(people, "train", CropSettings(), every=2, **find))) == (15, 9)
    row = crops.rows[0]
    assert (row["height"], row["width"], row["t"]) == (78, 39, 100_000)
    window = crops.window(0, 100_000)
    everything = open_recording(people / "HDF5/train/train_0000_td.h5").read(0, 100_000)
    assert len(window) == len(everything)  # all of its events are on the person
    assert np.array_equal(window.x.astype(int) + row["left"], everything.x)
    assert np.array_equal(window.t + 100_000, everything.t)
    kept = find_crops(people, "train", CropSettings(), cache=tmp_path, **find)
    assert np.array_equal(kept.rows, crops.rows)
    assert np.array_equal(kept.events, crops.events)
    assert len(find_crops(people, "train", CropSettings(), cache=tmp_path, **{**find, "duration_us": 200_000})) == 9
    with pytest.raises(LabelError, match="61 pixels"):
        find_crops(people, "train", CropSettings(min_height=61), **find)
    with pytest.raises(SettingsError, match="horse"):
        find_crops(people, "train", CropSettings(class_name="horse"), **find)


def test_the_mean_pose_of_one_person_is_the_person(people):
    crops = find_crops(people, "val", CropSettings(), duration_us=100_000, aspect=0.5)
    found = in_boxes(mean_pose_of(crops), crops.rows["box"])
    assert found == pytest.approx(poses_of(crops).keypoints[..., :2], abs=1e-3)


def test_a_stopped_run_goes_on_to_the_same_weights(people, tmp_path):
    def trainer(name, **training):
        return keypoint_trainer(experiment_on(people, **training), tmp_path / name)

    straight, stopped = trainer("straight"), trainer("stopped")
    losses = []
    assert straight.run(lambda progress: losses.append(progress.loss))
    assert len(losses) == 6
    assert not stopped.run(lambda progress: os.kill(os.getpid(), signal.SIGINT) if progress.step == 2 else None)
    assert stopped.step == 2
    resumed = trainer("stopped")
    resumed.resume()
    assert resumed.run()
    assert resumed.history == straight.history
    wanted = straight.averaged().content()["weights"]
    assert all(torch.equal(value, wanted[name]) for name, value in resumed.averaged().content()["weights"].items())
    other = trainer("stopped", learning_rate=0.1)
    with pytest.raises(CheckpointError, match="training"):
        other.resume()

    estimator = KeypointEstimator.load(tmp_path / "straight" / "last.pt")
    crops = straight.validation
    scores, found, score = evaluate_crops(estimator, crops)
    assert scores.pck[0.2] == straight.history[-1].val_pck
    assert (scores.people, scores.joints, scores.tracks) == (5, 75, 1)
    # boxes of a window give the same joints as the crops of the labels
    window = open_recording(people / "HDF5/val/val_0000_td.h5").read(0, 100_000)
    again, _ = estimator.find(window, crops.rows["box"][:1])
    assert again == pytest.approx(found[:1], abs=1e-3)
    none, _ = estimator.find(window, np.empty((0, 4), np.float32))
    assert none.shape == (0, 15, 2)
    assert draw_crops(crops, found, score, 2, 100_000).shape == (234, 2 * 234 + 6, 3)


def test_the_commands(people, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps(experiment_on(people, epochs=1).model_dump(mode="json")))
    run = CliRunner().invoke(app, ["keypoints", "train", str(config)])
    assert run.exit_code == 0, run.output
    assert "validation PCK@0.2" in run.output
    run = CliRunner().invoke(app, ["keypoints", "evaluate", str(config), "--split", "val", "--people", "2"])
    assert run.exit_code == 0, run.output
    metrics = json.loads((tmp_path / "runs/tiny/keypoints_val/metrics.json").read_text())
    assert f"{metrics['pck_torso']['0.2']:.3f}" in run.output
    assert (tmp_path / "runs/tiny/keypoints_val/poses.png").is_file()
    again = CliRunner().invoke(app, ["keypoints", "train", str(config)])
    assert isinstance(again.exception, SettingsError)
    assert "--resume" in str(again.exception)
    stem = people / "HDF5/val/val_0000"
    arguments = [
        f"{stem}_td.h5",
        "--weights",
        "runs/tiny/best.pt",
        "--boxes",
        f"{stem}_bbox.npy",
        "--out",
        "people.mp4",
    ]
    run = CliRunner().invoke(app, ["keypoints", "draw", *arguments])
    assert run.exit_code == 0, run.output
    assert "6 frames" in run.output
    assert (tmp_path / "people.mp4").stat().st_size > 1000
