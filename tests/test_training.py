"""Training: what a run computes, and that stopping, dying and going on do not change it.

A golden list holds the first losses of a tiny run; a change that is not about computation must reproduce it.
"""

import copy
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moving_squares import CLASS_NAMES, SLICE_US

from spiketrack.datasets.augment import AugmentSettings
from spiketrack.datasets.etram import find_sequences
from spiketrack.datasets.sequences import TrainingSamples
from spiketrack.datasets.streams import StreamSamples
from spiketrack.deploy.prune import prune
from spiketrack.detector.checkpoint import load_checkpoint, save_checkpoint
from spiketrack.detector.decode import DecodeSettings
from spiketrack.detector.families import family_named
from spiketrack.detector.spikeyolo import ModelSettings
from spiketrack.detector.ssd import SSDSettings
from spiketrack.errors import CheckpointError, TrainingError
from spiketrack.evaluation import EvaluationSettings
from spiketrack.optimizing import learning_rate, make_optimizer, update_average
from spiketrack.pipeline import Detector
from spiketrack.representations import InputSettings
from spiketrack.spiking import ILIF, LIF
from spiketrack.spiking.carried import CarriedState
from spiketrack.stopping import stop_requested
from spiketrack.training import Trainer, TrainingSettings

PLAIN = AugmentSettings()
STRONG = AugmentSettings(flip=0.5, zoom=0.2, translate=0.1, drop=0.2)


def make_trainer(root, run_dir, *, seed=0, augment=STRONG, input=None, sequences=slice(0, 2), **settings):
    """Two epochs of four or five steps; each step has two samples of two time steps."""
    torch.manual_seed(seed)
    input = input or InputSettings(slice_us=SLICE_US)
    training = TrainingSettings.model_validate(
        {"epochs": 2, "batch_size": 2, "steps": 2, "checkpoint_every": 2, "validate_every": 2, **settings}
    )
    samples = TrainingSamples(
        find_sequences(root, "train", CLASS_NAMES)[sequences],
        input,
        augment,
        steps=training.steps,
        batch_size=training.batch_size,
        seed=seed,
    )
    detector = Detector.build(ModelSettings(), input, DecodeSettings(), CLASS_NAMES)
    validation = find_sequences(root, "val", CLASS_NAMES)
    return Trainer(detector, samples, validation, training, EvaluationSettings(warm_up_steps=2), Path(run_dir))


def losses_of(trainer):
    losses = []
    assert trainer.run(lambda progress: losses.append(progress.loss))
    return losses


@pytest.fixture(scope="module")
def whole(squares, tmp_path_factory):
    """An uninterrupted run: the trainer after it, its losses, and the progress that it told."""
    trainer, told = make_trainer(squares, tmp_path_factory.mktemp("whole")), []
    assert trainer.run(told.append)
    return trainer, [progress.loss for progress in told], told


