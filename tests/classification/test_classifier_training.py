"""Training a classifier: what a step computes, with and without reset; stopping and going on do not change a run."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_cars import write_cars

from spiketrack.classification import (
    ClassificationExperiment,
    Classifier,
    classifier_trainer,
    classify,
    classify_split,
    read_classifier_history,
)
from spiketrack.classification.classifier import continued
from spiketrack.datasets.classified import SampleEvents
from spiketrack.datasets.splits import find_classified
from spiketrack.detector.checkpoint import load_checkpoint, save_checkpoint
from spiketrack.errors import CheckpointError, SettingsError, TrainingError
from spiketrack.spiking import LIF

TINY = "8,16s2,16s2,32s2"


@pytest.fixture(scope="module")
def cars(tmp_path_factory):
    return write_cars(tmp_path_factory.mktemp("cars"))


@pytest.fixture(scope="module")
def learnt(cars, tmp_path_factory):
    """A classifier of the bars, and the test samples."""
    run_dir = tmp_path_factory.mktemp("learnt")
    experiment = experiment_on(cars, reset="sample", epochs=25, batch_size=4, learning_rate=0.01)
    losses_of(classifier_trainer(experiment, run_dir))
    return Classifier.load(run_dir / "last.pt"), find_classified(cars, "test")[0]


def experiment_on(root, seed=0, validation=0.0, **training):
    settings = {"epochs": 2, "batch_size": 5, "precision": "float32", "ema": 0.5, **training}
    return ClassificationExperiment.model_validate(
        {
            "name": "tiny",
            "seed": seed,
            "data": {"root": root, "validation": validation, "augment": {"shift": 0.05, "drop": 0.2}},
            "input": {"steps": 2, "height": 32, "width": 32},
            "model": {"backbone": TINY},
            "training": settings,
        }
    )


def losses_of(trainer):
    losses = []
    assert trainer.run(lambda progress: losses.append(progress.loss))
    return losses


def weights_of(trainer):
    return trainer.classifier.content()["weights"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_first_loss_is_that_of_the_summed_logits(cars, tmp_path):
    """Twelve samples in batches of 5, 5 and 2: by hand, without the trainer."""
    trainer = classifier_trainer(experiment_on(cars, label_smoothing=0.2, epochs=1), tmp_path)
    batch = next(trainer.batches.epoch(0))
    trainer.model.train()
    with torch.no_grad():
        logits, _ = trainer.model(batch.events.float(), None)  # (T, B, K)
        summed = logits[0] + logits[1]
        target = 0.8 * F.one_hot(batch.class_ids, 2) + 0.1
        expected = -(target * torch.log_softmax(summed, 1)).sum(1).mean()
    again = classifier_trainer(experiment_on(cars, label_smoothing=0.2, epochs=1), tmp_path)
    losses = losses_of(again)
    assert len(losses) == 3
    assert losses[0] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("reset", ["never", "sample"])
def test_membranes_go_on_within_an_epoch_or_start_anew(cars, tmp_path, monkeypatch, reset):
    trainer = classifier_trainer(experiment_on(cars, reset=reset), tmp_path)
    given = []
    forward = trainer.model.forward

    def spy(x, state=None):
        given.append(state)
        out, left = forward(x, state)
        spy.left.append(left)
        return out, left

    spy.left = []
    monkeypatch.setattr(trainer.model, "forward", spy)
    losses_of(trainer)
    assert len(given) == 6  # two epochs of 5, 5 and 2 samples
    if reset == "sample":
        assert given == [None] * 6
        return
    assert [state is None for state in given] == [True, False, False] * 2
    for before, after in zip(spy.left[:2], given[1:3], strict=True):
        for left, got in zip(before, after, strict=True):
            assert torch.equal(left.detach()[: len(got[:])], got)
            assert not got.requires_grad  # truncated: no gradient into the sample before
    assert [len(state[0]) for state in (given[1], given[2])] == [5, 2]  # streams of the last batch: the first two


def test_continued_cuts_streams_and_gradient():
    membrane = torch.ones(3, 2, requires_grad=True) * 2
    (cut,) = continued((membrane,), 2)
    assert (cut.tolist(), cut.requires_grad) == ([[2, 2], [2, 2]], False)
    assert continued(None, 2) is None


@pytest.mark.parametrize("reset", ["never", "sample"])
def test_a_stopped_run_goes_on_to_the_same_weights(cars, tmp_path, reset):
    settings = {"validation": 0.3, "reset": reset, "validate_every": 1}
    whole = classifier_trainer(experiment_on(cars, **settings), tmp_path / "whole")
    losses = losses_of(whole)
    stopped = classifier_trainer(experiment_on(cars, **settings), tmp_path / "stopped")
    first = []

    def interrupt(progress):
        first.append(progress.loss)
        if progress.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    assert not stopped.run(interrupt)
    assert stopped.step == 3  # of two a epoch: within the second
    resumed = classifier_trainer(experiment_on(cars, **settings), tmp_path / "stopped")
    resumed.resume()
    assert first + losses_of(resumed) == losses
    assert equal(weights_of(resumed), weights_of(whole))
    assert equal(resumed.averaged().content()["weights"], whole.averaged().content()["weights"])
    assert resumed.history == whole.history == read_classifier_history(tmp_path / "stopped" / "history.json")


def test_seeds_differ_and_repeat(cars, tmp_path):
    runs = [
        losses_of(classifier_trainer(experiment_on(cars, seed), tmp_path / str(i))) for i, seed in enumerate((1, 1, 2))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_resume_refuses_other_settings(cars, tmp_path):
    losses_of(classifier_trainer(experiment_on(cars), tmp_path))
    with pytest.raises(CheckpointError, match=r"other settings \(training\)"):
        classifier_trainer(experiment_on(cars, learning_rate=1e-3), tmp_path).resume()
    with pytest.raises(CheckpointError, match=r"other settings \(seed\)"):
        classifier_trainer(experiment_on(cars, seed=1), tmp_path).resume()
    save_checkpoint(tmp_path / "last.pt", Classifier.load(tmp_path / "last.pt").content())
    with pytest.raises(CheckpointError, match="no training run to resume"):
        classifier_trainer(experiment_on(cars), tmp_path).resume()


def test_learns_the_bars(learnt):
    classifier, found = learnt
    answers = classify(classifier, found, SampleEvents(1), 4)
    assert answers.accuracy >= 7 / 8  # of 8 bars that it never saw
    assert answers.loss < 0.4  # chance: 0.69


def test_a_loss_that_is_no_number_names_the_samples(cars, tmp_path):
    trainer = classifier_trainer(experiment_on(cars), tmp_path)
    with torch.no_grad():
        trainer.model.classifier.conv.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"the loss is nan at epoch 1, step 1 \(samples: .*_td\.dat"):
        trainer.run()


def test_answers_do_not_depend_on_the_batch_unless_membranes_go_on(learnt):
    classifier, found = learnt
    for carry in (False, True):
        kind = replace(classifier, carry=carry)
        one, five = (classify(kind, found, SampleEvents(1), size).probabilities for size in (1, 5))
        assert np.allclose(one, five, atol=1e-5) is not carry
        assert five.sum(1) == pytest.approx(np.ones(len(found)))


def test_answers_are_those_of_the_network_sample_by_sample(learnt):
    classifier, found = learnt
    events, spikes = SampleEvents(1), []
    hooks = [
        layer.register_forward_hook(lambda module, args, out: spikes.append(out.flatten()))
        for layer in classifier.model.modules()
        if isinstance(layer, LIF)
    ]
    for i, sample in enumerate(found):
        x = torch.from_numpy(classifier.input.encode(events.read(sample, 100_000)))[:, None].float()
        with torch.inference_mode():
            logits = classifier.model(x, None)[0]  # (T, 1, K)
        chances = torch.softmax(logits[0, 0] + logits[1, 0], 0).numpy()
        if i == 0:
            answers = classify(classifier, found, events, 3)
            del spikes[len(hooks) :]
        assert answers.probabilities[i] == pytest.approx(chances, abs=1e-5)
        assert answers.class_ids[i] == sample.class_id
    for hook in hooks:
        hook.remove()
    assert len(spikes) == len(found) * len(hooks)
    assert answers.spiking == pytest.approx(float(torch.cat(spikes).mean()), rel=1e-5)


def test_a_checkpoint_brings_everything_back(cars, tmp_path):
    experiment = experiment_on(cars, validation=0.3, reset="never", validate_every=1)
    trainer = classifier_trainer(experiment, tmp_path)
    losses_of(trainer)
    loaded = Classifier.load(tmp_path / "last.pt")
    assert equal(loaded.content()["weights"], trainer.averaged().content()["weights"])
    assert (loaded.class_names, loaded.carry, loaded.input) == (("background", "cars"), True, experiment.input)
    assert max(record.val_accuracy for record in trainer.history) == trainer.best
    assert "run" not in load_checkpoint(tmp_path / "best.pt")
    content = load_checkpoint(tmp_path / "best.pt")
    save_checkpoint(tmp_path / "other.pt", {**content, "task": "detection"})
    with pytest.raises(CheckpointError, match="not the checkpoint of a classifier"):
        Classifier.load(tmp_path / "other.pt")
    save_checkpoint(tmp_path / "other.pt", {**content, "input": {"colour": 3}})
    with pytest.raises(CheckpointError, match="settings are not those of this version"):
        Classifier.load(tmp_path / "other.pt")


def test_other_classes_and_missing_validation_are_refused(cars, tmp_path):
    experiment = experiment_on(cars, epochs=1)
    losses_of(classifier_trainer(experiment, tmp_path))
    with pytest.raises(SettingsError, match=r"data\.validation is 0"):
        classify_split(experiment, tmp_path / "last.pt", "validation")
    content = load_checkpoint(tmp_path / "last.pt")
    save_checkpoint(tmp_path / "other.pt", {**content, "class_names": ["cat", "dog"]})
    with pytest.raises(SettingsError, match=r"trained on the classes cat, dog; .* has background, cars"):
        classify_split(experiment, tmp_path / "other.pt", "test")


def test_history_that_is_none(tmp_path):
    path = tmp_path / "history.json"
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_classifier_history(path)
    path.write_text(json.dumps([{"epoch": 1}]))
    with pytest.raises(CheckpointError, match="not a history"):
        read_classifier_history(path)
