"""The command line: help, one clear line for every mistake, and nothing heavy where it must be quick."""

import functools
import json
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
import yaml
from loud_detector import loud_detector
from moving_squares import CLASS_NAMES, SLICE_US, write_sequence
from typer.main import get_command

from spiketrack.boxes import Boxes
from spiketrack.cli import app
from spiketrack.detector.catalogue import catalogue
from spiketrack.detector.checkpoint import load_checkpoint, save_checkpoint
from spiketrack.events import Events
from spiketrack.experiment import load_experiment
from spiketrack.recordings import create_recording, open_recording
from spiketrack.training import Trainer

COMMANDS = {
    *("info", "convert", "filter", "simulate", "compose", "models", "settings", "train", "evaluate", "track"),
    *("classify", "keypoints", "export", "fine-tune", "compress", "efficiency", "profile", "search"),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "loud.pt"
    save_checkpoint(path, loud_detector().content())
    return path


@pytest.fixture
def experiment(squares, tmp_path):
    """An experiment file on the squares: one epoch of five steps."""
    tree = {
        "name": "tiny",
        "data": {"root": str(squares)},
        "input": {"slice_us": SLICE_US},
        "training": {"epochs": 1, "batch_size": 4, "steps": 2},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def error_line(result):
    """The only line on stderr of a command that failed as it should."""
    code, out, err = result
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("spiketrack: ")
    return line.removeprefix("spiketrack: ")


def evt2(*words, rest=b""):
    header = b"% evt 2.0\n% geometry 64x48\n% end\n"
    return header + np.array(words, "<u4").tobytes() + rest


def on(t_low, x, y):
    return 0x1 << 28 | t_low << 22 | x << 11 | y


def write_h5(path, t, y, height=720):
    n = len(t)
    with h5py.File(path, "w") as file:
        for name, column in {"x": np.arange(n, dtype="u2"), "y": np.array(y, "u2"), "p": np.ones(n, "i2")}.items():
            file[f"events/{name}"] = column
        file["events/t"] = np.array(t, "i8")
        file["events/width"], file["events/height"] = 1280, height


def test_all_commands_are_there():
    assert set(get_command(app).commands) == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_every_command(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    text = " ".join(out.split())
    described = get_command(app).commands[command]
    assert " ".join((described.help or "").split())[:50] in text
    for parameter in described.params:
        names = [name for name in parameter.opts if name.startswith("--")] or [parameter.name.upper()]
        assert names[0] in out or parameter.name in out
        assert parameter.name == "help" or parameter.help, f"{command} {parameter.name} is not explained"


def test_no_command_shows_the_help(run):
    _, out, err = run()
    assert all(command in out + err for command in COMMANDS)


def test_info_as_json(run, squares):
    path = squares / "HDF5" / "test" / "test_0_td.h5"
    code, out, err = run("info", path, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    with h5py.File(path) as file:
        t, p = file["events/t"][:], file["events/p"][:]
    assert found == {
        "format": "hdf5", "width": 64, "height": 64, "events": 1600, "t_first_us": t[0], "t_last_us": t[-1],
        "sum_t": t.sum(), "on": p.sum(), "off": 1600 - p.sum(), "invalid": {}, "repaired": {}, "first_invalid": {},
        "triggers": 0,
    }  # fmt: skip


def test_info_of_a_recording_without_events(run, tmp_path):
    write_sequence(tmp_path, "empty", Events.empty(64, 64), None)
    found = json.loads(run("info", "empty_td.h5", "--json")[1])
    assert (found["events"], found["t_first_us"], found["t_last_us"], found["sum_t"]) == (0, None, None, 0)
    assert run("info", "empty_td.h5")[0] == 0


def test_info_for_people(run, tmp_path):
    (tmp_path / "three.raw").write_bytes(evt2(0x8 << 28 | 2, on(0, 1, 2), on(1, 3, 4), on(63, 5, 47)))
    code, out, err = run("info", "three.raw")
    assert (code, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    # (2 << 6) | low: 128, 129 and 191 us
    expected = {"format": "evt2", "sensor": "64 x 48", "events": "3", "t_first_us": "128", "t_last_us": "191"}
    assert rows == {
        **expected, "sum_t": "448", "on": "3", "off": "0", "rate": "47,619 events/s", "triggers": "0",
        "duplicated": "0", "invalid": "0", "repaired": "0",
    }  # fmt: skip


BAD_FILES = {
    "empty.raw": (b"", "empty.raw: the file is empty"),
    "noise.raw": (bytes(range(1, 200)), "noise.raw: not a known recording"),
    "labels.npy": (b"\x93NUMPY\x01\x00", "labels.npy: not a whole .npy file"),
    "cut.h5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "cut.h5: "),
    "evt9.raw": (b"% evt 9.0\n% end\n" + bytes(8), "evt9.raw: this is RAW EVT9.0"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("command", ["info", "track"])
def test_a_file_that_is_no_recording(run, tmp_path, weights, command, name):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    options = ["--weights", weights] if command == "track" else []
    assert message in error_line(run(command, name, *options))
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize(
    ("command", "name", "message"),
    [
        ("info", "absent.raw", "cannot be opened"),
        ("track", "absent.raw", "cannot be opened"),
        ("info", "folder", "this is a folder"),
        ("track", "folder", "no recording"),
    ],
)
def test_a_path_that_is_no_file(run, tmp_path, weights, command, name, message):
    (tmp_path / "folder").mkdir()
    options = ["--weights", weights] if command == "track" else []
    assert error_line(run(command, name, *options)).startswith(f"{name}: {message}")


def test_a_cut_word_is_counted(run, tmp_path):
    (tmp_path / "cut.raw").write_bytes(evt2(0x8 << 28, on(5, 1, 2), rest=b"\x01\x02"))
    code, out, err = run("info", "cut.raw", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["events"], found["invalid"]) == (1, {"truncated_word": 1})


def test_events_off_the_sensor_and_back_in_time_are_counted(run, tmp_path):
    t = [100, 200, 190, 20_000_000, 300, 20_000_001]
    write_h5(tmp_path / "odd.h5", t, [1, 33_014, 3, 4, 5, 719])
    code, out, err = run("info", "odd.h5")
    assert (code, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["events"] == "4"
    assert rows["invalid"].startswith("2: ")
    assert "1 off_sensor (first at event 1" in rows["invalid"]
    assert "y 33014" in rows["invalid"]
    assert "1 time_backwards (first at decoded event 3: 300 us after 20000000 us)" in rows["invalid"]


def test_a_small_step_back_is_mended(run, tmp_path):
    write_h5(tmp_path / "jitter.h5", [100, 111, 100, 120], [1, 2, 3, 4])
    rows = dict(line.split(maxsplit=1) for line in run("info", "jitter.h5")[1].splitlines())
    assert (rows["events"], rows["invalid"], rows["repaired"]) == ("4", "0", "1: 1 reordered")


def test_models(run, monkeypatch):
    monkeypatch.setattr("spiketrack.detector.catalogue.catalogue", functools.cache(catalogue))
    code, out, err = run("models", "--json")
    assert (code, err) == (0, "")
    entries = json.loads(out)
    assert [entry["scale"] for entry in entries][:5] == ["p", "n", "s", "m", "l"]
    by_name = {entry["name"]: entry for entry in entries}
    assert by_name["SpikeYOLO-s"]["parameters"] == 23_153_024
    assert by_name["SpikeYOLO-p"]["parameters"] < 1_000_000
    code, out, _ = run("models")
    assert code == 0
    for name, entry in by_name.items():
        (line,) = [line for line in out.splitlines() if line.split()[0] == name]
        assert f"{entry['parameters']:,}" in line


def test_settings_are_an_experiment_file(run, tmp_path, squares):
    code, out, err = run("settings")
    assert (code, err) == (0, "")
    (tmp_path / "all.yaml").write_text(out.replace("REQUIRED", "here"))
    assert load_experiment(tmp_path / "all.yaml").name == "here"


QUICK = """
import sys
import spiketrack.cli
heavy = ("torch", "numba", "scipy", "matplotlib", "h5py", "av", "PIL")
print(*[name for name in heavy if name in sys.modules])
sys.argv = ["spiketrack", "info", sys.argv[1]]
try:
    spiketrack.cli.main()
finally:
    print(*[name for name in ("torch", "matplotlib", "av", "PIL") if name in sys.modules])
"""


def test_the_command_line_and_info_load_nothing_heavy(tmp_path):
    path = tmp_path / "one.raw"
    path.write_bytes(evt2(0x8 << 28, on(5, 1, 2)))
    result = subprocess.run(
        [sys.executable, "-c", QUICK, path], capture_output=True, text=True, check=True, timeout=120
    )
    at_import, *_, after_info = result.stdout.splitlines()
    assert (at_import, after_info) == ("", "")
    assert "evt2" in result.stdout


def test_a_process_ends_with_one_line_and_code_1(tmp_path):
    command = [sys.executable, "-m", "spiketrack.cli", "info", "absent.raw"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "spiketrack: absent.raw: cannot be opened: No such file or directory\n"


def test_a_mistake_of_ours_is_not_hidden(run, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("ours")

    monkeypatch.setattr("spiketrack.recordings.open_recording", broken)
    with pytest.raises(RuntimeError, match="ours"):
        run("info", "x.raw")


def test_an_interrupt_is_code_130(run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("spiketrack.recordings.open_recording", interrupted)
    code, out, err = run("info", "x.raw")
    assert (code, out) == (130, "")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", "out", "--train-scenes", "-1"], "--train-scenes: "),
        (["simulate", "out", "--seed", "-1"], "--seed: "),
        (["compose", "nmnist", "out", "--test-scenes", "-1"], "--test-scenes: "),
        (["compose", "nmnist", "out", "--train-objects", "9", "5"], "--train-objects: "),
    ],
)
def test_options_out_of_range_are_named(run, tmp_path, arguments, message):
    assert error_line(run(*arguments)).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_missing_data_are_named(run, tmp_path):
    code, _, err = run("compose", "nmnist", "out")
    assert code == 1
    assert err.splitlines()[-1].startswith("spiketrack: nmnist: no such folder; expected N-MNIST")
    (tmp_path / "file").write_text("")
    assert "file: cannot make this folder" in run("simulate", "file")[2]


def test_train_and_go_on(run, experiment, tmp_path):
    code, out, err = run("train", experiment)
    folder = tmp_path / "runs" / "tiny"
    assert code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["best.pt", "experiment.yaml", "history.json", "last.pt"]
    assert out.startswith("epoch 1: loss ")
    assert out.splitlines()[-1].startswith("runs/tiny/best.pt: best validation mAP ")
    total = load_checkpoint(folder / "last.pt")["run"]["place"][2]
    assert f"epoch 1/1  step {total}/{total}  loss " in err
    assert load_experiment(folder / "experiment.yaml") == load_experiment(experiment)

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "runs/tiny holds a run; continue it with --resume" in error_line(run("train", experiment))
    other = run("train", experiment, "--resume", "--set", "training.learning_rate=0.5")
    assert "last.pt: of a run with other settings (training.learning_rate)" in error_line(other)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert run("train", experiment, "--resume")[0] == 0
    assert (folder / "last.pt").read_bytes() == before["last.pt"]


def test_a_stopped_training_goes_on(run, experiment, tmp_path, monkeypatch):
    original = Trainer._step

    def step_and_stop(self, batch):
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch)

    monkeypatch.setattr(Trainer, "_step", step_and_stop)
    code, _, err = run("train", experiment, "--out", "here")
    assert code == 130
    assert err.splitlines()[-1].startswith("stopped at step 2 of ")
    assert not (tmp_path / "here" / "best.pt").exists()
    monkeypatch.setattr(Trainer, "_step", original)
    assert run("train", experiment, "--out", "here", "--resume")[0] == 0
    assert (tmp_path / "here" / "best.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "training.epoch=3"], "tiny.yaml: unknown key training.epoch; the nearest known is epochs"),
        (["--set", "data.root=absent"], "absent/classes.txt: no class list"),
        (["--set", "data.val_split=dev"], "no folder for split 'dev'"),
        (["--set", "input.height=16"], "the network's cells need 32 pixels a side"),
        (["--set", "input.width=100"], "an input of 100 x 64 pixels is larger than the sensor"),
        (["--set", "training.device=abacus"], "device 'abacus' cannot be used"),
        (["--resume"], "runs/tiny holds no run to resume"),
        (["--out", "tiny.yaml/run"], "tiny.yaml/run/experiment.yaml: cannot be written"),
    ],
)
def test_training_that_cannot_be(run, experiment, tmp_path, arguments, message):
    assert message in error_line(run("train", "tiny.yaml", *arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_evaluate(run, experiment, squares, weights, tmp_path):
    code, out, _ = run("evaluate", experiment, "--weights", weights, "--out", "scores")
    assert code == 0
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["sequences"] == ["test_0", "test_1"]
    assert metrics["detection"]["label_times"] == 16
    assert f"{metrics['detection']['map']:.3f}" in out
    assert f"{metrics['tracking']['class_average']['hota']:.3f}" in out
    assert metrics["facts"]["weights"] == str(weights)
    assert "scores/report.html" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "absent.pt"], "absent.pt: no such checkpoint"),
        (["--weights", "tiny.yaml"], "tiny.yaml: not a readable checkpoint"),
        (["--weights", "WEIGHTS", "--split", "dev"], "no folder for split 'dev'"),
        (["--weights", "WEIGHTS", "--set", "evaluation.protocol=gen1"], "tiny.yaml: evaluation.protocol"),
        (["--weights", "WEIGHTS", "--set", "training.device=abacus"], "device 'abacus' cannot be used"),
    ],
)
def test_evaluation_that_cannot_be(run, experiment, weights, arguments, message):
    arguments = [str(weights) if argument == "WEIGHTS" else argument for argument in arguments]
    code, out, err = run("evaluate", "tiny.yaml", *arguments)
    assert (code, out) == (1, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_weights_of_other_classes_are_refused(run, experiment, tmp_path):
    save_checkpoint(tmp_path / "digits.pt", loud_detector(("0", "1", "2")).content())
    code, _, err = run("evaluate", experiment, "--weights", "digits.pt")
    assert code == 1
    assert "digits.pt: trained on the classes 0, 1, 2; " in err


def test_track(run, squares, weights, tmp_path):
    recording = squares / "HDF5" / "test" / "test_0_td.h5"
    code, out, _ = run("track", recording, "--weights", weights, "--no-video")
    folder = tmp_path / "test_0_td.h5_tracks"
    assert code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "tracks.txt", "tracks_bbox.npy"]
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["steps"].startswith("8 over 0.160 s")
    assert rows["events"] == "1,600"
    assert rows["report"] == "test_0_td.h5_tracks/report.html"
    assert len(np.load(folder / "tracks_bbox.npy")) > 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "64"], "--size 64: expected WIDTHxHEIGHT"),
        (["--size", "0x64"], "an input of 0 x 64 pixels cannot be"),
        (["--size", "128x64"], "an input of 128 x 64 pixels is larger than the sensor"),
        (["--size", "64x16"], "test_0_td.h5: an input of 64 x 16 pixels is smaller than a cell"),
        (["--start-us", "50", "--end-us", "20"], "end_us must be after start_us"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--config", "absent.yaml"], "absent.yaml: not a readable YAML file"),
        (["--out", "in the way/out"], "cannot make this folder"),
    ],
)
def test_tracking_that_cannot_be(run, squares, weights, tmp_path, arguments, message):
    (tmp_path / "in the way").write_text("")
    recording = squares / "HDF5" / "test" / "test_0_td.h5"
    code, out, err = run("track", recording, "--weights", weights, *arguments)
    assert (code, out) == (1, "")
    assert message in err.splitlines()[-1]
    assert not list(tmp_path.glob("*_tracks/report.html"))


def test_tracking_settings_come_from_an_experiment(run, squares, weights, tmp_path):
    tree = {"name": "t", "data": {"root": "."}, "tracking": {"high_score": 1.0, "new_score": 1.0}}
    (tmp_path / "strict.yaml").write_text(yaml.safe_dump(tree))
    recording = squares / "HDF5" / "test" / "test_0_td.h5"
    options = ["--weights", weights, "--no-video", "--config", "strict.yaml"]
    code, out, _ = run("track", recording, *options)
    assert code == 0
    assert "160 detections, 0 tracks" in out
    assert (tmp_path / "test_0_td.h5_tracks" / "tracks.txt").read_text() == ""


def test_labels_the_list_does_not_know_stop_an_evaluation(run, experiment, weights, tmp_path, squares):
    root = tmp_path / "odd"
    events = Events.empty(64, 64)
    write_sequence(root / "HDF5" / "test", "odd", events, Boxes.of([5], [[1, 1, 9, 9]], 2, track_id=[1]))
    (root / "classes.txt").write_text("\n".join(CLASS_NAMES))
    code, _, err = run("evaluate", experiment, "--weights", weights, "--set", f"data.root={root}")
    assert code == 1
    assert "odd_bbox.npy: row 0 has class id 2" in err.splitlines()[-1]


def evt3_file(path):
    """500 events: a square of 10 x 10 pixels that fires five times, 100 us apart, and one lonely pixel."""
    y, x = (axis.ravel() for axis in np.mgrid[20:30, 20:30])
    t = np.repeat(np.arange(5) * 100 + 1_000_000, 101)
    columns = np.tile(np.append(x, 5), 5), np.tile(np.append(y, 5), 5)
    with create_recording(path, 64, 48) as writer:
        writer.append(Events.repaired(t, *columns, np.ones(len(t), np.uint8), 64, 48)[0])
    return path


def test_convert_cuts_and_changes_the_format(run, tmp_path):
    evt3_file(tmp_path / "a.raw")
    code, out, _ = run("convert", "a.raw", "b.h5", "--start", 1.0001, "--end", 1.0003, "--crop", "20,20,8,4")
    assert (code, out.splitlines()[0]) == (0, "b.h5: 64 events, 8 x 4, 1000100 .. 1000200 us")
    events = Events.concatenate(list(open_recording(tmp_path / "b.h5").chunks()))
    assert (events.width, events.height, len(events)) == (8, 4, 64)
    assert run("convert", "a.raw", "c.csv", "--downsample", 2)[0] == 0
    assert json.loads(run("info", "c.csv", "--json")[1])["width"] == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.raw", "b.xyz"], "b.xyz: the suffix '.xyz' is no format to write"),
        (["a.raw", "a.raw"], "a.raw: this is the recording to convert"),
        (["a.raw", "b.h5", "--crop", "1,2,3"], "--crop 1,2,3: expected X,Y,WIDTH,HEIGHT"),
        (["a.raw", "b.h5", "--crop", "60,0,10,10"], "crop"),
        (["a.raw", "b.h5", "--start", "2", "--end", "1"], "must come after"),
        (["a.raw", "b.h5", "--on-invalid", "ignore"], "on_invalid must be one of drop, keep, fail"),
        (["a.raw", "b.h5", "--threads", "0"], "threads must be 1 .. 64"),
    ],
)
def test_what_convert_refuses(run, tmp_path, arguments, message):
    evt3_file(tmp_path / "a.raw")
    assert message in error_line(run("convert", *arguments))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.raw"]


def test_filter_takes_out_what_nothing_supports_and_says_so(run, tmp_path):
    evt3_file(tmp_path / "a.raw")
    code, out, _ = run("filter", "a.raw", "b.raw", "--set", "background.dt_us=150")
    assert code == 0
    # a pixel of the square has neighbours, the lonely one has none; the very first event came before any other
    assert out.splitlines()[0].startswith("b.raw: 499 events")
    assert "background  6 taken out" in out
    assert "no filter is on" in error_line(run("filter", "a.raw", "c.raw"))
    assert "nearest known is background" in error_line(run("filter", "a.raw", "c.raw", "--set", "backgrund.dt_us=1"))


def test_invalid_events_are_said_by_every_command_that_reads(run, tmp_path, caplog):
    (tmp_path / "a.raw").write_bytes(evt2(0x8 << 28 | 2, on(0, 1, 2), on(1, 3, 4), on(2, 64, 5)))
    assert "invalid     1: 1 off_sensor (first at byte" in run("convert", "a.raw", "b.h5")[1]
    assert "1 x off_sensor dropped, first at byte" in caplog.text
    assert "invalid: off_sensor, first at byte" in error_line(run("info", "a.raw", "--on-invalid", "fail"))
