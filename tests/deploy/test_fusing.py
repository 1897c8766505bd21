"""Fusing: every layer against itself in float64, at borders too, and whole networks."""

import copy

import pytest
import torch
from networks import events, lively_network, randomise_norms
from torch import nn

from spiketrack.deploy import fuse
from spiketrack.deploy.fusing import NeuronConv, kernel_of_sep_rep
from spiketrack.spiking import ILIF, ILIFSettings, StateFlow
from spiketrack.spiking.layers import (
    AllConvBlock,
    ConvBlock,
    DownSampling,
    SepConv,
    SepRepConv,
    SpikeConv,
    SpikeConvBias,
    SpikeSPPF,
)

NEURON = ILIFSettings(levels=3, decay=0.5, gain=0.8)
LAYERS = {
    "dense": lambda: SpikeConv(4, 6, 3, NEURON, stride=2),
    "depthwise": lambda: SpikeConv(4, 4, 7, NEURON, depthwise=True),
    "last": lambda: SpikeConvBias(4, 5, NEURON),
    "stem": lambda: DownSampling(4, 5, 7, 4, 2, None),
    "down": lambda: DownSampling(4, 5, 3, 2, 1, NEURON),
    "separable": lambda: SepConv(4, NEURON),
    "all-convolution": lambda: AllConvBlock(4, 2, NEURON),
    "re-parameterised": lambda: ConvBlock(4, 3, NEURON),
    "pyramid": lambda: SpikeSPPF(4, 6, NEURON),
}


class Net(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer


@pytest.mark.parametrize("name", LAYERS)
def test_a_fused_layer_equals_itself(name):
    torch.manual_seed(0)
    net = Net(LAYERS[name]()).double()
    randomise_norms(net, 1)
    net.eval()
    fused = fuse(net)
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(
        type(m) is not ILIF or type(parent) is NeuronConv for parent in fused.modules() for m in parent.children()
    )
    x = 2 * torch.randn(6, 4, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.5
    with torch.no_grad():
        ours, expected = (n.layer(x, StateFlow(3, None)) for n in (fused, net))
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_the_kernel_of_a_separable_convolution_by_hand():
    """One channel: norm 2 x + 1 (eps aside), times 3, a kernel of nine ones. The border sees norm(0) = 1."""
    block = SepRepConv(1, 1).eval()
    norm = block.centred.norm
    norm.eps = 0.0
    with torch.no_grad():
        norm.weight.fill_(4.0), norm.bias.fill_(3.0), norm.running_mean.fill_(1.0), norm.running_var.fill_(4.0)
        block.pointwise.weight.fill_(3.0), block.depthwise.weight.fill_(1.0)
        weight, bias = kernel_of_sep_rep(block)
        assert weight.tolist() == [[[[6.0] * 3] * 3]]
        assert bias.tolist() == [27.0]
        # a single pixel of 1: nine taps, of which one sees 2 + 1 and eight the padding, 1
        assert block(torch.ones(1, 1, 1, 1)).item() == 3 * (3 + 8)


def test_the_network_given_stays_as_it_is():
    net = lively_network("p", NEURON).train()
    before = copy.deepcopy(net.state_dict())
    names = [type(module) for module in net.modules()]
    fused = fuse(net, torch.float64)
    with torch.no_grad():
        fused(events(2))
        for parameter in fused.parameters():
            parameter.zero_()
    assert net.training
    assert [type(module) for module in net.modules()] == names
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_fused_network_predicts_the_same_and_fuses_only_once():
    net = lively_network("p", ILIFSettings())
    fused = fuse(net, torch.float64)
    again = fuse(fused)
    with torch.no_grad():
        expected, end = net.double()(events(3).double())
        for network in (fused, again):
            predictions, state = network(events(3))
            torch.testing.assert_close(predictions.features, expected.features, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(state, end, rtol=1e-9, atol=1e-9)
    # dense 3x3 kernels are larger than their factors; the norms are gone
    assert {p.dtype for p in fused.parameters()} == {torch.float64}
    assert {p.dtype for p in fuse(lively_network("p", NEURON)).parameters()} == {torch.float32}


def test_an_unknown_batch_norm_is_named():
    with pytest.raises(ValueError, match=r"fuse: layer\.1 is a batch norm of no known layer; known are AllConvBlock, "):
        fuse(Net(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))))