def assert_same(one, other, place=""):
    """Equal to the bit, through all containers."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{place}[{i}]")
    else:
        assert one == other, place


def assert_same_run(run_dir, whole_dir):
    assert_same(load_checkpoint(run_dir / "last.pt"), load_checkpoint(whole_dir / "last.pt"))
    assert_same(load_checkpoint(run_dir / "best.pt"), load_checkpoint(whole_dir / "best.pt"))
    assert (run_dir / "history.json").read_text() == (whole_dir / "history.json").read_text()


GOLDEN_LOSSES = [8.32172, 12.82364, 4.97268, 0.87011, 13.24188, 11.42445, 1.38378, 0.36251]
GOLDEN_GRADIENTS = [120.709, 312.746, 116.454, 25.365, 258.485, 268.555, 57.496, 25.689]


def test_golden_losses_and_gradients(squares, tmp_path, monkeypatch):
    """What a refactoring must reproduce: losses and gradient norms of the first batches, at the initial weights.

    The rate is too small to change a weight: once weights have moved, a rounding error decides which way a neuron
    rounds, and the losses of one thread and of two differ by several per cent.
    """
    norms, clip = [], torch.nn.utils.clip_grad_norm_

    def listen(*arguments):
        norms.append(float(clip(*arguments)))
        return torch.tensor(norms[-1])

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", listen)
    losses = losses_of(make_trainer(squares, tmp_path, optimizer="sgd", learning_rate=1e-12))
    assert losses[: len(GOLDEN_LOSSES)] == pytest.approx(GOLDEN_LOSSES, rel=1e-4)
    assert norms[: len(GOLDEN_GRADIENTS)] == pytest.approx(GOLDEN_GRADIENTS, rel=1e-3)


def test_the_same_seed_gives_the_same_run(squares, whole, tmp_path):
    trainer, losses, _ = whole
    again = make_trainer(squares, tmp_path)
    assert losses_of(again) == losses
    assert_same_run(tmp_path, trainer.run_dir)
    other = make_trainer(squares, tmp_path / "other", seed=1, epochs=1)
    assert losses_of(other)[0] != losses[0]


def test_what_a_run_leaves(whole):
    trainer, losses, _ = whole
    assert sorted(path.name for path in trainer.run_dir.iterdir()) == ["best.pt", "history.json", "last.pt"]
    first, last = history = json.loads((trainer.run_dir / "history.json").read_text())
    assert [record["epoch"] for record in history] == [1, 2]
    steps = trainer.batches
    assert sum(steps) == len(losses) == trainer.total_steps
    assert first["loss"] == pytest.approx(sum(losses[: steps[0]]) / steps[0])
    assert last["loss"] == pytest.approx(sum(losses[steps[0] :]) / steps[1])
    for record in history:
        assert record["loss"] == pytest.approx(record["box"] + record["classes"] + record["dfl"], rel=1e-5)
    assert (first["val_map"], first["val_ap50"]) == (None, None)
    assert last["val_map"] == trainer.best_map
    # the last rate is that of the last step
    assert last["learning_rate"] == learning_rate(trainer.settings, len(losses) - 1, len(losses))


def test_checkpoints_hold_the_averaged_network(whole):
    trainer, *_ = whole
    average = trainer.average.state_dict()
    for name in ("last.pt", "best.pt"):
        loaded = Detector.load(trainer.run_dir / name)
        assert_same(dict(loaded.model.state_dict()), dict(average))
    assert not torch.equal(average["stem.conv.weight"], trainer.model.state_dict()["stem.conv.weight"])


def test_progress_tells_the_place_in_the_run(whole):
    trainer, _, told = whole
    total, first = trainer.total_steps, trainer.batches[0]
    places = [(p.epoch, p.epochs, p.step, p.total_steps, p.steps_done) for p in told]
    assert places == [(1 if step <= first else 2, 2, step, total, step) for step in range(1, total + 1)]
    assert told[-1].seconds_left == 0
    # at the rate so far
    assert told[3].seconds_left == pytest.approx(told[3].seconds / 4 * (total - 4))


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_training import make_trainer

root, run_dir, name, at_step, checkpoint_every = sys.argv[2:]
trainer = make_trainer(Path(root), Path(run_dir), checkpoint_every=int(checkpoint_every))

def on_step(progress):
    if progress.step == int(at_step):
        os.kill(os.getpid(), getattr(signal, name))

finished = trainer.run(on_step)
print(finished, trainer.step)
"""


