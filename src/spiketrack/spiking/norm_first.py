"""Layers that normalise before they convolve: [pad ->] batch norm -> convolution [-> neuron].

Station: inside ST-VGG, ResCat-SNN and the SSD heads. Source: Cordone's thesis, chapter 5 (facts/models.md, A.2). Where
the zeros of the border come in decides whether norm and convolution can become one convolution W', b':

    s = gamma / sqrt(var + eps), h = beta - mean s;  W'[o, i] = W[o, i] s[i], b'[o] = sum over i, k of W[o, i, k] h[i]

Padded before the norm, a border tap sees h like any other zero input, so W', b' with zero padding is exact. Padded
after it, a border tap sees 0, which is exact only if the input of W', b' is padded with -h / s per channel.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from spiketrack.spiking.folded_norm import folded_norm_convs, folds
from spiketrack.spiking.lif import LIFSettings, neuron_layer
from spiketrack.spiking.neurons import StateFlow

PadOrder = Literal["before_norm", "after_norm"]


class NormConv(nn.Module):
    """Batch norm -> dense convolution without bias; the zeros of the border come in before or after the norm.

    conv.padding tells which: 0 where the map is padded before the norm, by `pad_before` pixels.
    """

    def __init__(
        self, cin: int, cout: int, kernel: int, stride: int = 1, padding: int = 0, pad: PadOrder = "before_norm"
    ) -> None:
        super().__init__()
        self.pad_before = padding if pad == "before_norm" else 0
        self.norm = nn.BatchNorm2d(cin)  # eps 1e-5, momentum 0.1
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding - self.pad_before, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W); returns (N, cout, H', W')."""
        if self.conv.padding[0] == 0 and folds(self.norm, x):
            return folded_norm_convs(x, [self.norm], [self.conv], self.pad_before)
        if self.pad_before:
            x = F.pad(x, (self.pad_before,) * 4)
        return self.conv(self.norm(x))


def both(first: nn.Module, second: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """first(x), second(x); two NormConv in training on the CPU are one convolution, if of one geometry and not watched
    by hooks."""
    layers = [layer for layer in (first, second) if type(layer) is NormConv and layer.conv.padding[0] == 0]
    geometries = {(layer.pad_before, layer.norm.eps, layer.conv.kernel_size, layer.conv.stride) for layer in layers}
    watched = any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    if len(layers) < 2 or len(geometries) > 1 or watched or not all(folds(layer.norm, x) for layer in layers):
        return first(x), second(x)
    norms, convs = [layer.norm for layer in layers], [layer.conv for layer in layers]
    y = folded_norm_convs(x, norms, convs, layers[0].pad_before)
    return y[:, : convs[0].out_channels], y[:, convs[0].out_channels :]


class NormConvSpike(nn.Module):
    """Batch norm -> convolution -> LIF or PLIF: the layer of ST-VGG and ResCat-SNN."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        neuron: LIFSettings,
        *,
        stride: int = 1,
        padding: int = 0,
        pad: PadOrder = "before_norm",
    ) -> None:
        super().__init__()
        self.norm_conv = NormConv(cin, cout, kernel, stride, padding, pad)
        self.neuron = neuron_layer(neuron)

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        """x: (T * B, C, H, W), time-major; returns spikes (T * B, cout, H', W')."""
        return self.neuron(self.norm_conv(x), flow)
