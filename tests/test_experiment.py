import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from moving_squares import CLASS_NAMES, SLICE_US, square_sequence, write_sequence
from pydantic import BaseModel

from spiketrack.classification import load_classification
from spiketrack.detector.checkpoint import save_checkpoint
from spiketrack.detector.families import FAMILIES
from spiketrack.detector.spikeyolo import ModelSettings
from spiketrack.errors import CheckpointError, SettingsError
from spiketrack.events import Events
from spiketrack.experiment import EXPERIMENTS as EXPERIMENT_CLASSES
from spiketrack.experiment import (
    Experiment,
    SSDExperiment,
    dump_experiment,
    evaluate_split,
    experiment_class,
    load_experiment,
    trainer_of,
)
from spiketrack.history import read_history
from spiketrack.keypoints import load_keypoints
from spiketrack.pipeline import Detector
from spiketrack.settings import describe_settings

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    """A function that writes an experiment file from a tree or text and returns its path."""

    def write(content):
        path = tmp_path / "experiment.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


def tree(**sections):
    return {"name": "tiny", "data": {"root": "data"}, **sections}


def leaves(model, prefix=""):
    """(dotted key, field) of every setting that is no section."""
    for key, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", field


def test_sections_reach_their_settings(write):
    experiment = load_experiment(
        write(tree(seed=7, input={"bins": 3}, training={"loss": {"topk": 4}, "learning_rate": "1e-3"}))
    )
    assert (experiment.name, experiment.seed, experiment.data.root) == ("tiny", 7, Path("data"))
    assert experiment.input.bins == 3
    assert experiment.training.loss.topk == 4
    assert experiment.training.learning_rate == 0.001  # YAML takes 1e-3 for a string
    assert experiment.tracking.high_score == 0.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trainning": {}}, r"unknown key trainning; the nearest known is training \(known here: name, seed, data, "),
        ({"training": {"epoch": 3}}, r"unknown key training.epoch; the nearest known is epochs"),
        ({"training": {"loss": {"boxgain": 1}}}, r"unknown key training.loss.boxgain; the nearest known is box_gain"),
        ({"data": {"root": "d", "augment": {"flips": 1}}}, r"data.augment.flips; the nearest known is flip"),
        ({"model": {"neuron": {"xyz": 1}}}, r"unknown key model.neuron.xyz; the nearest known is "),
        ({"training": {"epochs": "many"}}, r"training.epochs: .*integer.*, got 'many'"),
        ({"training": {"epochs": 0}}, r"training.epochs: .*greater than or equal to 1, got 0"),
        ({"training": {"optimizer": "adam"}}, r"training.optimizer: .*'adamw' or 'sgd', got 'adam'"),
        ({"training": None}, r"training: .*TrainingSettings, got None"),
        ({"data": {"root": "d", "augment": {"crop": [64, "x"]}}}, r"data.augment.crop.1: .* got 'x'"),
        ({"name": "../up"}, r"name: .*pattern.*, got '../up'"),
        ({"data": {}}, r"key data.root is missing"),
        ({"input": {"slice_us": 50, "window_us": 20}}, r"input: .*window_us \(20\) must be at least slice_us \(50\)"),
        ({"evaluation": {"protocol": "gen1"}}, r"evaluation.protocol.*prophesee-gen1"),
        ({"tracking": {"low_score": 0.9}}, r"tracking: .*low_score 0.9 must not exceed high_score"),
    ],
)
def test_what_is_wrong_is_named(write, changed, message):
    path = write(tree(**changed))
    with pytest.raises(SettingsError, match=message) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_all_faults_are_named_at_once(write):
    with pytest.raises(SettingsError, match=r"key name is missing; training.ema: .*; unknown key sed; "):
        load_experiment(write({"data": {"root": "d"}, "training": {"ema": 2}, "sed": 1}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "expected keys such as `name:` and `seed:`, got list"),
        ("", "got NoneType"),
        ("name: [", "not a readable YAML file"),
        ("name: !!python/object/apply:os.system ['true']", "not a readable YAML file"),
    ],
)
def test_files_that_are_no_experiment(write, text, message):
    path = write(text)
    with pytest.raises(SettingsError, match=message) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(SettingsError, match=r"absent\.yaml: not a readable YAML file"):
        load_experiment(tmp_path / "absent.yaml")
    with pytest.raises(SettingsError, match="not a readable YAML file"):
        load_experiment(tmp_path)