def interrupt(squares, run_dir, name, at_step, checkpoint_every):
    """Run in a process of its own that gets a signal after a step."""
    arguments = [Path(__file__).parent, squares, run_dir, name, at_step, checkpoint_every]
    command = [sys.executable, "-c", INTERRUPTED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def finish(squares, run_dir, **settings):
    trainer = make_trainer(squares, run_dir, **settings)
    trainer.resume()
    place = trainer.step
    assert trainer.run()
    return place


def test_a_run_asked_to_stop_goes_on_to_the_same_result(squares, whole, tmp_path):
    # the checkpoint that the stop writes is the only one
    result = interrupt(squares, tmp_path, "SIGTERM", 3, 1_000)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "False 4\n"  # the signal came while step 4 was next, and that one was finished
    # settings must be those of the run, so the reference differs from `whole` in checkpoint_every only
    assert finish(squares, tmp_path, checkpoint_every=1_000) == 4
    resumed, uninterrupted = load_checkpoint(tmp_path / "last.pt"), load_checkpoint(whole[0].run_dir / "last.pt")
    assert resumed["run"]["settings"]["training"].pop("checkpoint_every") == 1_000
    assert uninterrupted["run"]["settings"]["training"].pop("checkpoint_every") == 2
    assert_same(resumed, uninterrupted)
    assert (tmp_path / "history.json").read_text() == (whole[0].run_dir / "history.json").read_text()


def test_a_killed_run_goes_on_to_the_same_result(squares, whole, tmp_path):
    # killed in the second epoch, after step 7: the last checkpoint is that of step 6
    result = interrupt(squares, tmp_path, "SIGKILL", 7, 2)
    assert result.returncode == -signal.SIGKILL
    assert finish(squares, tmp_path) == 6
    assert_same_run(tmp_path, whole[0].run_dir)


def test_a_finished_run_resumes_to_its_end(squares, whole, tmp_path):
    trainer = make_trainer(squares, whole[0].run_dir)
    trainer.resume()
    before = (whole[0].run_dir / "last.pt").read_bytes()
    assert losses_of(trainer) == []
    assert trainer.history == whole[0].history
    assert (whole[0].run_dir / "last.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 1e-3}, r"training.learning_rate\)"),
        ({"loss": {"box_gain": 5.0}, "ema": 0.9}, r"training.ema, training.loss.box_gain\)"),
        ({"seed": 1}, r"\(seed\)"),
        ({"augment": STRONG.model_copy(update={"zoom": 0.1})}, r"data.augment.zoom\)"),
        ({"input": InputSettings(slice_us=SLICE_US, limit=5)}, r"input.limit\)"),
        ({"sequences": slice(0, 4)}, "training data"),
    ],
)
def test_another_run_is_not_resumed(squares, whole, change, named):
    trainer = make_trainer(squares, whole[0].run_dir, **change)
    with pytest.raises(CheckpointError, match=rf"last.pt: of a run with other .*{named}"):
        trainer.resume()
    assert trainer.step == 0


def test_only_the_device_may_change(squares, whole):
    trainer = make_trainer(squares, whole[0].run_dir)
    trainer.settings = trainer.settings.model_copy(update={"device": "cpu:0"})
    trainer.resume()
    assert trainer.step == trainer.total_steps


def test_a_network_without_a_run_is_not_resumed(squares, whole, tmp_path):
    trainer = make_trainer(squares, tmp_path)
    save_checkpoint(tmp_path / "last.pt", whole[0].averaged().content())
    with pytest.raises(CheckpointError, match=r"last.pt: holds a network but no training run to resume"):
        trainer.resume()


def test_a_loss_that_is_not_finite_stops_the_run(squares, tmp_path):
    trainer = make_trainer(squares, tmp_path)

    def poison(progress):
        if progress.step == 3:
            with torch.no_grad():
                trainer.model.head.box[0].last.conv.bias.fill_(torch.inf)

    names = next(trainer.samples.epoch(0, 3)).names
    with pytest.raises(TrainingError) as caught:
        trainer.run(poison)
    assert "the loss is nan at epoch 1, step 4" in str(caught.value)
    assert all(name in str(caught.value) for name in names)
    # the checkpoint of step 2 is whole
    Detector.load(tmp_path / "last.pt")
    assert load_checkpoint(tmp_path / "last.pt")["run"]["place"] == [0, 2, 2]


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(squares, tmp_path):
    trainer = make_trainer(squares, tmp_path, checkpoint_every=1)
    weight = trainer.model.stem.conv.weight
    weight.register_hook(lambda gradient: gradient * torch.nan if trainer.step == 2 else gradient)
    with pytest.raises(TrainingError, match=r"norm of the gradient is nan at epoch 1, step 3 \(samples: train_"):
        trainer.run()
    assert torch.isfinite(weight).all()
    assert load_checkpoint(tmp_path / "last.pt")["run"]["place"] == [0, 2, 2]


