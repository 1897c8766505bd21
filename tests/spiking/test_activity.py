"""Counting: numbers worked out by hand, and operations against the convolution that NeuroBench defines them by."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spiketrack.spiking import ILIF, LIF, ILIFSettings, LIFSettings, StateFlow
from spiketrack.spiking.activity import Activity, recorded


class Tiny(nn.Module):
    """A 3x3 convolution of ones on the input, I-LIF neurons (D = 3), a 1x1 convolution to two channels."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 2, 1)
        self.neuron = ILIF(ILIFSettings(levels=3, decay=0.5))
        with torch.no_grad():
            self.first.weight.fill_(1.0), self.first.bias.zero_()
            self.second.weight.copy_(torch.tensor([2.0, 0.0])[:, None, None, None])

    def forward(self, x, state=None):
        flow = StateFlow(x.shape[0], state)
        return self.second(self.neuron(self.first(x.flatten(0, 1)), flow)), flow.finish()


def image(*rows):
    return torch.tensor(rows, dtype=torch.float32)[None, None, None]


def test_two_steps_by_hand():
    network = Tiny()
    with recorded(network) as activity:
        # a count of 2 in the corner of 2 x 3: currents 2 2 0 / 2 2 0, spikes the same, nothing is left
        _, state = network(image([2, 0, 0], [0, 0, 0]))
        # 5 at the right edge: currents 0 5 5 / 0 5 5, spikes 3 of D = 3, 2 is left in four membranes
        _, state = network(image([0, 0, 5], [0, 0, 0]), state)
    assert state[0].flatten().tolist() == [0, 2, 2, 0, 2, 2]
    first, second = activity.convs["first"], activity.convs["second"]
    # a corner pixel lies under 4 kernels, as do the six of 2 x 3: 4 6 4 / 4 6 4 = 28 taps; with padding 6 * 9
    assert (first.macs, first.dense, first.effective, first.weighted) == (2 * 54, 2 * 28, 4 + 4, 2 * 4 + 5 * 4)
    assert (first.inputs, first.nonzero, first.total, first.binary, first.whole) == (12, 2, 7.0, False, True)
    # one of the two weights is 0: each of the 8 spiking inputs does one operation; as binary spikes 4 * 2 + 4 * 3
    assert (second.macs, second.dense, second.effective, second.weighted) == (24, 24, 8, 20)
    neurons = activity.neurons["neuron"]
    assert (neurons.levels, neurons.neuron_steps, neurons.spikes, neurons.nonzero) == (3, 12, 20, 8)
    # all 6 at the first step, then the 4 that left 0
    assert (neurons.updates, activity.steps) == (6 + 4, 2)


def by_definition(conv, x, *, ones=False):
    """NeuroBench: the sum of the outputs where inputs and weights that are not zero are one, without bias."""
    x, weight = (torch.ones_like(t) if ones else (t != 0).to(t.dtype) for t in (x, conv.weight.detach()))
    return int(F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups).sum())


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2}, {"stride": 2, "padding": 2, "groups": 2}])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_operations_are_those_of_a_convolution_of_zeros_and_ones(options, memory):
    generator = torch.Generator().manual_seed(3)
    conv = nn.Conv2d(4, 6, 3, **options).double()
    conv.weight.data[torch.rand(conv.weight.shape, generator=generator) < 0.3] = 0
    x = torch.poisson(torch.full((2, 4, 9, 8), 0.4, dtype=torch.float64), generator).contiguous(memory_format=memory)
    activity = Activity()
    activity.add_conv("conv", conv, x)
    counts = activity.convs["conv"]
    assert counts.effective == by_definition(conv, x)
    assert counts.dense == by_definition(conv, x, ones=True)
    assert counts.weighted == int(F.conv2d(x, (conv.weight != 0).double(), None, **options).sum())


@pytest.mark.parametrize(
    ("values", "binary", "whole"),
    [([0, 1, 1], True, True), ([-1, 0, 1], True, False), ([0, 2, 1], False, True), ([0, 0.5, 1], False, False)],
)
def test_what_a_convolution_reads(values, binary, whole):
    activity = Activity()
    activity.add_conv("conv", nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 1, 3))
    activity.add_conv("conv", nn.Conv2d(1, 1, 1), torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, 3))
    assert (activity.convs["conv"].binary, activity.convs["conv"].whole) == (binary, whole)


def test_hooks_are_gone_and_what_cannot_be_counted_is_named():
    network = Tiny()
    with recorded(network) as activity:
        network(image([1, 0], [0, 1]))
        with pytest.raises(ValueError, match="one time step at a time, got 2"):
            network(torch.zeros(2, 1, 1, 2, 2))
    spikes = activity.neurons["neuron"].spikes
    network(image([1, 0], [0, 1]))
    assert activity.neurons["neuron"].spikes == spikes
    network.norm = nn.BatchNorm2d(1)
    with pytest.raises(ValueError, match=r"norm is a batch norm; fuse the network first"), recorded(network):
        pass
    network.norm = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"norm is a Linear; only Conv2d"), recorded(network):
        pass


def test_binary_neurons_have_one_level():
    network = nn.Module()
    network.lif = LIF(LIFSettings())
    network.forward = lambda x, state=None: _run(network.lif, x, state)
    with recorded(network) as activity:
        network(torch.full((1, 1, 1, 1, 4), 3.0))
    counts = activity.neurons["lif"]
    assert (counts.levels, counts.neuron_steps, counts.spikes, counts.nonzero) == (1, 4, 4, 4)


def _run(layer, x, state):
    flow = StateFlow(1, state)
    return layer(x.flatten(0, 1), flow), flow.finish()
