"""The guides' commands, as they are typed, on a tiny data set: what they write and what their lines say."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from moving_squares import CLASS_NAMES, write_squares

from spiketrack.boxes import Boxes
from spiketrack.cli import guide as doors
from spiketrack.cli import object_detection_door
from spiketrack.detector.checkpoint import load_checkpoint
from spiketrack.errors import TrainingError
from spiketrack.guide import running
from spiketrack.guide.logs import losses, poor_convergence, slow_training
from spiketrack.guide.running import train
from spiketrack.guide.weights import balanced_weights, count_labels
from spiketrack.training import Trainer

ROOT = Path(__file__).parents[2]
LINE = re.compile(
    r"^INFO: Epoch 1, Batch 1/1: Total Loss = (\S+), Box Loss = (\S+), Class Loss = (\S+), Obj Loss = (\S+), "
    r"Track Loss = (\S+)$",
    re.MULTILINE,
)
SAMPLE = re.compile(r"^DEBUG: Temporal matching: (\d+) events \[(-?\d+)-(\d+)us\] -> (\d+) annotations$", re.MULTILINE)


@pytest.fixture
def door(monkeypatch, capsys, tmp_path):
    """A function that runs a door with a command line in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(main, *arguments):
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return (1, out, f"{err}{code}\n") if isinstance(code, str) else (code, out, err)

    yield run
    assert not logging.getLogger("spiketrack").handlers  # a log file is closed with its run


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two recordings to train on, two to validate, two to test, with three label times each."""
    return write_squares(tmp_path_factory.mktemp("small"), train=2, val=2, test=2, slices=3)


def options_of(data, *more):
    return ("--config", ROOT / "config" / "config.yaml", "--data_root", data, *more)


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """The folder of a run with steps of 100 us, as the guides print the command, but for an epoch of one step."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["--slice_duration_us", "100", "--time_steps", "8", "--batch_size", "8", "--max_epochs", "1"]
        more = ["--log_level", "debug", "--set", "data_processing.max_samples_per_file=2"]
        doors.train([*map(str, options_of(small)), *arguments, *more])
    return folder


def test_training_at_high_frequency_writes_what_the_guides_name(trained):
    (log_file,) = (trained / "logs").glob("training_*.log")
    assert re.fullmatch(r"training_\d{8}_\d{6}", log_file.stem)
    lines = log_file.read_text()
    total, *terms = map(float, LINE.search(lines).groups())
    assert sum(terms) == pytest.approx(total, abs=3e-4)  # four decimals each
    read = [tuple(map(int, found)) for found in SAMPLE.findall(lines)]
    assert len(read) == 4
    assert all(end - start == 799 and annotations for _, start, end, annotations in read)
    assert max(annotations for *_, annotations in read) <= 3  # a buffer of 160 us: the step of the label, and two more
    assert "INFO: Files processed: 2, samples: 4" in lines
    assert re.search(r"INFO: Matching: \d+\.\d positive locations, \d+\.\d with a partner a step", lines)
    assert re.search(r"INFO: Learning rate updated to: \d", lines)
    assert re.search(r"WARNING: epoch 1: mAP50 is zero; ", lines)
    if not torch.cuda.is_available():
        assert lines.count("device cuda: no GPU here, running on the CPU") == 1
    folder = trained / "checkpoints"
    for name in ("final_comprehensive_model.pth", "best_model.pth"):
        content = load_checkpoint(folder / name)
        assert (content["model"]["family"], content["input"]["slice_us"]) == ("SpikeYOLOTracker", 100)
    (history,) = folder.glob("training_history_*.json")
    written = json.loads(history.read_text())
    assert (written["epochs"], written["batch_size"]) == (1, 8)
    assert len(written["train_losses"]) == 1


