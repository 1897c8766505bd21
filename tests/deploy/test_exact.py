"""Exact sums: by hand, in any order, and one recording on two runtimes to the last bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from exported import running, spikeyolo, spikeyolo_model
from networks import events, lively_network
from torch import nn

from spiketrack.deploy.exact import exact, grid_of, largest_count
from spiketrack.deploy.fusing import NeuronConv, fuse
from spiketrack.events import Events
from spiketrack.representations import InputSettings
from spiketrack.spiking import ILIFSettings


def test_the_grid_by_hand():
    # 4 (0.5 + 0.25) + 1 = 4, plus room for what rounding adds: just above 2^2, so q = 2^(3 - 24)
    weight = torch.tensor([0.5, -0.25]).reshape(1, 2, 1, 1).double()
    assert grid_of(weight, torch.tensor([1.0]).double(), 4).tolist() == [2.0**-21]
    assert grid_of(weight, torch.tensor([0.9]).double(), 4).tolist() == [2.0**-22]
    assert grid_of(weight * 0, torch.zeros(1).double(), 4) > 0  # a channel of zeros stays one


def test_no_order_of_a_sum_rounds():
    network = exact(lively_network("p", ILIFSettings()), 10)
    layers = [layer for layer in network.modules() if isinstance(layer, NeuronConv)]
    assert len(layers) == sum(isinstance(module, nn.Conv2d) for module in network.modules())
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        most = layer.neuron.settings.levels if layer.neuron else 10
        rows = layer.conv.weight.flatten(1)  # (O, taps)
        terms = torch.randint(0, most + 1, rows.shape, generator=generator) * rows
        terms = torch.cat([terms, layer.conv.bias[:, None]], dim=1)
        added = terms.double().sum(1)
        shuffled = terms[:, torch.randperm(terms.shape[1], generator=generator)]
        for order in (terms, terms.flip(1), shuffled):
            assert torch.equal(order.cumsum(1)[:, -1].double(), added)  # float32, one after the other


def test_weights_move_by_their_share_of_the_grid_and_the_argument_stays():
    network = lively_network("p", ILIFSettings())
    fused, rounded = fuse(network), exact(network, 10)
    for (name, ours), theirs in zip(rounded.named_parameters(), fused.parameters(), strict=True):
        assert (ours - theirs).abs().max() <= 3e-4 * theirs.abs().max(), name
    assert any(not torch.equal(a, b) for a, b in zip(rounded.parameters(), fused.parameters(), strict=True))
    assert isinstance(network.stem.norm, nn.BatchNorm2d)


def test_only_integers_can_be_exact():
    assert largest_count(InputSettings(limit=7)) == 7
    assert largest_count(InputSettings(representation="binary_occupancy", limit=7)) == 1
    assert largest_count(InputSettings(representation="voxel_grid")) is None
    network = lively_network("p", ILIFSettings())
    for ours, theirs in ((exact(network, None), fuse(network)), (exact(network.double(), 10), fuse(network.double()))):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_two_runtimes_give_the_same_bits_over_a_whole_stream():
    network, x = exact(spikeyolo().model, 10), events(12)
    with torch.no_grad():
        expected, state = network(x)
    predictions, on_runtime = running(spikeyolo_model())(x)
    assert expected.features.std() > 0.1
    assert torch.equal(predictions.features, expected.features)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(on_runtime, state, strict=True))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    from moving_squares import write_sequence

    rng = np.random.default_rng(4)
    columns = rng.integers(0, 64, (2, 6000)).astype(np.uint16)
    recorded = Events(np.sort(rng.integers(0, 200_000, 6000)), *columns, rng.integers(0, 2, 6000).astype("u1"), 64, 64)
    return write_sequence(tmp_path_factory.mktemp("data"), "noise", recorded, None)


def test_two_runtimes_find_the_same_boxes_in_a_whole_recording(recording):
    detector = spikeyolo()
    on_runtime = replace(detector, model=running(spikeyolo_model()))
    pairs = list(zip(on_runtime.detect(recording), detector.exact().detect(recording), strict=True))
    assert len(pairs) == 10
    assert sum(len(theirs.detections) for _, theirs in pairs) > 50
    for ours, theirs in pairs:
        for name in ("class_id", "xyxy", "score"):
            assert np.array_equal(getattr(ours.detections, name), getattr(theirs.detections, name))