def test_a_full_disk_costs_no_checkpoint(squares, tmp_path):
    trainer = make_trainer(squares, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(progress):
        if progress.step == 3:  # the kernel refuses longer files from here on; Python ignores the signal
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    try:
        with pytest.raises(CheckpointError, match=r"last.pt: cannot be written .* is unharmed"):
            trainer.run(fill_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    resumed = make_trainer(squares, tmp_path)
    resumed.resume()
    assert resumed.step == 2


def test_a_small_problem_is_learnt(squares, tmp_path):
    """All labels of two sequences, 24 steps. At first the loss grows, as boxes begin to fit and count for more."""
    settings = {"epochs": 12, "batch_size": 8, "steps": 1, "learning_rate": 5e-3, "ema": 0.9}
    trainer = make_trainer(squares, tmp_path, augment=AugmentSettings(), validate_every=12, **settings)
    losses_of(trainer)
    losses = [record.loss for record in trainer.history]
    assert losses[-1] < 0.4 * max(losses[:3])


def test_bfloat16_changes_the_pass_and_not_the_weights(squares, whole, tmp_path):
    trainer = make_trainer(squares, tmp_path, precision="bfloat16", epochs=1)
    first = losses_of(trainer)[0]
    assert first != whole[1][0]
    assert first == pytest.approx(whole[1][0], rel=0.3)  # 8 bits of mantissa; some neurons fire otherwise
    assert {tensor.dtype for tensor in trainer.model.parameters()} == {torch.float32}


def test_learning_rate_by_hand():
    settings = TrainingSettings(learning_rate=0.1, final_rate=0.02, warm_up=0.1)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    # ten steps up: (step + 1) / 10
    assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])
    # then 0.1 (0.02 + 0.98 (1 + cos(pi s)) / 2) with s = (step - 10) / 90
    assert rates[10] == pytest.approx(0.1)
    assert rates[40] == pytest.approx(0.1 * (0.02 + 0.98 * 0.75))  # cos(60 deg) = 1/2
    assert rates[55] == pytest.approx(0.1 * (0.02 + 0.98 * 0.5))
    assert rates[70] == pytest.approx(0.1 * (0.02 + 0.98 * 0.25))
    assert rates[99] == pytest.approx(0.1 * (0.02 + 0.98 * (1 + math.cos(math.pi * 89 / 90)) / 2))
    assert learning_rate(settings, 0, 1) == pytest.approx(0.1)
    assert learning_rate(TrainingSettings(learning_rate=0.1, warm_up=0), 0, 5) == pytest.approx(0.1)


def test_update_average_by_hand():
    def module(value):
        norm = torch.nn.BatchNorm1d(1)
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            torch.nn.init.constant_(tensor, value)
        return norm

    average, model = module(1.0), module(2.0)
    update_average(average, model, 0.9, 0)  # decay 1/10: 0.1 * 1 + 0.9 * 2
    assert average.weight.item() == pytest.approx(1.9)
    assert average.running_mean.item() == pytest.approx(1.9)
    update_average(average, model, 0.9, 2)  # decay 3/12: 0.25 * 1.9 + 0.75 * 2
    assert average.running_var.item() == pytest.approx(1.975)
    update_average(average, module(0.0), 0.9, 10**6)  # decay 0.9
    assert average.bias.item() == pytest.approx(0.9 * 1.975)
    assert model.weight.item() == 2
    assert average.num_batches_tracked == 0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_only_convolution_weights_decay(optimizer):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    settings = TrainingSettings(optimizer=optimizer, weight_decay=0.05, momentum=0.8)
    made = make_optimizer(model, settings)
    decayed, plain = made.param_groups
    assert [p.shape for p in decayed["params"]] == [(2, 1, 3, 3)]
    assert len(plain["params"]) == 3
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0)
    if optimizer == "sgd":
        assert (decayed["momentum"], decayed["nesterov"]) == (0.8, True)
    else:
        assert decayed["betas"] == (0.8, 0.999)


def test_signals_are_remembered_once_and_handed_back():
    before = signal.getsignal(signal.SIGTERM)
    with stop_requested() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_is_asked():
    answers = []

    def work():
        with stop_requested() as stop:
            answers.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]


STEPWISE_PREDICTIONS = {"features", "offsets", "logits"}  # (T, B, ...)
SMALL_SSD = SSDSettings(backbone="4,4,4s2,8s2,8s2", extras=(8, 8, 8))


def carried_trainer(root, run_dir, model=ModelSettings(), **settings):  # noqa: B008
    """A run whose state is carried through the recordings, two streams side by side; four windows in an epoch."""
    torch.manual_seed(0)
    input = InputSettings(slice_us=SLICE_US)
    family = family_named(model.family)
    training = TrainingSettings.model_validate(
        {"epochs": 2, "batch_size": 2, "steps": 2, "checkpoint_every": 2, "validate_every": 2, "state": "carried"}
        | settings
    ).model_copy(update={"loss": family.loss()})
    samples = StreamSamples(
        find_sequences(root, "train", CLASS_NAMES)[:2], input, PLAIN, steps=training.steps, batch_size=2, seed=0
    )
    detector = Detector.build(model, input, family.decoding(), CLASS_NAMES)
    validation = find_sequences(root, "val", CLASS_NAMES)
    return Trainer(detector, samples, validation, training, EvaluationSettings(warm_up_steps=2), Path(run_dir))


