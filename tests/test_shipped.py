"""The network that comes with the package: making its file, reading it, and commands that are given no weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from loud_detector import loud_detector
from moving_squares import SLICE_US

from spiketrack.cli import main
from spiketrack.detector import shipped
from spiketrack.detector.checkpoint import load_checkpoint, save_checkpoint
from spiketrack.detector.shipped import MAX_BYTES, write_shipped
from spiketrack.errors import CheckpointError
from spiketrack.pipeline import Detector
from spiketrack.representations import InputSettings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What training writes: a detector, and the state of a run beside it."""
    path = tmp_path_factory.mktemp("run") / "last.pt"
    detector = loud_detector(input=InputSettings(slice_us=SLICE_US, shortest_side=64))
    content = detector.content()
    save_checkpoint(path, {**content, "run": {"optimizer": content["weights"], "place": [1, 2, 3]}})
    return path


@pytest.fixture
def installed(checkpoint, tmp_path, monkeypatch):
    """An installation whose shipped network is that of the checkpoint."""
    path = tmp_path / "package" / "traffic.pt"
    write_shipped(checkpoint, path, {})
    monkeypatch.setattr(shipped, "SHIPPED", path)
    return path


@pytest.fixture
def bare(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "package" / "traffic.pt")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """A function that runs a command line in an empty folder: (exit code or message, stdout, stderr)."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["spiketrack", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def experiment(squares, tmp_path):
    tree = {"name": "tiny", "data": {"root": str(squares)}, "input": {"slice_us": SLICE_US}}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_the_file_is_the_detector_with_weights_of_half_the_size(checkpoint, tmp_path):
    out = tmp_path / "deep" / "traffic.pt"
    size = write_shipped(checkpoint, out, {"data": "squares", "epochs": 3})
    assert size == out.stat().st_size <= MAX_BYTES
    before, after = load_checkpoint(checkpoint), load_checkpoint(out)
    assert after["about"] == {"data": "squares", "epochs": 3}
    assert set(after) == {*before, "about"} - {"run"}
    for name, tensor in before["weights"].items():
        half = after["weights"][name]
        assert half.dtype == (torch.float16 if tensor.is_floating_point() else tensor.dtype)
        assert torch.equal(half, tensor.half() if tensor.is_floating_point() else tensor)
    # 11 bits of precision
    weight = before["weights"]["stem.conv.weight"]
    error = (after["weights"]["stem.conv.weight"].float() - weight).abs()
    assert (error <= weight.abs() * 2**-11 + 2**-25).all()
    assert load_checkpoint(checkpoint)["run"]["place"] == [1, 2, 3]


def test_loading_gives_the_stored_numbers_in_float32(installed, squares):
    stored = load_checkpoint(installed)["weights"]
    detector = Detector.shipped()
    assert not detector.model.training
    assert detector.input.shortest_side == 64
    for name, tensor in detector.model.state_dict().items():
        assert tensor.dtype != torch.float16, name
        assert torch.equal(tensor, stored[name].to(tensor.dtype)), name
    recording = squares / "HDF5" / "test" / "test_0_td.h5"
    loaded = Detector.load(installed)
    for one, other in zip(detector.detect(recording), loaded.detect(recording), strict=True):
        assert len(one.detections) > 0
        np.testing.assert_array_equal(one.detections.xyxy, other.detections.xyxy)
    # what has been shipped can be shipped again, unchanged
    again = installed.with_name("again.pt")
    write_shipped(installed, again, {})
    assert all(torch.equal(tensor, stored[name]) for name, tensor in load_checkpoint(again)["weights"].items())


def test_a_weight_that_float16_cannot_hold_is_refused(checkpoint, tmp_path):
    content = load_checkpoint(checkpoint)
    content["weights"]["stem.norm.running_var"][1] = 65_519.0  # rounds to 65504
    save_checkpoint(tmp_path / "large.pt", content)
    write_shipped(tmp_path / "large.pt", tmp_path / "out.pt", {})
    assert load_checkpoint(tmp_path / "out.pt")["weights"]["stem.norm.running_var"][1] == 65_504
    for value in (65_520.0, float("nan")):
        content["weights"]["stem.norm.running_var"][1] = value
        save_checkpoint(tmp_path / "large.pt", content)
        with pytest.raises(CheckpointError, match=r"large\.pt: stem\.norm\.running_var .*float16 holds up to 65504"):
            write_shipped(tmp_path / "large.pt", tmp_path / "absent.pt", {})
    assert not (tmp_path / "absent.pt").exists()


def test_a_network_too_large_for_the_package_is_refused_and_the_older_one_stays(checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "out.pt"
    size = write_shipped(checkpoint, out, {})
    older = out.read_bytes()
    monkeypatch.setattr(shipped, "MAX_BYTES", size - 1)
    with pytest.raises(CheckpointError, match=rf"out\.pt: would have {size:,} bytes, at most {size - 1:,}"):
        write_shipped(checkpoint, out, {})
    assert out.read_bytes() == older
    monkeypatch.setattr(shipped, "MAX_BYTES", size)
    assert write_shipped(checkpoint, out, {}) == size


def test_a_checkpoint_without_a_detector_is_refused(tmp_path):
    save_checkpoint(tmp_path / "w.pt", {"weights": {}})
    with pytest.raises(CheckpointError, match=r"w\.pt: .*no model, input, decoding, class_names"):
        write_shipped(tmp_path / "w.pt", tmp_path / "out.pt", {})


def test_an_installation_without_the_network_says_so(bare):
    with pytest.raises(CheckpointError, match=r"traffic\.pt: this installation has no shipped network"):
        Detector.shipped()


def test_track_needs_no_weights(run, installed, squares):
    recording = squares / "HDF5" / "test" / "test_0_td.h5"
    code, out, err = run("track", recording, "--no-video")
    assert code == 0
    assert f"using the shipped network {installed}" in err
    assert "steps     8 over 0.160 s" in out
    assert str(installed) in Path("test_0_td.h5_tracks/report.html").read_text()
    code, _, err = run("track", recording, "--no-video", "--weights", installed)
    assert code == 0
    assert "shipped" not in err


def test_track_without_weights_or_a_shipped_network(run, bare, squares):
    code, out, err = run("track", squares / "HDF5" / "test" / "test_0_td.h5", "--no-video")
    assert (code != 0, out) == (True, "")
    assert "this installation has no shipped network" in f"{code}{err}"


def test_evaluate_takes_the_run_first_and_the_shipped_network_otherwise(run, installed, experiment, checkpoint):
    code, out, err = run("evaluate", experiment)
    assert code == 0
    assert f"using the shipped network {installed}" in err
    assert "runs/tiny/evaluation_test/report.html" in out
    assert [path.name for path in installed.parent.iterdir()] == ["traffic.pt"]  # nothing is written beside it
    save_checkpoint(Path("runs/tiny/best.pt"), load_checkpoint(checkpoint))
    code, out, err = run("evaluate", experiment)
    assert code == 0
    assert "shipped" not in err


def test_evaluate_without_a_run_or_a_shipped_network(run, bare, experiment):
    code, out, err = run("evaluate", experiment)
    assert (code != 0, out) == (True, "")
    assert "runs/tiny/best.pt: no such checkpoint, and" in f"{code}{err}"
    assert "no shipped network" in f"{code}{err}"


def test_the_script_ships_a_checkpoint(checkpoint, tmp_path):
    script = [sys.executable, ROOT / "scripts" / "ship_weights.py"]
    arguments = [checkpoint, tmp_path / "t.pt", "--about", "data=a=b", "--about", "epochs=3"]
    done = subprocess.run([*script, *arguments], capture_output=True, text=True, timeout=120, check=True)
    assert f"{(tmp_path / 't.pt').stat().st_size:,} bytes" in done.stdout
    about = load_checkpoint(tmp_path / "t.pt")["about"]
    assert (about["data"], about["epochs"]) == ("a=b", "3")
    failed = subprocess.run([*script, "absent.pt", tmp_path / "u.pt"], capture_output=True, text=True, timeout=120)
    assert (failed.returncode, failed.stderr) == (1, "absent.pt: no such checkpoint\n")
