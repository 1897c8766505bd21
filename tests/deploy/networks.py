"""Random networks whose neurons fire, for the tests of deploy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spiketrack.detector.spikeyolo import ModelSettings, SpikeYOLO
from spiketrack.spiking import ILIFSettings


def events(steps: int, batch: int = 1, side: int = 64, channels: int = 2) -> Tensor:
    """Event counts (T, B, C, side, side), the same at every call."""
    return torch.poisson(torch.full((steps, batch, channels, side, side), 0.3), torch.Generator().manual_seed(9))


def lively_network(scale: str, neuron: ILIFSettings, seed: int = 0) -> SpikeYOLO:
    """SpikeYOLO in evaluation mode with random norms, whose statistics are those of one batch of events."""
    torch.manual_seed(seed)
    network = SpikeYOLO(ModelSettings(scale=scale, neuron=neuron), in_channels=2, num_classes=3)
    randomise_norms(network, seed + 1)
    with torch.no_grad():
        network(events(2, 2))
    return network.eval()


def randomise_norms(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0  # one pass gives the statistics of its batch
            with torch.no_grad():
                norm.weight.uniform_(0.5, 1.5, generator=generator)
                norm.bias.uniform_(-0.1, 0.5, generator=generator)
                norm.running_mean.uniform_(-1, 1, generator=generator)
                norm.running_var.uniform_(0.5, 2, generator=generator)


def settled(network: nn.Module, x: Tensor) -> nn.Module:
    """The network in evaluation mode with random norms, after passes whose statistics let its neurons fire."""
    randomise_norms(network, 1)
    with torch.no_grad():
        for _ in range(12):  # a layer's statistics settle when those before it have
            network(x)
    return network.eval()