def awake(trainer):
    """The network in evaluation mode, with norms fitted to the first window: neurons fire, and remember."""
    model, events = trainer.model.train(), next(trainer.samples.epoch(0)).events.float()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0  # one pass gives the statistics of its batch
        model(events)
    return model.eval()


def without_labels(batch):
    return batch._replace(
        labelled=torch.zeros_like(batch.labelled), labels=type(batch.labels)(*(column[:0] for column in batch.labels))
    )


def rarely_labelled(trainer, every=3):
    """The same run, but only the last of every so many windows of an epoch has labels."""
    epoch = trainer.samples.epoch

    def sparse(number, start=0):
        for place, batch in enumerate(epoch(number, start), start=start):
            yield batch if place % every == every - 1 else without_labels(batch)

    trainer.samples.epoch = sparse
    return trainer


def take(trainer, *batches):
    for batch in batches:
        trainer._step(batch)
        trainer.batch, trainer.step = trainer.batch + 1, trainer.step + 1


@pytest.mark.parametrize("model", [ModelSettings(), SMALL_SSD], ids=lambda model: model.family)
def test_windows_with_the_state_handed_on_cost_what_the_whole_costs(squares, tmp_path, model):
    """Chunk equivalence of the loss: norms in evaluation mode, as batch statistics are of one window."""
    trainer = carried_trainer(squares, tmp_path, model)
    model, windows = awake(trainer), trainer.samples.epoch(0)
    batches = [next(windows) for _ in range(3)]
    assert not batches[1].fresh.any()
    costs, fresh_costs, state = [], [], None
    with torch.no_grad():
        whole, _ = model(torch.cat([batch.events for batch in batches]).float())
        for i, batch in enumerate(batches):
            of_steps = {
                name: rows[2 * i : 2 * i + 2] for name, rows in whole._asdict().items() if name in STEPWISE_PREDICTIONS
            }
            part = whole._replace(**of_steps)
            predictions, state = model(batch.events.float(), state)
            of_whole, of_piece, of_fresh = (
                float(trainer.loss(found, batch.labels, batch.labelled).total)
                for found in (part, predictions, model(batch.events.float())[0])
            )
            assert of_piece == pytest.approx(of_whole, rel=1e-5)
            costs.append(of_piece)
            fresh_costs.append(of_fresh)
    assert costs[0] == fresh_costs[0]
    assert all(cost != pytest.approx(fresh, rel=1e-4) for cost, fresh in zip(costs[1:], fresh_costs[1:], strict=True))


def test_only_the_stream_that_begins_anew_forgets(squares, tmp_path):
    trainer = carried_trainer(squares, tmp_path)
    trainer._step(next(trainer.samples.epoch(0)))
    kept = trainer.carried.begin(torch.tensor([False, True]))
    assert any(membrane[0].any() for membrane in kept)
    for before, after in zip(trainer.carried.state, kept, strict=True):
        assert torch.equal(before[0], after[0])
        assert not after[1].any()


@pytest.mark.parametrize(
    ("model", "settings", "asked_at", "stops_at"),
    [
        (ModelSettings(), {"epochs": 1}, 2, 3),
        (SMALL_SSD, {}, 2, 3),
        # of four windows the third has labels: gradients reach back into the first two, so the stop waits for it
        (SMALL_SSD, {"detach": "label", "checkpoint_every": 1}, 1, 3),
        # its gradients wait for the update, which is at the end of the epoch
        (SMALL_SSD, {"accumulate": 2, "checkpoint_every": 1}, 2, 4),
    ],
    ids=["SpikeYOLO", "SSD", "detach label", "accumulate"],
)
def test_a_carried_run_that_was_stopped_goes_on(squares, tmp_path, model, settings, asked_at, stops_at):
    def trainer(name):
        every = 3 if "checkpoint_every" in settings else 1
        return rarely_labelled(carried_trainer(squares, tmp_path / name, model, **settings), every)

    whole, first, second, told = trainer("whole"), trainer("cut"), trainer("cut"), []
    losses = losses_of(whole)

    def listen(progress):
        told.append(progress.loss)
        if progress.step == asked_at:
            os.kill(os.getpid(), signal.SIGTERM)

    assert not first.run(listen)
    assert first.step == stops_at
    second.resume()
    assert second.carried.state is not None
    assert told + losses_of(second) == losses
    assert_same_run(second.run_dir, whole.run_dir)


