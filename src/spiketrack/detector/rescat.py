"""ResCat-SNN: residual blocks that concatenate instead of adding, so that spikes stay binary.

Station: in comes the representation (T, B, C, H, W), out go class logits per time step, or maps of strides 8, 16 and
32; and the state. Source: Cordone's thesis, chapter 5 (facts/models.md, A.3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spiketrack.detector.spiking_backbone import SpikingBackbone
from spiketrack.errors import SettingsError
from spiketrack.spiking.lif import PLIF_NEURON, LIFSettings
from spiketrack.spiking.neurons import StateFlow
from spiketrack.spiking.norm_first import NormConv, NormConvSpike

RESCAT_CFGS: dict[str, str] = {
    "16-ResCat-SNN": "16,32,32,64,64",
    "32-ResCat-SNN": "32,64,64,128,128",
    "64-ResCat-SNN": "64,128,128,256,256",
}


class ResCatBlock(nn.Module):
    """3x3 and 3x3 of stride 2 to `planes`, concatenated with 1x1 of stride 2 to planes / 2: 1.5 planes come out."""

    def __init__(self, cin: int, planes: int, neuron: LIFSettings) -> None:
        super().__init__()
        self.first = NormConvSpike(cin, cin, 3, neuron, padding=1)
        self.second = NormConvSpike(cin, planes, 3, neuron, stride=2, padding=1)
        self.skip = NormConvSpike(cin, planes // 2, 1, neuron, stride=2)

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        return torch.cat([self.second(self.first(x, flow), flow), self.skip(x, flow)], dim=1)


class ResCatSNN(SpikingBackbone):
    """ResCat-SNN by name ("32-ResCat-SNN") or cfg string: channels of two stem layers and planes of three blocks."""

    def __init__(
        self, design: str, in_channels: int = 2, num_classes: int = 2, neuron: LIFSettings = PLIF_NEURON
    ) -> None:
        super().__init__()
        self.cfg = RESCAT_CFGS.get(design, design)
        self.in_channels, self.num_classes = in_channels, num_classes
        patches, cin, *planes = _parse(self.cfg)
        self.stem = NormConvSpike(in_channels, patches, 4, neuron, stride=4)
        self.widen = NormConvSpike(patches, cin, 3, neuron, padding=1)
        self.blocks = nn.ModuleList()
        for width in planes:
            self.blocks.append(ResCatBlock(cin, width, neuron))
            cin = width + width // 2
        self.taps = tuple(range(len(planes)))
        self.map_channels = tuple(width + width // 2 for width in planes)
        self.classifier = NormConv(cin, num_classes, 1)

    def _run(self, x: Tensor, flow: StateFlow) -> list[Tensor]:
        """The spikes of every block."""
        y = self.stem(x.flatten(0, 1).contiguous(memory_format=torch.channels_last), flow)
        y = self._through(self.widen, y, flow)
        outputs = []
        for block in self.blocks:
            y = self._through(block, y, flow)
            outputs.append(y)
        return outputs


def _parse(cfg: str) -> list[int]:
    """Five numbers of channels, the last three even. Raises SettingsError for anything else."""
    entries = [entry.strip() for entry in cfg.split(",")]
    channels = [int(entry) for entry in entries if entry.isdecimal() and int(entry) > 0]
    if len(entries) != 5 or len(channels) != 5 or any(width % 2 for width in channels[2:]):
        raise SettingsError(
            f"cfg {cfg!r}: expected five numbers of channels, the last three even, as 16,32,32,64,64; "
            f"by name there are {', '.join(RESCAT_CFGS)}"
        )
    return channels
