"""training.encode_on device: batches, losses and weights are those of the loader's own counting."""

import pytest
import torch
from moving_squares import CLASS_NAMES, SLICE_US, square_sequence, write_sequence
from test_training import PLAIN, STRONG, assert_same, losses_of, make_trainer

from spiketrack.datasets.augment import AugmentSettings
from spiketrack.datasets.batches import Share
from spiketrack.datasets.etram import find_sequences
from spiketrack.datasets.sequences import TrainingSamples
from spiketrack.datasets.streams import StreamSamples
from spiketrack.errors import SettingsError
from spiketrack.experiment import load_experiment, trainer_of
from spiketrack.representations import InputSettings
from spiketrack.representations.flat import FlatEvents

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
LOUD = AugmentSettings(flip=0.5, zoom=0.5, drop_time=0.3, swap_polarity=0.5, jitter_us=3e3, noise_hz=5, crop=(48, 40))
INPUTS = [
    InputSettings(slice_us=SLICE_US),
    InputSettings(slice_us=SLICE_US, window_us=3 * SLICE_US, bins=3, limit=2),
    InputSettings(slice_us=SLICE_US, bins=2, representation="signed_difference"),
    InputSettings(slice_us=SLICE_US, window_us=SLICE_US + 1, shortest_side=64, representation="binary_occupancy"),
]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Sequences of two sensors, 64 and 128 pixels a side."""
    root = tmp_path_factory.mktemp("mixed")
    for i, side in enumerate((64, 128, 64)):
        write_sequence(root / "HDF5" / "train", f"train_{i}", *square_sequence(i, i % 2, 8, side))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    return find_sequences(root, "train", CLASS_NAMES)


def assert_alike(make, name="cpu"):
    pairs = list(zip(make(uncounted=False), make(uncounted=True), strict=True))
    assert pairs
    for counted, flat in pairs:
        assert isinstance(flat.events, FlatEvents)
        planes = flat.planes(lambda tensor: tensor.to(name))
        assert torch.equal(planes.cpu(), counted.planes())
        assert_same(flat._replace(events=0), counted._replace(events=0))


@pytest.mark.parametrize("name", ["cpu", CUDA])
@pytest.mark.parametrize("input", INPUTS)
def test_batches_are_those_of_the_loader(squares, mixed, input, name):
    def singles(sequences, augment):
        def make(uncounted):
            return TrainingSamples(
                sequences, input, augment, steps=3, batch_size=4, seed=0, uncounted=uncounted, cache_mb=10
            ).epoch(1)

        return make

    def streams(uncounted):
        return StreamSamples(plain, input, STRONG, steps=3, batch_size=2, seed=0, uncounted=uncounted).epoch(1)

    plain = find_sequences(squares, "train", CLASS_NAMES)
    for sequences, augment in ((plain, PLAIN), (plain, STRONG), (mixed, LOUD)):
        assert_alike(singles(sequences, augment), name)
    assert_alike(streams, name)


def test_an_empty_share(squares):
    def make(uncounted):
        sequences = find_sequences(squares, "train", CLASS_NAMES)
        settings = {"steps": 3, "batch_size": 2, "seed": 0, "share": Share(2, 3)}
        return TrainingSamples(sequences, INPUTS[0], PLAIN, **settings, uncounted=uncounted).epoch(0)

    assert_alike(make)


@pytest.mark.parametrize("settings", [{}, {"multi_scale": 0.3, "precision": "bfloat16"}])
def test_a_run_is_the_same_to_the_bit(squares, tmp_path, settings):
    plain, uncounted = (make_trainer(squares, tmp_path / name, epochs=1, **settings) for name in ("a", "b"))
    uncounted.samples._maker._uncounted = True
    seen = []
    uncounted.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    assert losses_of(plain) == losses_of(uncounted)
    assert_same(plain.model.state_dict(), uncounted.model.state_dict())
    assert len(seen) == plain.step


CONFIG = """
name: squares
data: {{root: {root}}}
input: {{slice_us: 20000}}
training: {{batch_size: 2, steps: 2, epochs: 1, max_steps: 2, encode_on: device}}
evaluation: {{warm_up_steps: 2}}
"""


def test_the_setting_and_what_it_refuses(squares, tmp_path):
    path = tmp_path / "squares.yaml"
    path.write_text(CONFIG.format(root=squares))
    trainer = trainer_of(load_experiment(path), tmp_path / "run")
    assert isinstance(next(trainer.samples.epoch(0)).events, FlatEvents)
    for change, says in (
        ("input.representation=voxel_grid", "input.representation voxel_grid adds up fractions"),
        ("data.augment.mosaic=0.5", "data.augment.mosaic 0.5 joins samples"),
        ("input.slice_us=700000000", "longer than"),
    ):
        with pytest.raises(SettingsError, match=f"training.encode_on device: .*{says}"):
            trainer_of(load_experiment(path, [change]), tmp_path / "run")


def test_a_run_may_go_on_with_the_other(squares, tmp_path):
    """Where events are counted is no part of a run's settings."""
    path = tmp_path / "squares.yaml"
    path.write_text(CONFIG.format(root=squares))
    first = trainer_of(load_experiment(path), tmp_path / "run")
    losses = losses_of(first)
    second = trainer_of(load_experiment(path, ["training.encode_on=loader"]), tmp_path / "run")
    second.resume()
    assert second.finished
    assert losses == losses_of(trainer_of(load_experiment(path, ["training.encode_on=loader"]), tmp_path / "other"))