@pytest.mark.parametrize("detach", ["window", "label"])
def test_gradients_reach_back_as_far_as_they_are_let(squares, tmp_path, detach):
    """A window without labels before one with labels: only detach label lets the loss reach its input."""
    trainer = carried_trainer(squares, tmp_path, detach=detach)
    batch = next(trainer.samples.epoch(0))
    trainer._step(without_labels(batch))
    assert all(membrane.requires_grad == (detach == "label") for membrane in trainer.carried.state)
    trainer._step(batch)
    assert not any(membrane.requires_grad for membrane in trainer.carried.state)


def test_no_more_windows_than_allowed_stay_in_the_graph(squares, tmp_path):
    trainer = carried_trainer(squares, tmp_path, detach="label", detach_after=2)
    batch = without_labels(next(trainer.samples.epoch(0)))
    deep = []
    for _ in range(4):
        trainer._step(batch)
        deep.append(trainer.carried.state[0].requires_grad)
    assert deep == [True, True, False, True]
    trainer.batch = trainer.batches[0] - 1  # never over the end of an epoch
    trainer._step(batch)
    assert not trainer.carried.state[0].requires_grad


def test_the_mean_loss_is_that_of_windows_with_labels(squares, tmp_path):
    trainer = rarely_labelled(carried_trainer(squares, tmp_path, SMALL_SSD, epochs=1))
    losses = losses_of(trainer)
    assert [loss > 0 for loss in losses] == [False, False, True, False]
    assert trainer.history[0].loss == pytest.approx(losses[2])


def test_time_constants_are_learnt_although_the_state_is_cut_off(squares, tmp_path):
    """The published code freezes each tau with its first detached state (facts/models.md, A.9)."""
    trainer = carried_trainer(squares, tmp_path, SMALL_SSD)
    w = trainer.model.backbone.stem.neuron.w
    places = [float(w.detach())]
    for batch in trainer.samples.epoch(0):
        take(trainer, batch)
        places.append(float(w.detach()))
    assert w.requires_grad
    assert len(set(places)) == len(places) == 5


@pytest.mark.parametrize(
    ("model", "most"),
    # r[t] = (r[t-1] + I) / 2 at most, and with what is left of I-LIF's soft reset r[t] = r[t-1] / 4 + I
    [(SMALL_SSD, 1), (ModelSettings(), 4 / 3)],
    ids=["SSD", "SpikeYOLO"],
)
def test_a_state_that_is_never_reset_stays_within_bounds(squares, tmp_path, model, most):
    """No membrane grows beyond what the largest current I of its layer so far would charge it to in the long run."""
    trainer = carried_trainer(squares, tmp_path, model)
    model, carried, currents = awake(trainer), CarriedState(0), {}
    layers = [layer for layer in model.modules() if isinstance(layer, ILIF | LIF)]
    for layer in layers:
        layer.register_forward_pre_hook(
            lambda layer, args: currents.update({layer: max(currents.get(layer, 0), float(args[0].abs().max()))})
        )
    events, never = next(trainer.samples.epoch(0)).events.float(), torch.zeros(2, dtype=torch.bool)
    with torch.no_grad():
        for _ in range(40):
            carried.hand_on(model(events, carried.begin(never))[1], reached=False)
    assert len(currents) == len(carried.state)
    for current, membrane in zip(currents.values(), carried.state, strict=True):
        assert 0 < float(membrane.abs().max()) <= most * current * 1.001


