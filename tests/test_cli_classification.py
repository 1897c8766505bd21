"""Classification at the command line: train, stop, go on, evaluate, the report, and one line for every mistake."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_cars import write_cars

DOOR = Path(__file__).parents[1] / "scripts" / "classification.py"
TINY = "8,16s2,16s2,32s2"


@pytest.fixture(scope="module")
def cars(tmp_path_factory):
    return write_cars(tmp_path_factory.mktemp("cars"))


@pytest.fixture
def config(cars, tmp_path):
    tree = {
        "name": "tiny",
        "data": {"root": str(cars), "validation": 0.3},
        "input": {"steps": 2, "height": 32, "width": 32, "fit": "events"},
        "model": {"backbone": TINY},
        "training": {"epochs": 2, "batch_size": 4, "validate_every": 1, "ema": 0.5},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def error_line(result):
    code, out, err = result
    assert (code, out) == (1, "")
    line = err.splitlines()[-1]
    assert line.startswith("spiketrack: ")
    return line


def test_train_and_evaluate(run, config, cars, tmp_path):
    code, out, err = run("classify", "train", config, "--set", "training.reset=sample")
    assert code == 0, err
    run_dir = tmp_path / "runs" / "tiny"
    assert out.count("validation accuracy") == 3  # of each epoch, and the best
    assert yaml.safe_load((run_dir / "experiment.yaml").read_text())["training"]["reset"] == "sample"
    code, out, err = run("classify", "evaluate", config)
    assert code == 0, err
    values = json.loads((run_dir / "classification_test" / "metrics.json").read_text())
    counts = values["confusion"]["counts"]
    assert [sum(row) for row in counts] == [4, 4]
    assert values["accuracy"] == (counts[0][0] + counts[1][1]) / 8
    assert f"accuracy {values['accuracy']:.3f}" in out
    assert values["per_class"]["cars"]["area_under_roc"] == values["area_under_roc"]
    assert values["per_class"]["cars"]["roc"][-1] == [1.0, 1.0]
    assert values["facts"]["membranes"] == "start at rest with every sample"
    page = (run_dir / "classification_test" / "report.html").read_text()
    for part in ("<h2>Classes", "Confusion matrix", "ROC curves", "<h2>Training", "Accuracy over epochs", TINY):
        assert part in page
    assert "nan" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_held_out_samples_can_be_evaluated(run, config):
    run("classify", "train", config)
    code, out, _ = run("classify", "evaluate", config, "--split", "validation")
    assert code == 0
    assert "on 4 samples" in out  # two of six of each class
    assert "--split val: expected test, train or validation" in error_line(
        run("classify", "evaluate", config, "--split", "val")
    )


def test_a_run_is_not_overwritten_and_resumes_after_an_interrupt(config, tmp_path):
    def classify(*arguments, interrupt=False):
        command = [sys.executable, "-m", "spiketrack.cli", "classify", "train", str(config), *arguments]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if interrupt:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("epoch 1:")
            os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    many = ("--set", "training.epochs=400")
    code, _, err = classify(*many, interrupt=True)
    assert (code, "continue with --resume" in err) == (130, True)
    code, _, err = classify(*many)
    assert (code, "holds a run; continue it with --resume" in err) == (1, True)
    code, _, err = classify("--resume")
    assert (code, "other settings (training)" in err) == (1, True)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["training.epoch=3"], "the nearest known is epochs"),
        (["data.root=/nowhere"], "/nowhere: cannot be read"),
        (["model.backbone=vgg-11"], "by name there are"),
        (["input.height=16"], "input.height"),
        (["data.validation=0.95"], "cannot be shared"),
        (["training.device=cuda:7"], "cannot be used"),
    ],
)
def test_mistakes_are_one_line(run, config, overrides, says):
    arguments = [part for override in overrides for part in ("--set", override)]
    assert says in error_line(run("classify", "train", config, *arguments))


def test_missing_things_are_named(run, config, tmp_path):
    assert "no such checkpoint" in error_line(run("classify", "evaluate", config))
    assert "holds no run to resume" in error_line(run("classify", "train", config, "--resume"))


def test_a_broken_sample_is_named(run, config, tmp_path):
    root = write_cars(tmp_path / "own", train=2, test=1)
    (root / "n-cars_train" / "cars" / "obj_000000_td.dat").write_bytes(b"")
    code, _, err = run("classify", "train", config, "--set", f"data.root={root}", "--set", "data.validation=0")
    assert code == 1
    assert "obj_000000_td.dat: the file is empty" in err.splitlines()[-1]


def test_settings_are_listed(run):
    code, out, _ = run("classify", "settings")
    assert code == 0
    assert "reset: never  # membranes start at rest" in out
    assert "learn_tau: true" in out


def door(tmp_path, *arguments):
    command = [sys.executable, str(DOOR), *map(str, arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_published_command(cars, tmp_path, capsys):
    common = ["-dataset", "ncars", "-path", cars, "-model", TINY, "-T", 2, "-tbin", 1, "-image_shape", 32, 32]
    code, out, err = door(tmp_path, *common, "-device", "cpu", "-b", 4, "-epochs", 1, "-test", "-save_ckpt")
    assert code == 0, err
    assert "on 8 samples" in out
    (weights,) = tmp_path.glob("runs/*/best.pt")
    tree = yaml.safe_load(weights.with_name("experiment.yaml").read_text())
    assert (tree["input"]["bins"], tree["input"]["duration_us"], tree["input"]["fit"]) == (1, 100_000, "events")
    assert (tree["training"]["learning_rate"], tree["training"]["batch_size"]) == (5e-3, 4)
    from spiketrack.cli.classification_door import main

    capsys.readouterr()
    main([*map(str, common), "-device", "cpu", "-no_train", "-test", "-pretrained", str(weights)])
    assert capsys.readouterr().out.splitlines()[-4] == out.splitlines()[-4]  # the same accuracy


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-no_bn"], "no form without batch norm"),
        (["-precision", "64"], "expected 16"),
        (["-model", "vgg-11"], "by name there are"),
        (["-pretrained", "a.pt"], "goes with -no_train -test"),
        (["-path", "nowhere"], "nowhere: cannot be read"),
    ],
)
def test_what_the_door_refuses(monkeypatch, capsys, cars, tmp_path, options, says):
    from spiketrack.cli.classification_door import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["-path", str(cars), "-device", "cpu", *options])
    assert says in str(end.value)


def test_the_boxes_of_gen1_by_the_door(monkeypatch, capsys, tmp_path):
    import numpy as np
    from tiny_cars import bar, dat_bytes

    from spiketrack.cli.classification_door import main
    from spiketrack.recordings import LABEL_DTYPE

    for split in ("train", "val", "test"):
        folder = tmp_path / "gen1" / split
        folder.mkdir(parents=True)
        (folder / "one_td.dat").write_bytes(dat_bytes(*bar(1, 0)))  # no size in the header: GEN1's
        rows = [(100_000, 5 * i, 0, 100, 100, i % 2, i, 1.0) for i in range(8)]
        np.save(folder / "one_bbox.npy", np.array(rows, LABEL_DTYPE))
    monkeypatch.chdir(tmp_path)
    options = {"-dataset": "gen1", "-path": "gen1", "-T": 2, "-tbin": 1, "-device": "cpu", "-b": 4, "-epochs": 1}
    options |= {"-model": TINY, "-undersample_cars_percent": 0.5}
    main([*(str(part) for option in options.items() for part in option), "-image_shape", "32", "32", "-test"])
    assert "on 8 samples" in capsys.readouterr().out
    (metrics,) = tmp_path.glob("runs/*/classification_test/metrics.json")
    assert list(json.loads(metrics.read_text())["per_class"]) == ["car", "pedestrian"]
    tree = yaml.safe_load((metrics.parents[1] / "experiment.yaml").read_text())
    assert tree["data"]["keep"] == {"car": 0.5}