def test_overrides(write):
    path = write(tree(training={"epochs": 2}))
    overrides = ["training.epochs=5", "input.width=320", "data.root=other place", "training.loss.class_loss=focal"]
    experiment = load_experiment(path, [*overrides, "input.width=null", "data.augment.crop=[64, 32]", "seed=3"])
    assert experiment.training.epochs == 5
    assert experiment.input.width is None
    assert experiment.data.root == Path("other place")
    assert experiment.training.loss.class_loss == "focal"
    assert experiment.data.augment.crop == (64, 32)
    assert experiment.seed == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", r"--set training.epochs: expected section.key=value"),
        ("=3", r"--set =3: expected section.key=value"),
        ("seed.x=3", r"--set seed.x=3: seed is a value, not a section"),
        ("training.epochs=[", r"--set training.epochs=\[: the value is not YAML"),
        ("training.epoch=3", r"unknown key training.epoch; the nearest known is epochs"),
        (".epochs=3", r"unknown key "),
    ],
)
def test_wrong_overrides_are_named(write, override, message):
    with pytest.raises(SettingsError, match=message):
        load_experiment(write(tree(seed=1)), [override])


def test_a_wrong_override_is_one_line(write):
    with pytest.raises(SettingsError) as caught:
        load_experiment(write(tree()), ["seed=[1,"])
    assert "\n" not in str(caught.value)


def test_dump_and_load_round_trip(write):
    experiment = load_experiment(
        write(
            tree(
                seed=4,
                data={"root": "some/where", "augment": {"crop": [64, 48], "zoom": 0.3}},
                input={"representation": "signed_difference", "window_us": 99_999},
                training={"optimizer": "sgd", "loss": {"class_loss": "focal"}},
                evaluation={"protocol": "prophesee-gen1"},
            )
        )
    )
    text = dump_experiment(experiment)
    assert load_experiment(write(text)) == experiment
    # every default is spelled out
    dumped = yaml.safe_load(text)
    for key, _ in leaves(Experiment):
        place = dumped
        for part in key.split("."):
            assert part in place, key
            place = place[part]


def test_every_setting_is_described():
    """The description is itself YAML: its keys are the tree, its values the defaults."""
    text = describe_settings(Experiment)
    described = yaml.safe_load(text)
    default = Experiment.model_validate({"name": "REQUIRED", "data": {"root": "REQUIRED"}}).model_dump(mode="json")
    keys = list(leaves(Experiment))
    assert len(keys) > 50
    for key, field in keys:
        place, expected = described, default
        for part in key.split("."):
            place, expected = place[part], expected[part]
        assert place == expected, key
        assert field.description, f"{key} has no description"
        (line,) = [
            line
            for line in text.splitlines()
            if line.strip().startswith(f"{key.split('.')[-1]}:") and field.description in line
        ]
        assert line.endswith(f"  # {field.description}")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_every_experiment_file_loads(path):
    others = {"nmnist_classify": load_classification, "keypoints": load_keypoints}
    experiment = others.get(path.stem, load_experiment)(path)
    assert experiment.name == path.stem


def test_there_are_experiment_files():
    assert {"demo.yaml", "nmnist.yaml", "traffic.yaml"} <= {path.name for path in EXPERIMENTS}