@pytest.mark.parametrize("labelled", [(0, 1), (0, 3), (1, 2), (2, 3)])
def test_an_update_takes_the_gradients_of_so_many_windows_with_labels(squares, tmp_path, labelled):
    """As by hand: the state goes from window to window, and the mean of two losses is what the weights follow."""
    trainer = carried_trainer(squares, tmp_path, SMALL_SSD, accumulate=2, clip_norm=1e9)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)  # of the update before
    first = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    model, state = copy.deepcopy(trainer.model), None
    model.zero_grad()
    for place, batch in enumerate(list(trainer.samples.epoch(0))[: labelled[1] + 1]):
        assert all(torch.equal(weight, first[name]) for name, weight in trainer.model.named_parameters())
        take(trainer, batch if place in labelled else without_labels(batch))
        predictions, state = model(batch.events.float(), state)
        state = tuple(membrane.detach() for membrane in state)
        if place in labelled:
            (trainer.loss(predictions, batch.labels, batch.labelled).total / 2).backward()
    gradients, expected = ([p.grad for p in network.parameters()] for network in (trainer.model, model))
    for gradient, by_hand in zip(gradients, expected, strict=True):
        assert gradient is by_hand is None or torch.equal(gradient, by_hand)
    weight = "backbone.stem.norm_conv.conv.weight"
    assert not torch.equal(trainer.model.state_dict()[weight], first[weight])


def test_accumulated_gradients_update_once(squares, tmp_path):
    """Two steps of a group move the weights as one step on the mean of their losses."""
    trainer = make_trainer(squares, tmp_path, accumulate=2, augment=PLAIN)
    before = copy.deepcopy(trainer.model.state_dict())
    batches = list(trainer.samples.epoch(0))[:2]
    trainer._step(batches[0])
    trainer.batch, trainer.step = 1, 1
    assert torch.equal(before["stem.conv.weight"], trainer.model.state_dict()["stem.conv.weight"])
    first = trainer.model.stem.conv.weight.grad.clone()
    trainer._step(batches[1])
    assert not torch.equal(before["stem.conv.weight"], trainer.model.state_dict()["stem.conv.weight"])
    assert not torch.equal(first, trainer.model.stem.conv.weight.grad)


def test_a_stop_waits_for_the_end_of_a_group(squares, tmp_path):
    trainer = make_trainer(squares, tmp_path, accumulate=3)

    def ask(progress):
        if progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    assert not trainer.run(ask)
    assert trainer.step == 3
    assert load_checkpoint(tmp_path / "last.pt")["run"]["place"] == [0, 3, 3]


def test_float16_scales_the_loss_and_trains(squares, tmp_path):
    trainer = make_trainer(squares, tmp_path, precision="float16", epochs=1, validate_every=1)
    losses = losses_of(trainer)
    assert all(math.isfinite(loss) for loss in losses)
    assert trainer.scaler.is_enabled()
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())


def test_patience_ends_a_run_that_does_not_get_better(squares, tmp_path):
    trainer = make_trainer(squares, tmp_path, epochs=6, validate_every=1, patience=2, learning_rate=1e-9)
    assert trainer.run()
    assert len(trainer.history) == 3  # the first is the best; then two that are not better
    assert trainer.finished


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        # step: 4 epochs of 10 steps, halved every 2
        ({"schedule": "step", "decay_every": 2, "decay": 0.5, "epochs": 4}, {0: 1.0, 19: 1.0, 20: 0.5, 39: 0.5}),
        # cyclic: 1 to 3 in the first 12 of 40 steps, down to 0.1
        ({"schedule": "cyclic", "max_rate": 3.0, "final_rate": 0.1}, {0: 1.0, 6: 2.0, 12: 3.0, 26: 1.55, 40: 0.1}),
    ],
)
def test_other_schedules_by_hand(schedule, rates):
    settings = TrainingSettings.model_validate({"learning_rate": 1.0, "warm_up": 0.0, **schedule})
    assert {step: pytest.approx(learning_rate(settings, step, 40)) for step in rates} == rates


def test_a_new_run_starts_from_the_weights_of_another(squares, whole, tmp_path):
    trainer = make_trainer(squares, tmp_path, seed=3)
    path = whole[0].run_dir / "last.pt"
    trainer.start_from(path)
    weights = dict(load_checkpoint(path)["weights"])
    assert_same(dict(trainer.model.state_dict()), weights)
    assert_same(dict(trainer.average.state_dict()), weights)
    assert (trainer.epoch, trainer.step, trainer.best_map) == (0, 0, -1.0)
    other = make_trainer(squares, tmp_path, input=InputSettings(slice_us=SLICE_US, bins=2))
    with pytest.raises(CheckpointError, match=r"of another model"):
        other.start_from(path)


