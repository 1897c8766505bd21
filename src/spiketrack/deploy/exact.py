"""Exact: fused weights rounded to a grid on which sums of spikes have no rounding error, in whatever order.

Station: after fusing, before export. In comes a fused SpikeYOLO, out goes one whose currents are the same bits on every
runtime, so that nothing parts over a long recording: neurons round membranes to integers, and two runtimes that add in
another order sooner or later round one of them differently.

What a convolution adds are integers n[i], at most N, times weights. With every weight and the bias of an output channel
a multiple of q = 2^k, all partial sums are multiples of q; none is larger than N sum |w| + |b|. Float32 holds every
multiple of q up to 2^24 q, so with 2^24 q no less than that bound no addition rounds. The rounding of a weight, q / 2
at most, is (N sum |w| + |b|) / 2^24 or less.

Beside convolutions there are sums and products of two numbers, which every runtime rounds alike; with a decay that is a
power of 2 also where one of them multiplies and adds at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spiketrack.deploy.fusing import Network, NeuronConv, fuse
from spiketrack.deploy.integers import integer_convs
from spiketrack.detector.spikeyolo import SpikeYOLO
from spiketrack.representations import InputSettings
from spiketrack.spiking import ILIF

MANTISSA = 24
"""Bits of a float32's significant digits."""

_COUNTS = ("stacked_histogram", "signed_difference", "polarity_histogram")


def largest_count(settings: InputSettings) -> int | None:
    """The largest integer that an input holds; None where it holds other numbers."""
    if settings.representation == "binary_occupancy":
        return 1
    return settings.limit if settings.representation in _COUNTS else None


@torch.no_grad()
def exact(network: Network, largest: int | None) -> Network:
    """The network, fused, with weights on that grid, if its sums can be exact; else only fused.

    largest: of the integers in the input, None where they are none. They can in a SpikeYOLO in float32 that reads
    integers. The argument stays as it is.
    """
    fused = fuse(network)
    if not isinstance(fused, SpikeYOLO) or largest is None or fused.stem.conv.weight.dtype != torch.float32:
        return fused
    if fused.settings.neuron.activation != "spikes" or integer_convs(fused):
        return fused  # it sends real numbers, or rounds its weights itself
    for layer in fused.modules():
        if isinstance(layer, NeuronConv):
            _round(layer.conv, layer.neuron.settings.levels if isinstance(layer.neuron, ILIF) else largest)
    return fused


def _round(conv: nn.Conv2d, largest: int) -> None:
    weight = conv.weight.double()
    bias = torch.zeros(len(weight), device=weight.device) if conv.bias is None else conv.bias
    grid = grid_of(weight, bias.double(), largest)
    conv.weight.copy_((weight / grid[:, None, None, None]).round() * grid[:, None, None, None])
    if conv.bias is not None:
        conv.bias.copy_((bias.double() / grid).round() * grid)


def grid_of(weight: Tensor, bias: Tensor, largest: int) -> Tensor:
    """q of every output channel, (O,) powers of 2, float64. weight: (O, I, k, k); what rounding adds has its room."""
    bound = weight.abs().flatten(1).sum(1) * largest + bias.abs()
    taps = weight[0].numel() * largest + 1  # each may grow by q / 2
    least = torch.finfo(torch.float32).tiny * 2.0**MANTISSA
    return torch.exp2(torch.ceil(torch.log2(bound.clamp_min(least) / (2.0**MANTISSA - taps))))
