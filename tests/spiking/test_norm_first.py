import pytest
import torch
import torch.nn.functional as F

from spiketrack.spiking import LIFSettings, StateFlow
from spiketrack.spiking.norm_first import NormConv, NormConvSpike


def folded(layer):
    """W', b' and the value p that the norm maps to 0, of facts/models.md, A.2."""
    norm, weight = layer.norm, layer.conv.weight
    s = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    h = norm.bias - norm.running_mean * s
    return weight * s[:, None, None], (weight * h[:, None, None]).sum((1, 2, 3)), -h / s


def trained(pad, generator=None):
    generator = torch.Generator().manual_seed(0)
    layer = NormConv(3, 4, 3, stride=2, padding=1, pad=pad).double()
    for tensor in (layer.norm.weight, layer.norm.bias, layer.norm.running_mean, layer.norm.running_var):
        tensor.data.copy_(torch.rand(3, generator=generator) + 0.5)
    return layer.eval(), torch.randn(2, 3, 7, 6, generator=generator, dtype=torch.float64)


def test_padded_before_the_norm_it_is_one_convolution_with_zero_padding():
    layer, x = trained("before_norm")
    weight, bias, _ = folded(layer)
    torch.testing.assert_close(layer(x), F.conv2d(x, weight, bias, stride=2, padding=1), rtol=0, atol=1e-12)


def test_padded_after_the_norm_the_right_border_value_is_needed():
    layer, x = trained("after_norm")
    weight, bias, value = folded(layer)
    padded = F.pad(x - value[:, None, None], (1, 1, 1, 1)) + value[:, None, None]
    torch.testing.assert_close(layer(x), F.conv2d(padded, weight, bias, stride=2), rtol=0, atol=1e-12)
    naive = F.conv2d(x, weight, bias, stride=2, padding=1)
    torch.testing.assert_close(layer(x)[..., 1:-1, 1:-1], naive[..., 1:-1, 1:-1], rtol=0, atol=1e-12)
    assert (layer(x) - naive)[..., 0, :].abs().min() > 1e-3


def test_the_zeros_of_the_border_enter_the_statistics():
    layer = NormConv(1, 1, 3, padding=1)
    layer(torch.full((1, 1, 2, 2), 8.0))
    # 4 of 16 pixels are 8: mean 2, unbiased variance 16 * 12 / 15; momentum .1
    assert layer.norm.running_mean.item() == pytest.approx(0.2)
    assert layer.norm.running_var.item() == pytest.approx(0.9 + 0.1 * 12.8)


def test_norm_convolution_and_neuron_by_hand():
    layer = NormConvSpike(1, 1, 1, LIFSettings(), stride=2).eval()
    layer.norm_conv.conv.weight.data.fill_(1.0)
    layer.norm_conv.norm.running_mean.fill_(1.0)
    layer.norm_conv.norm.eps = 0.0
    # every second pixel, less 1: 2 and 1 -> v = 1 fires, .5 does not
    x = torch.tensor([3.0, 9.0, 2.0, 9.0]).reshape(1, 1, 1, 4)
    flow = StateFlow(1, None)
    assert layer(x, flow).flatten().tolist() == [1, 0]
    assert flow.finish()[0].flatten().tolist() == [0, 0.5]