def test_the_traffic_experiment_trains_and_evaluates_on_sensors_of_two_sizes(tmp_path):
    """The recipe of the shipped network at a tenth of its scale; half of the sensors have twice the pixels a side."""
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for i in range(count):
            events, labels = square_sequence(i, i % 2, 4)
            if i % 2:
                columns = (events.t, 2 * events.x + 1, 2 * events.y, events.p)
                events, labels = Events(*columns, 144, 128), replace(labels, xyxy=2 * labels.xyxy)
            write_sequence(tmp_path / "data" / split, f"{split}_{i}", events, labels)
    (tmp_path / "data" / "classes.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    (path,) = [path for path in EXPERIMENTS if path.name == "traffic.yaml"]
    experiment = load_experiment(
        path,
        [
            f"data.root={tmp_path / 'data'}",
            "data.augment.crop=[48, 40]",
            "input.shortest_side=64",
            "input.least_side=60",
            "training.epochs=1",
            "training.batch_size=4",
            f"input.slice_us={SLICE_US}",
        ],
    )
    trainer, losses = trainer_of(experiment, tmp_path / "run"), []
    assert {trainer.detector.input.size(s.height, s.width) for s in trainer.samples.sequences} == {(64, 64), (64, 72)}
    assert trainer.run(lambda progress: losses.append(progress.loss))
    assert len(losses) == trainer.total_steps >= 2
    assert all(map(math.isfinite, losses))
    result = evaluate_split(experiment, tmp_path / "run" / "last.pt", "test")
    assert [(r.sequence.name, r.sequence.width) for r in result.sequences] == [("test_0", 64), ("test_1", 144)]
    assert result.detection.label_times == 8


def test_each_family_has_an_experiment_with_its_own_settings():
    assert set(EXPERIMENT_CLASSES) == set(FAMILIES)
    for name, family in FAMILIES.items():
        experiment = experiment_class({"model": {"family": name}}).model_validate(tree(model={"family": name}))
        settings = (experiment.model, experiment.decoding, experiment.training.loss)
        assert tuple(map(type, settings)) == (family.model, family.decoding, family.loss)
        assert experiment.model.family == name
        described = yaml.safe_load(describe_settings(type(experiment)))
        assert described["model"] == experiment.model.model_dump(mode="json")
        assert described["training"]["loss"] == experiment.training.loss.model_dump(mode="json")


def test_a_file_without_a_family_is_of_spikeyolo(write):
    assert load_experiment(write(tree(model={"scale": "n"}))).model == ModelSettings(scale="n")
    assert type(load_experiment(write(tree(model={"family": "SSD"})))) is SSDExperiment


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"family": "YOLO"}, r"model.family: 'YOLO' is not known; there are SpikeYOLO, SpikeYOLOTracker, SSD"),
        ({"family": "SSD", "scale": "p"}, r"unknown key model.scale; the nearest known is .*backbone"),
        ({"backbone": "32-ST-VGG"}, r"unknown key model.backbone; .*known here: family, scale, neuron"),
    ],
)
def test_keys_of_another_family_are_named(write, model, message):
    with pytest.raises(SettingsError, match=message):
        load_experiment(write(tree(model=model)))


@pytest.fixture(scope="module")
def trained_ssd(squares, tmp_path_factory):
    """The recipe of experiments/nmnist_ssd.yaml at a hundredth of its size: (experiment, folder of the run, losses)."""
    (path,) = [path for path in EXPERIMENTS if path.name == "nmnist_ssd.yaml"]
    overrides = [
        f"data.root={squares}",
        f"input.slice_us={SLICE_US}",
        "model.backbone=4,8,8s2,8s2,8s2",
        "model.extras=[8, 8, 8]",
        "training.epochs=10",
        "training.batch_size=2",
        "training.precision=float32",
        "training.validate_every=10",
        "evaluation.warm_up_steps=1",
    ]
    experiment, folder, losses = load_experiment(path, overrides), tmp_path_factory.mktemp("ssd"), []
    assert trainer_of(experiment, folder).run(lambda progress: losses.append(progress.loss))
    (folder / "tiny_ssd.yaml").write_text(dump_experiment(experiment))
    return experiment, folder, losses


