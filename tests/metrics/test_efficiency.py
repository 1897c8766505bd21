"""Efficiency: the definitions on counts worked out by hand, and on networks."""

import pytest
import torch
from torch import nn

from spiketrack.metrics.efficiency import authors_subset, efficiency, footprint
from spiketrack.spiking.activity import Activity, ConvActivity, NeuronActivity


def hand_built():
    """Two steps of: counts -> convolution -> I-LIF (D = 4) -> convolution -> binary neurons -> convolution."""
    activity = Activity()
    activity.steps = 2
    activity.convs = {
        "stem": ConvActivity("stem", 1000, 900, 90, 130, 100, 10, 14.0, binary=False, whole=True),
        "middle": ConvActivity("middle", 4000, 3600, 300, 700, 200, 20, 50.0, binary=False, whole=True),
        "last": ConvActivity("last", 600, 600, 60, 60, 100, 10, 10.0, binary=True, whole=True),
    }
    activity.neurons = {
        "a": NeuronActivity("a", 4, neuron_steps=200, spikes=50, nonzero=20, updates=150),
        "b": NeuronActivity("b", 1, neuron_steps=100, spikes=10, nonzero=10, updates=80),
    }
    return activity


def test_every_definition_by_hand():
    result = efficiency(hand_built(), nn.Conv2d(1, 1, 1))
    # per step: MAC = 90 / 2 of the stem and 300 / 2 of integers, AC = 60 / 2
    operations, unrolled = result.operations, result.unrolled
    assert (operations.ac, operations.mac, operations.dense) == (30, 45 + 150, 450 + 1800 + 300)
    assert (unrolled.ac, unrolled.mac) == (30 + 350, 45)
    assert result.activation_sparsity == pytest.approx(1 - 30 / 300)
    assert result.unrolled_sparsity == pytest.approx(1 - 60 / (200 * 4 + 100))
    assert (result.rate, result.neurons) == (60 / 300, 150)
    assert result.membrane_updates == 230 / 2
    assert operations.energy_mj == pytest.approx((0.9 * 30 + 4.6 * 195) * 1e-9)
    assert unrolled.energy_mj == pytest.approx((0.9 * 380 + 4.6 * 45) * 1e-9)
    # SpikeYOLO: 4.6 * 500 + 0.9 * (2000 * mean 0.25 + 300 * mean 0.1) pJ
    assert result.energy_mj == pytest.approx((4.6 * 500 + 0.9 * (2000 * 0.25 + 300 * 0.1)) * 1e-9)
    assert result.dense_energy_mj == pytest.approx(4.6 * 2800 * 1e-9)
    assert [layer.kind for layer in result.convs] == ["real", "integer", "binary"]
    assert [layer.unrolled is None for layer in result.convs] == [True, False, False]
    first, second = result.neuron_layers
    assert (first.neurons, first.rate, first.active, first.binary_rate, first.updated) == (100, 0.25, 0.1, 0.0625, 0.75)
    assert (second.rate, second.binary_rate) == (0.1, 0.1)


def test_footprint_and_connection_sparsity_by_hand():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1).double(), nn.BatchNorm2d(1))
    network[0].weight.data.copy_(torch.tensor([0.0, 3.0])[:, None, None, None])
    network[1].weight.data.fill_(1.0)
    # float32: 2 weights, 2 biases, norm 2 + 2; float64: 2 weights, 1 bias; int64: the norm's counter
    assert footprint(network).bytes == 4 * (4 + 4) + 8 * 3 + 8
    assert (footprint(network).weights, footprint(network).connection_sparsity) == (4, 0.25)


def layers(*names):
    return [NeuronActivity(name, 1, 100 * 2**i, 0, 10 * 3**i) for i, name in enumerate(names)]


def test_the_authors_subsets_by_hand():
    vgg = authors_subset(layers("backbone.stem.neuron", "backbone.layers.0.neuron", "extras.0.down.neuron"))
    # (2 (10 + 30) + 90) / (2 (100 + 200) + 400)
    assert vgg.active == pytest.approx(170 / 1000)
    names = ("stem.neuron", "widen.neuron", "blocks.0.first.neuron")
    assert authors_subset(layers(*names)).active == pytest.approx((30 + 90) / (200 + 400))
    detector = authors_subset(layers(*(f"backbone.{name}" for name in names), "extras.0.down.neuron"))
    assert detector.active == pytest.approx((30 + 90) / (200 + 400))
    assert detector.layers == ("backbone.widen.neuron", "backbone.blocks.0.first.neuron")
    assert authors_subset(layers("stage1.0.token.0.neuron")) is None


def test_nothing_counted_raises():
    with pytest.raises(ValueError, match="no time step of a network"):
        efficiency(Activity(), nn.Conv2d(1, 1, 1))
