"""Layers: convolutions that read spikes, and the re-parameterisable convolutions of SpikeYOLO.

Station: inside the detector. Tensors are (T * B, C, H, W), time-major; only neurons know about time, through the
`StateFlow` that every block takes and hands on. Source: SpikeYOLO (ECCV 2024), section 3.2 and its released code's
block list (facts only).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spiketrack.spiking.depthwise import depthwise_conv
from spiketrack.spiking.neurons import ILIFSettings, StateFlow, neurons_of

NORM_EPS = 1e-3
NORM_MOMENTUM = 0.03


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with SpikeYOLO's constants."""
    return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)


class SpikeConv(nn.Module):
    """I-LIF -> convolution, dense or depthwise -> batch norm."""

    def __init__(
        self, cin: int, cout: int, kernel: int, neuron: ILIFSettings, stride: int = 1, depthwise: bool = False
    ) -> None:
        super().__init__()
        self.neuron = neurons_of(neuron)
        groups = cin if depthwise else 1
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = batch_norm(cout)

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        spikes = self.neuron(x, flow)
        if self.conv.groups > 1:
            return self.norm(depthwise_conv(spikes, self.conv.weight))
        return self.norm(self.conv(spikes))


class SpikeConvBias(nn.Module):
    """I-LIF -> 1x1 convolution with bias, no norm: the last layer of a head."""

    def __init__(self, cin: int, cout: int, neuron: ILIFSettings) -> None:
        super().__init__()
        self.neuron = neurons_of(neuron)
        self.conv = nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        return self.conv(self.neuron(x, flow))


class DownSampling(nn.Module):
    """[I-LIF unless it is the first layer] -> strided convolution with bias -> batch norm."""

    def __init__(
        self, cin: int, cout: int, kernel: int, stride: int, padding: int, neuron: ILIFSettings | None
    ) -> None:
        super().__init__()
        self.neuron = neurons_of(neuron) if neuron else None
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding)
        self.norm = batch_norm(cout)

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        return self.norm(self.conv(self.neuron(x, flow) if self.neuron else x))


class CentredNorm(nn.Module):
    """Batch norm whose result is shifted so that a zero input gives zero: y = norm(x) - h, h = norm(0).

    SpikeYOLO pads a normalised map with h, the value that norm gives a zero (running statistics, without
    gradient), so that the whole re-parameterised block equals one convolution with zero padding. Shifting by h
    makes ordinary zero padding do the same; `offset` is the h that the next convolution adds back as a constant.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = batch_norm(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(x)
        offset = self.offset()
        rounded = offset.to(y.dtype)  # of y in bfloat16 the difference stays bfloat16
        return y - rounded[:, None, None], rounded.to(offset.dtype)

    def offset(self) -> Tensor:
        """h per channel, (C,), detached."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
        return norm.bias.detach() - norm.running_mean * scale


def _constant_bias(depthwise: nn.Conv2d, offset: Tensor) -> Tensor:
    """What a depthwise convolution gives for a map that is `offset` everywhere: (C,)."""
    return offset * depthwise.weight.sum(dim=(1, 2, 3))


class RepConv(nn.Module):
    """1x1 -> norm, padded with norm(0) -> depthwise 3x3 -> 1x1 -> norm; equals one dense 3x3 convolution."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(cin, cin, 1, bias=False)
        self.centred = CentredNorm(cin)
        self.depthwise = nn.Conv2d(cin, cin, 3, padding=1, groups=cin, bias=False)
        self.second = nn.Conv2d(cin, cout, 1, bias=False)
        self.norm = batch_norm(cout)

    def forward(self, x: Tensor) -> Tensor:
        y, offset = self.centred(self.first(x))
        y = depthwise_conv(y, self.depthwise.weight, _constant_bias(self.depthwise, offset))
        return self.norm(self.second(y))


class SepRepConv(nn.Module):
    """Norm, padded with norm(0) -> 1x1 -> depthwise 3x3; equals one dense 3x3 convolution."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.centred = CentredNorm(cin)
        self.pointwise = nn.Conv2d(cin, cout, 1, bias=False)
        self.depthwise = nn.Conv2d(cout, cout, 3, padding=1, groups=cout, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y, offset = self.centred(x)
        bias = _constant_bias(self.depthwise, self.pointwise.weight[:, :, 0, 0] @ offset)
        return depthwise_conv(self.pointwise(y), self.depthwise.weight, bias)


class SepConv(nn.Module):
    """Inverted separable convolution: 1x1 up to 2C, depthwise 7x7, re-parameterised 3x3 back to C."""

    def __init__(self, channels: int, neuron: ILIFSettings, kernel: int = 7) -> None:
        super().__init__()
        inner = 2 * channels
        self.expand = SpikeConv(channels, inner, 1, neuron)
        self.depthwise = SpikeConv(inner, inner, kernel, neuron, depthwise=True)
        self.neuron = neurons_of(neuron)
        self.contract = SepRepConv(inner, channels)
        self.norm = batch_norm(channels)

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        x = self.depthwise(self.expand(x, flow), flow)
        return self.norm(self.contract(self.neuron(x, flow)))


class AllConvBlock(nn.Module):
    """x + SepConv(x), then x + dense 3x3 (C -> ratio C) and 3x3 back: SNN-block-1."""

    def __init__(self, channels: int, ratio: int, neuron: ILIFSettings) -> None:
        super().__init__()
        self.token = SepConv(channels, neuron)
        self.expand = SpikeConv(channels, ratio * channels, 3, neuron)
        self.contract = SpikeConv(ratio * channels, channels, 3, neuron)

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        x = x + self.token(x, flow)
        return x + self.contract(self.expand(x, flow), flow)


class ConvBlock(nn.Module):
    """x + SepConv(x), then x + RepConv (C -> ratio C) and RepConv back, each with a second norm: SNN-block-2."""

    def __init__(self, channels: int, ratio: int, neuron: ILIFSettings) -> None:
        super().__init__()
        inner = ratio * channels
        self.token = SepConv(channels, neuron)
        self.neuron_in = neurons_of(neuron)
        self.expand = nn.Sequential(RepConv(channels, inner), batch_norm(inner))
        self.neuron_out = neurons_of(neuron)
        self.contract = nn.Sequential(RepConv(inner, channels), batch_norm(channels))

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        x = x + self.token(x, flow)
        y = self.expand(self.neuron_in(x, flow))
        return x + self.contract(self.neuron_out(y, flow))


class SpikeSPPF(nn.Module):
    """1x1 to C/2, three 5x5 max-pools in cascade, all four concatenated, 1x1 to C."""

    def __init__(self, cin: int, cout: int, neuron: ILIFSettings, kernel: int = 5) -> None:
        super().__init__()
        self.reduce = SpikeConv(cin, cin // 2, 1, neuron)
        self.pool = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)
        self.expand = SpikeConv(cin // 2 * 4, cout, 1, neuron)

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        maps = [self.reduce(x, flow)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.expand(torch.cat(maps, dim=1), flow)
