"""Multi-scale training: sizes, counts and labels by hand, and a run that stays one run."""

import numpy as np
import pytest
import torch
from test_training import carried_trainer, losses_of, make_trainer

import spiketrack.training
from spiketrack.batch_size import with_found_batch_size
from spiketrack.datasets.multi_scale import drawn_size, rescaled, rescaled_labels
from spiketrack.detector.track_loss import TrackLabels
from spiketrack.errors import CheckpointError, SettingsError
from spiketrack.experiment import Experiment


def test_sizes_are_multiples_of_32_around_the_given_one():
    sizes = {drawn_size((360, 640), 0.25, 0, step) for step in range(2000)}
    assert all(side % 32 == 0 for size in sizes for side in size)
    # 360 * 0.75 = 270 and 360 * 1.25 = 450, 640 * 0.75 = 480 and 640 * 1.25 = 800
    assert {height for height, _ in sizes} == set(range(256, 449, 32))
    assert {width for _, width in sizes} == set(range(480, 801, 32))
    for height, width in sizes:  # one factor for both sides
        assert abs(height / 360 - width / 640) <= 16 / 360 + 16 / 640
    assert {drawn_size((33, 40), 0.9, 0, step) for step in range(300)} == {(32, 32), (32, 64), (64, 64)}


def test_sizes_follow_from_seed_and_step():
    draws = [[drawn_size((320, 320), 0.5, seed, step) for step in range(20)] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) > 3


def test_counts_by_hand():
    row = torch.tensor([[2.0, 4.0, 6.0]])
    assert rescaled(row, (1, 6)).tolist() == [[2, 2, 4, 4, 6, 6]]
    # two pixels of one and a half: (2 + 4 / 2) / 1.5 and (4 / 2 + 6) / 1.5
    assert rescaled(row, (1, 2))[0].tolist() == pytest.approx([8 / 3, 16 / 3])
    assert rescaled(row.T, (2, 1))[:, 0].tolist() == pytest.approx([8 / 3, 16 / 3])
    assert rescaled(row, (1, 3)) is row


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (96, 160)])
def test_the_mean_count_stays(size):
    events = torch.from_numpy(np.random.default_rng(0).poisson(0.3, (2, 3, 2, 45, 70))).float()
    before = events.clone()
    other = rescaled(events, size)
    assert other.shape == (2, 3, 2, *size)
    torch.testing.assert_close(other.mean(dim=(3, 4)), events.mean(dim=(3, 4)))
    assert torch.equal(events, before)
    assert rescaled(events[:, :0], size).shape == (2, 0, 2, *size)


def test_labels_follow_the_events():
    """A filled box stays a filled box: its edges are where the labels say."""
    events = torch.zeros(1, 1, 1, 64, 64)
    events[..., 16:48, 8:40] = 1
    boxes = torch.tensor([[[8.0, 16.0, 40.0, 48.0]]])
    given = TrackLabels(boxes, *(torch.zeros(1, 1, dtype=torch.int64) for _ in range(3)), torch.zeros(1))
    labels = rescaled_labels(given, (64, 64), (96, 32))
    assert labels.boxes.tolist() == [[[4, 24, 20, 72]]]
    expected = torch.zeros(96, 32)
    expected[24:72, 4:20] = 1
    assert torch.equal(rescaled(events, (96, 32))[0, 0, 0], expected)
    assert boxes.tolist() == [[[8, 16, 40, 48]]]


def test_every_step_has_a_size_and_labels_of_it(squares, tmp_path, monkeypatch):
    trainer, seen = make_trainer(squares, tmp_path, multi_scale=0.5, max_steps=6), []
    trainer.model.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[3:])))
    pairs = []
    monkeypatch.setattr(
        spiketrack.training,
        "rescaled_labels",
        lambda labels, old, new: pairs.append((old, new)) or rescaled_labels(labels, old, new),
    )
    losses_of(trainer)
    assert seen == [drawn_size((64, 64), 0.5, 0, step) for step in range(6)]
    assert pairs == [((64, 64), size) for size in seen]
    assert len(set(seen)) > 1


def test_a_stopped_run_goes_on_to_the_same_losses(squares, tmp_path):
    settings = {"multi_scale": 0.5, "epochs": 1, "accumulate": 2, "checkpoint_every": 2}
    whole = losses_of(make_trainer(squares, tmp_path / "whole", **settings))
    first, told = make_trainer(squares, tmp_path / "cut", **settings), []

    def fall(progress):
        told.append(progress.loss)
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(fall)
    second = make_trainer(squares, tmp_path / "cut", **settings)
    second.resume()
    assert second.step == 2
    assert told[:2] + losses_of(second) == whole
    with pytest.raises(CheckpointError, match=r"training.multi_scale\)"):
        make_trainer(squares, tmp_path / "cut", **{**settings, "multi_scale": 0.0}).resume()


def test_carried_state_is_refused(squares, tmp_path):
    with pytest.raises(SettingsError, match=r"multi_scale is 0.25 with training.state carried"):
        carried_trainer(squares, tmp_path, multi_scale=0.25)


def test_a_batch_size_is_not_measured_on_sizes_of_chance(squares, tmp_path):
    experiment = Experiment.model_validate(
        {"name": "x", "data": {"root": squares}, "training": {"multi_scale": 0.25, "batch_memory": 0.1}}
    )
    with pytest.raises(SettingsError, match=r"give training.batch_size"):
        with_found_batch_size(experiment, tmp_path, resume=False)
