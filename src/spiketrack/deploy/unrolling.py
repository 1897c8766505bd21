"""Unrolling: from integer spikes to binary ones, D substeps for every time step.

Station: after training. In comes a network whose neurons emit integers 0 .. D, out goes one whose convolutions read
nothing but 0 and 1. Source: SpikeYOLO (Luo et al., ECCV 2024), section 3: an integer s is sent as s ones in D
substeps. A convolution is linear, so its D results sum to that of the integer; the bias enters once per time step.

Currents are summed over the substeps before anything that is not linear, or holds a state, reads them: the next
neurons, the max pools of SpikeSPPF. Residual additions, upsampling and concatenation act on these sums.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from spiketrack.deploy.fusing import NeuronConv, fuse, replace_modules
from spiketrack.deploy.integers import integer_convs
from spiketrack.errors import SettingsError
from spiketrack.spiking import ILIF, Rectifier, StateFlow

Network = TypeVar("Network", bound=nn.Module)


def thermometer(counts: Tensor, levels: int) -> Tensor:
    """Integers 0 .. levels of any shape as bool (levels, ...): s ones in the first s substeps, then zeros.

    In this order spikes can be pooled per substep: the maximum of two trains is the train of the maximum.
    """
    return torch.stack([counts > substep for substep in range(levels)])


class BinaryILIF(nn.Module):
    """I-LIF neurons that fire after a whole time step, and send their integer as binary spikes."""

    def __init__(self, neuron: ILIF) -> None:
        super().__init__()
        self.settings = neuron.settings

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        """x: (T * B, C, H, W), the current of all substeps of a time step; returns bool (D, T * B, C, H, W)."""
        return thermometer(flow.fire(x, self.settings), self.settings.levels)


class BinaryConv(nn.Module):
    """Neurons -> a convolution of one substep after the other, whose results and one bias add up."""

    def __init__(self, layer: NeuronConv) -> None:
        super().__init__()
        assert isinstance(layer.neuron, ILIF)
        assert layer.conv.bias is not None
        self.neuron, self.conv, self.bias = BinaryILIF(layer.neuron), layer.conv, layer.conv.bias
        self.conv.bias = None

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        """x: (T * B, C, H, W) current; returns the current of the layer after it, of the type of the weights."""
        dtype = self.conv.weight.dtype
        first, *others = self.neuron(x.to(dtype), flow)  # D times (T * B, C, H, W)
        current = self.conv(first.to(dtype))
        for spikes in others:
            current += self.conv(spikes.to(dtype))
        return current.add_(self.bias[:, None, None])


@torch.no_grad()
def unroll(network: Network, dtype: torch.dtype | None = torch.float64) -> Network:
    """The network, fused, with binary spikes between its layers; for inference only.

    Its state and its predictions are those of the integer network, for every time step. dtype: of weights, currents,
    state and predictions; None: as the network's. Sums in another order differ by rounding, and the neurons round to
    integers: in float32 a current within its rounding error of a half may give another spike, which the layers after
    it amplify. In float64 that has not been seen (docs/deploy.md). The argument stays as it is; what is unrolled
    already is only copied. Raises ValueError where neurons are not part of a known layer, or send no integers, and its
    SettingsError for a quantised network, whose currents are rounded once a time step.
    """
    if integer_convs(network):
        raise SettingsError("unroll: the network is quantised; binary spikes are of networks as trained or fused")
    unrolled = fuse(network, dtype)
    for name, module in unrolled.named_modules():
        if isinstance(module, Rectifier):
            raise ValueError(f"unroll: {name} sends real numbers; only neurons with activation spikes have binary ones")
    replace_modules(unrolled, _unroll_layer)
    for name, module in unrolled.named_modules():
        if isinstance(module, ILIF):
            raise ValueError(f"unroll: {name} are neurons of no known layer, their integers would stay")
    return unrolled.requires_grad_(False)


def _unroll_layer(module: nn.Module) -> nn.Module | None:
    return BinaryConv(module) if type(module) is NeuronConv and module.neuron is not None else None