def test_an_ssd_trains_without_reset(trained_ssd):
    experiment, folder, losses = trained_ssd
    assert (type(experiment), experiment.training.state) == (SSDExperiment, "carried")
    assert sum(losses[-8:]) < 0.5 * sum(losses[:8])
    record = read_history(folder / "history.json")[-1]
    assert record.loss == pytest.approx(record.box + record.classes, rel=1e-5)
    assert record.dfl is None
    detector = Detector.load(folder / "last.pt")
    assert (detector.name, detector.model.settings) == ("4,8,8s2,8s2,8s2+SSD", experiment.model)
    assert not detector.model.training


def test_evaluation_of_an_ssd_with_and_without_its_memory(trained_ssd, run):
    """The command says which of the two it was, and they differ."""
    experiment, folder, _ = trained_ssd
    found = {}
    for name, options in {
        "carried": [],
        "reset every 2 steps": ["--reset-per-sample"],
        "reset every 3 steps": ["--set", "evaluation.reset_every=3"],
    }.items():
        where = ["--weights", folder / "last.pt", "--out", folder / name]
        code, _, err = run("evaluate", folder / "tiny_ssd.yaml", *where, *options)
        assert code == 0, err
        metrics = json.loads((folder / name / "metrics.json").read_text())
        assert metrics["facts"]["state"] == name
        found[name] = metrics
    assert experiment.training.steps == 2
    scores = [str(metrics["detection"]) for metrics in found.values()]
    assert len(set(scores)) == 3


def tiny(squares, **training):
    return Experiment.model_validate(
        {
            "name": "squares",
            "data": {"root": squares},
            "input": {"slice_us": SLICE_US},
            "training": {"epochs": 2, "batch_size": 2, "steps": 3, **training},
            "evaluation": {"warm_up_steps": 1},
        }
    )


def test_a_trainer_follows_the_experiment(squares, tmp_path):
    experiment = tiny(squares, optimizer="sgd")
    trainer = trainer_of(experiment, tmp_path / "run")
    assert trainer.settings == experiment.training
    assert trainer.detector.class_names == CLASS_NAMES
    assert [s.name for s in trainer.samples.sequences] == ["train_0", "train_1", "train_2", "train_3"]
    assert [s.name for s in trainer.validation] == ["val_0", "val_1"]
    assert (trainer.samples.steps, trainer.samples.batch_size, trainer.samples.seed) == (3, 2, 0)
    assert not (tmp_path / "run").exists()
    torch.manual_seed(99)
    again = trainer_of(experiment, tmp_path / "run")
    other = trainer_of(experiment.model_copy(update={"seed": 1}), tmp_path / "run")
    weight, same, different = (t.model.stem.conv.weight for t in (trainer, again, other))
    assert torch.equal(weight, same)
    assert not torch.equal(weight, different)


def test_a_split_without_data_is_named(squares, tmp_path):
    experiment = tiny(squares)
    data = experiment.data.model_copy(update={"val_split": "dev"})
    with pytest.raises(SettingsError, match=r"no folder for split 'dev'; there are \['test', 'train', 'val'\]"):
        trainer_of(experiment.model_copy(update={"data": data}), tmp_path)


def test_evaluate_split(squares, tmp_path):
    experiment = tiny(squares)
    weights = tmp_path / "w.pt"
    content = trainer_of(experiment, tmp_path).averaged().content()
    save_checkpoint(weights, content)
    result = evaluate_split(experiment, weights, "test")
    assert [r.sequence.name for r in result.sequences] == ["test_0", "test_1"]
    assert result.detection.label_times == 16
    save_checkpoint(weights, {**content, "class_names": ["cat", "dog"]})
    with pytest.raises(SettingsError, match=r"w\.pt: trained on the classes cat, dog; .* has small, large"):
        evaluate_split(experiment, weights, "test")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        evaluate_split(experiment, tmp_path / "absent.pt", "test")
