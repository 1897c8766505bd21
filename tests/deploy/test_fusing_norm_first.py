"""Fusing ST-VGG, ResCat-SNN and SSD: norms before convolutions, padding before or after the norm."""

import pytest
import torch
from networks import events, settled
from torch import nn

from spiketrack.deploy import fuse, unroll
from spiketrack.deploy.fusing import PaddedConv
from spiketrack.detector.rescat import RESCAT_CFGS
from spiketrack.detector.ssd import SSD, SSDSettings, build_backbone
from spiketrack.detector.st_vgg import STVGG_CFGS
from spiketrack.spiking import LIFSettings
from spiketrack.spiking.lif import PLIF_NEURON
from spiketrack.spiking.norm_first import NormConv, NormConvSpike

BACKBONES = [*STVGG_CFGS, *RESCAT_CFGS]
THIN = ["8,8,8s2,16s2,16s2", "8,8,16,16,16"]


class Net(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer


def random_norm(layer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    norm = layer.norm
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5)
    return layer.eval(), generator


@pytest.mark.parametrize("pad", ["before_norm", "after_norm"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "cout"), [(3, 1, 1, 4), (3, 2, 1, 1), (1, 2, 0, 4), (4, 4, 0, 5)]
)
def test_a_fused_layer_equals_itself_at_borders_too(pad, kernel, stride, padding, cout):
    layer, generator = random_norm(NormConv(3, cout, kernel, stride, padding, pad).double())
    net = Net(layer)
    fused = fuse(net)
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
    assert isinstance(fused.layer, PaddedConv) == (pad == "after_norm" and padding > 0)
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(fused.layer(x), layer(x), rtol=0, atol=1e-12)


def test_both_orders_by_hand():
    """Norm 2 x + 1 (eps aside), a kernel of nine ones, one pixel of 3: it gives 7, the border 1 before or 0 after."""
    for pad, expected in (("before_norm", 7 + 8 * 1), ("after_norm", 7)):
        layer = NormConv(1, 1, 3, padding=1, pad=pad).eval()
        layer.norm.eps = 0.0
        with torch.no_grad():
            layer.norm.weight.fill_(2.0), layer.norm.bias.fill_(1.0), layer.conv.weight.fill_(1.0)
            fused = fuse(Net(layer)).layer
            conv = fused.conv if pad == "after_norm" else fused
            assert conv.weight.tolist() == [[[[2.0] * 3] * 3]]
            assert conv.bias.tolist() == [9.0]
            if pad == "after_norm":
                assert fused.border.tolist() == [-0.5]
            assert fused(torch.full((1, 1, 1, 1), 3.0)).item() == expected


def test_a_norm_that_no_border_value_brings_to_zero_is_named():
    layer, _ = random_norm(NormConv(3, 4, 3, padding=1, pad="after_norm"))
    with torch.no_grad():
        layer.norm.weight[1] = 0
    with pytest.raises(ValueError, match=r"channel 1 of a map padded after its norm has gamma 0"):
        fuse(Net(layer))
    with torch.no_grad():
        layer.norm.bias[1] = 0  # then the channel is 0 everywhere
    x = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(fuse(Net(layer)).layer(x), layer(x), rtol=0, atol=1e-5)


def differing(ours, expected):
    """How many neurons of all maps send something else."""
    return sum(int((a != b).sum()) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("design", [*THIN, pytest.param("16-ST-VGG", marks=pytest.mark.slow)])
@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("neuron", [PLIF_NEURON, LIFSettings(tau=3.0, reset="soft", decay_input=False)])
def test_a_fused_detector_spikes_and_predicts_the_same(design, one_by_one, neuron):
    torch.manual_seed(0)
    settings = SSDSettings(backbone=design, extras=(16, 16, 16), one_by_one_extras=one_by_one, neuron=neuron)
    network = settled(SSD(settings, 2, 3), events(2, 2))
    x = events(6)
    for dtype in (torch.float64, torch.float32):
        fused, network = fuse(network, dtype), network.to(dtype)
        with torch.no_grad():
            maps, expected_maps = fused.maps(x)[0], network.maps(x.to(dtype))[0]
            (ours, state), (expected, end) = fused(x), network(x.to(dtype))
        spikes = [float(spikes.mean()) for spikes in expected_maps]
        assert max(spikes) > 0.02
        assert differing(maps, expected_maps) == 0
        bound = 1e-11 if dtype == torch.float64 else 1e-5
        for a, b in ((ours.offsets, expected.offsets), (ours.logits, expected.logits)):
            assert (a - b).abs().max() <= bound * max(1.0, float(b.abs().max()))
        torch.testing.assert_close(state, end, rtol=bound, atol=bound * 10)
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("design", BACKBONES)
def test_every_backbone_classifies_the_same(design):
    torch.manual_seed(0)
    network = settled(build_backbone(design, 2, 2, PLIF_NEURON), events(1, 2, side=32)).double()
    fused = fuse(network)
    x = events(2, side=32).double()
    with torch.no_grad():
        torch.testing.assert_close(fused(x)[0], network(x)[0], rtol=1e-10, atol=1e-10)
        maps, expected = fused.maps(x)[0], network.maps(x)[0]
    assert differing(maps, expected) == 0
    assert sum(int(spikes.sum()) for spikes in expected) > 0


def test_a_sequence_may_begin_with_one_and_go_on_with_the_other():
    torch.manual_seed(0)
    network = settled(SSD(SSDSettings(backbone=THIN[0], extras=(8, 8, 8)), 2, 2), events(2, 2)).double()
    fused, x = fuse(network), events(4).double()
    with torch.no_grad():
        whole, _ = network(x)
        _, state = fused(x[:2])
        rest, _ = network(x[2:], state)
        again, _ = fuse(fused)(x[2:], state)
    torch.testing.assert_close(rest.logits, whole.logits[2:], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(again.logits, whole.logits[2:], rtol=1e-10, atol=1e-10)


def test_binary_networks_have_nothing_to_unroll():
    torch.manual_seed(0)
    network = settled(build_backbone(THIN[1], 2, 2, PLIF_NEURON), events(1, 2, side=32))
    with torch.no_grad():
        x = events(2, side=32)
        assert torch.equal(unroll(network)(x)[0], fuse(network, torch.float64)(x)[0])


def test_the_network_given_keeps_its_norms():
    layer = NormConvSpike(2, 3, 3, PLIF_NEURON, padding=1)
    net = Net(layer)
    names = [name for name, _ in net.named_parameters()]
    fused = fuse(net)
    assert [name for name, _ in net.named_parameters()] == names
    assert net.training
    assert not fused.training