def test_a_run_goes_on_with_a_pruned_network_and_can_be_resumed(squares, tmp_path):
    network = make_trainer(squares, tmp_path).averaged()
    content = replace(network, model=prune(network.model, 0.5)).content()
    assert content["pruned"]
    save_checkpoint(tmp_path / "pruned.pt", content)
    trainer = make_trainer(squares, tmp_path / "whole", epochs=1)
    trainer.start_from(tmp_path / "pruned.pt")
    assert_same(dict(trainer.model.state_dict()), dict(content["weights"]))
    trainer.run()
    left = load_checkpoint(tmp_path / "whole" / "last.pt")
    assert left["pruned"]
    name = "stage1.0.expand.conv.weight"  # learnt, as narrow as before
    assert left["weights"][name].shape == content["weights"][name].shape
    assert not torch.equal(left["weights"][name], content["weights"][name])
    stopped = make_trainer(squares, tmp_path / "stopped", epochs=1)
    stopped.start_from(tmp_path / "pruned.pt")

    def die(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(die)
    assert finish(squares, tmp_path / "stopped", epochs=1) == 2  # a checkpoint every two steps
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    save_checkpoint(tmp_path / "whole.pt", {**content, "quantized": 8})
    with pytest.raises(CheckpointError, match="a quantised network; `spiketrack fine-tune --weights` trains it on"):
        stopped.start_from(tmp_path / "whole.pt")


@pytest.mark.parametrize(
    ("most", "batches"), [(None, [5, 5]), (100, [5, 5]), (10, [5, 5]), (7, [5, 2]), (5, [5]), (1, [1])]
)
def test_the_first_steps_of_a_run(most, batches):
    class Samples:
        seed = 0

        @staticmethod
        def batches_per_epoch(epoch):
            return 5

    settings = TrainingSettings(epochs=2, max_steps=most)
    detector = Detector.build(ModelSettings(), InputSettings(), DecodeSettings(), CLASS_NAMES)
    assert Trainer(detector, Samples(), [], settings, EvaluationSettings(), Path()).batches == batches


def test_a_run_of_so_many_steps_has_its_schedule_and_its_validation(squares, tmp_path):
    trainer = make_trainer(squares, tmp_path, max_steps=3, epochs=9)
    losses = losses_of(trainer)
    assert len(losses) == trainer.step == trainer.total_steps == 3
    assert trainer.finished
    assert [record.epoch for record in trainer.history] == [1]
    assert trainer.history[0].val_map is not None
    assert trainer.history[0].learning_rate == learning_rate(trainer.settings, 2, 3)


def leave_after(trainer, steps):
    """Save where the run stands after so many steps, and leave it."""

    class Left(Exception):
        pass

    def on_step(progress):
        if progress.step == steps:
            trainer.save()
            raise Left

    with pytest.raises(Left):
        trainer.run(on_step)


def test_a_run_of_so_many_steps_goes_on_in_the_middle_of_an_epoch(squares, tmp_path):
    trainer = make_trainer(squares, tmp_path, max_steps=6)
    leave_after(trainer, trainer.batches[0] + 1)
    again = make_trainer(squares, tmp_path, max_steps=6)
    again.resume()
    assert (again.epoch, again.batch) == (1, 1)
    assert len(losses_of(again)) == 6 - again.batches[0] - 1
    assert again.finished


def test_the_loss_of_the_last_step_is_that_of_its_labels_alone(squares, tmp_path):
    trainer = make_trainer(squares, tmp_path / "last", loss_at="last", sequences=slice(0, 1))
    batch = next(iter(trainer.samples.epoch(0)))
    assert batch.labelled.tolist() == [[True, True], [True, False]]  # and of the last step the first sample alone
    trainer.model.train()
    predictions, _ = copy.deepcopy(trainer.model)(batch.events.float())
    only = predictions._replace(features=predictions.features[1:])
    labels = type(batch.labels)(*(column[2:] for column in batch.labels))  # time-major
    wanted = trainer.loss(only, labels, batch.labelled[1:])
    total = trainer._term_names.index("total")
    found, _ = trainer._step(batch)
    assert float(found[total]) == pytest.approx(float(wanted.total.detach()), rel=1e-5)
    each, _ = make_trainer(squares, tmp_path / "each", sequences=slice(0, 1))._step(batch)
    assert float(each[total]) != pytest.approx(float(wanted.total.detach()), rel=1e-3)