def test_evaluation_writes_metrics_tables_plots_and_a_log(trained, small, door):
    checkpoint = trained / "checkpoints" / "best_model.pth"
    flags = ("--device", "cpu", "--batch_size", "4", "--output_dir", "out")
    more = ("--set", "evaluation.confidence_threshold=0")
    code, out, err = door(doors.evaluate, *options_of(small), "--checkpoint_path", checkpoint, *flags, *more)
    assert code == 0, err
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert metrics["facts"]["weights"] == str(checkpoint)
    rows = [line.split(",") for line in Path("out/per_class.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["class", *CLASS_NAMES, "mean"]
    assert rows[0][1:6] == ["mAP", "AP50", "AP75", "precision", "recall"]
    found = [int(row[-1]) for row in rows[1:]]
    assert found[0] + found[1] == found[2] == metrics["detection"]["detections"] > 0
    assert Path("out/report.html").stat().st_size > 10_000
    pictures = sorted(path.name for path in Path("out/eval_vis").glob("*.png"))
    assert pictures == [f"vis_f00{i}_{t - 10_000}-{t}us.png" for i in range(2) for t in (20_000, 40_000, 60_000)]
    lines = Path("logs/evaluation_best_model.log").read_text()
    assert "INFO: Files processed: 2/2 (test_1)" in lines
    assert out.split("\n\nresults")[0] in lines


def test_training_with_steps_of_100_ms_and_what_else_a_run_can_be(small, door):
    settings = (
        "model.checkpoint_dir=run",
        "model.log_file_name=training.log",
        "logging.print_every=1",
        "pruning.enabled=true",
        "yolo_loss.use_class_weights=true",
        "training.checkpoint_frequency=1",
        "training.use_gradient_checkpointing=true",
    )
    flags = [part for text in settings for part in ("--set", text)]
    arguments = (*options_of(small), "--slice_duration_us", "100000", "--time_steps", "2", "--epochs", "2", *flags)
    code, _, err = door(doors.train, *arguments, "--device", "cpu")
    assert code == 0, err
    lines = Path("logs/training.log").read_text()
    assert "50000 events per second" not in lines
    assert "recordings with more than 50,000 events per second are thinned" in lines
    assert "class weights: small 1, large 1" in lines
    assert re.search(r"Pruning: 10\.0 % of the weights are zero after epoch 1", lines)
    weights = load_checkpoint(Path("run/final_comprehensive_model.pth"))["weights"]
    convolutions = [w for name, w in weights.items() if w.ndim == 4 and name.replace("weight", "bias") not in weights]
    zeros = sum(int((w == 0).sum()) for w in convolutions) / sum(w.numel() for w in convolutions)
    assert zeros == pytest.approx(0.1, abs=0.002)
    assert Path("run/checkpoint_epoch_1.pth").is_file()
    code, _, err = door(doors.train, *arguments)
    assert (code, "run holds a run; continue it with --resume" in err) == (1, True)
    code, _, err = door(doors.train, *arguments, "--device", "cpu", "--resume", "run/checkpoint_epoch_1.pth")
    assert code == 0, err
    again = load_checkpoint(Path("run/final_comprehensive_model.pth"))["weights"]
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


def test_less_memory_than_a_batch_needs_halves_it(small, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    sizes = []

    def run(self, on_step, on_epoch):
        sizes.append((self.settings.batch_size, self.settings.accumulate))
        if self.settings.batch_size > least:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return False

    monkeypatch.setattr(Trainer, "run", run)
    parser = doors._parser("x", "x")
    guide = doors.guide_of(parser.parse_args([*map(str, options_of(small, "--set", "training.batch_size=2"))]))
    guide = guide.model_copy(update={"training": guide.training.model_copy(update={"device": "cpu"})})
    least = 1
    assert train(guide) is False
    assert sizes == [(2, 1), (1, 2)]
    assert "out of memory with batches of 2: lower --batch_size" in caplog.text
    least = 0
    with pytest.raises(TrainingError, match=r"out of memory with batches of 1: .*use_gradient_checkpointing"):
        running.train(guide)


def test_class_weights_of_a_data_set(small, door):
    code, out, err = door(doors.class_weights, *options_of(small))
    assert code == 0, err
    assert [line.split() for line in out.splitlines()[1:3]] == [
        ["small", "3", "50.0%", "1.000"],
        ["large", "3", "50.0%", "1.000"],
    ]
    assert "class_weights: [1.0000, 1.0000]  # small, large" in out


def test_class_weights_by_hand():
    labels = [Boxes.of([1] * 9, [[0, 0, 1, 1]] * 9, [0] * 6 + [1] * 3)]
    counts = count_labels(labels, 3)
    assert counts.tolist() == [6, 3, 0]
    # 9 / (3 * 6) = 0.5, 9 / (3 * 3) = 1, and for the class without labels the largest, 1; their mean is 2.5 / 3
    assert balanced_weights(counts).tolist() == pytest.approx([0.6, 1.2, 1.2])
    assert count_labels(labels, 3, most=3).tolist() == [2, 1, 0]  # labels 0, 4 and 8


def test_mistakes_are_one_line(small, door):
    code, _, err = door(doors.train)
    assert (code, err) == (
        1,
        "comprehensive_training.py: config/config.yaml: no such file; run from the project's root, or name one with "
        "--config\n",
    )
    code, _, err = door(doors.train, *options_of(small, "--set", "training.epoch=1"))
    assert (code, "unknown key training.epoch; the nearest known is epochs" in err) == (1, True)
    code, _, err = door(doors.train, *options_of(small, "--resume"))
    assert (code, "holds no run to resume" in err) == (1, True)
    code, _, err = door(doors.evaluate, *options_of(small, "--checkpoint_path", "none.pth"))
    assert (code, "none.pth: no such checkpoint" in err) == (1, True)


def test_scripts_are_doors():
    names = ("training/comprehensive_training", "evaluation/targeted_model_evaluation", "utils/calculate_class_weights")
    for name in (*names, "object_detection"):
        answer = subprocess.run(
            [sys.executable, ROOT / "scripts" / f"{name}.py", "--help"], capture_output=True, text=True, check=True
        )
        assert answer.stdout.startswith(f"usage: {name.split('/')[-1]}.py"), name


def test_the_messages_of_the_table_of_troubles():
    assert slow_training(10, 4, 100, 1000, "cuda") is None
    assert "slow training: 60% of the time went into waiting for samples" in slow_training(10, 6, 100, 1000, "cuda")
    assert "0.10 s a step on the CPU, 2.8 h for the run" in slow_training(10, 1, 100, 100_000, "cpu")
    assert poor_convergence([3, 2, 2, 2, 2]) is None
    assert poor_convergence([3, 2, 2, 2, 2, 2.9]) is None
    assert "the mean loss is 3.100, 5 epochs ago it was 3.000" in poor_convergence([3, 2, 2, 2, 2, 3.1])


def test_terms_are_named_as_in_the_guides():
    terms = {"total": 10.0, "box": 1.0, "classes": 5.0, "dfl": 2.0, "track": 2.0, "background": 4.0}
    assert losses(terms) == (
        "Total Loss = 10.0000, Box Loss = 3.0000, Class Loss = 1.0000, Obj Loss = 4.0000, Track Loss = 2.0000"
    )
    assert losses({"total": 3.0, "box": 1.0, "classes": 2.0}) == (
        "Total Loss = 3.0000, Box Loss = 1.0000, Class Loss = 2.0000"
    )


def test_the_published_detection_command_trains_and_tests(small, door):
    main = object_detection_door.main
    arguments = ("-path", small, "-b", "2", "-sample_size", "20000", "-epochs", "1", "-device", "cpu", "-cfg")
    code, out, err = door(main, *arguments, "4,8,8,8s2,8,16s2,16,16s2", "-extras", "8,8,8", "-save_ckpt")
    assert code == 0, err
    weights = Path("ckpt-cont-od-gen1-vgg/best.pt")
    content = load_checkpoint(weights)
    assert content["input"]["representation"] == "binary_occupancy"
    assert (content["model"]["backbone"], content["model"]["extras"]) == ("4,8,8,8s2,8,16s2,16,16s2", (8, 8, 8))
    training = load_checkpoint(Path("ckpt-cont-od-gen1-vgg/last.pt"))["run"]["settings"]["training"]
    assert (training["state"], training["detach"], training["learning_rate"]) == ("carried", "label", 5e-3)
    code, out, err = door(main, "-path", small, "-pretrained", weights, "-no_train", "-test", "-device", "cpu")
    assert code == 0, err
    assert "protocol cordone" in out
    assert Path("ckpt-cont-od-gen1-vgg/detection_test/metrics.json").is_file()


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (("-T", "5"), "-T cannot be here: a window is one time step"),
        (("-no_bn",), "-no_bn cannot be here"),
        (("-precision", "64"), "-precision cannot be here: expected 16, bf16, 32"),
        (("-dsod",), "never uses it"),
        (("-num_classes", "3"), "-num_classes 3: the data set has 2: small, large"),
        (("-extras", "8,x"), "-extras 8,x: expected whole numbers"),
        (("-pretrained", "w.pt"), "-pretrained goes with -no_train -test"),
        (("-backbone", "rescat", "-cfg", "4,x"), "cfg '4,x': expected five numbers"),
    ],
)
def test_the_published_detection_command_refuses(option, reason, small, door):
    code, _, err = door(object_detection_door.main, "-path", small, "-device", "cpu", *option)
    assert (code, reason in err) == (1, True), err
