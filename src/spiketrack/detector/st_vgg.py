"""ST-VGG: a plain spiking VGG with a patchify stem, for classification and as the backbone of a detector.

Station: in comes the representation (T, B, C, H, W), out go class logits per time step, or maps of strides 8, 16 and
32; and the state. Source: Cordone's thesis, chapter 5 (facts/models.md, A.3).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spiketrack.detector.spiking_backbone import SpikingBackbone
from spiketrack.errors import SettingsError
from spiketrack.spiking.lif import PLIF_NEURON, LIFSettings
from spiketrack.spiking.neurons import StateFlow
from spiketrack.spiking.norm_first import NormConv, NormConvSpike

STVGG_CFGS: dict[str, str] = {
    "16-ST-VGG": "16,32,32,32s2,32,64s2,64,64s2",
    "32-ST-VGG": "32,64,64,64s2,64,128s2,128,128s2",
    "64-ST-VGG": "64,128,128,128s2,128,256s2,256,256s2",
}


class ConvSpec(NamedTuple):
    """Output channels and stride of one convolution."""

    channels: int
    stride: int


def parse_cfg(design: str) -> list[ConvSpec]:
    """The layers of a cfg string such as "16,32,32s2,...", the first of which is the stem (kernel 4, stride 4).

    Raises SettingsError for an entry that is no number of channels, with s2 where it halves the map, for a stem with
    s2, and for another number of s2 than three: they make the maps of strides 8, 16 and 32.
    """
    layers = []
    for entry in design.split(","):
        found = re.fullmatch(r"([1-9]\d*)(s2)?", entry.strip())
        if not found:
            raise SettingsError(
                f"cfg {design!r}: {entry!r} is neither channels (32) nor channels with stride 2 (32s2); "
                f"by name there are {', '.join(STVGG_CFGS)}"
            )
        layers.append(ConvSpec(int(found[1]), 2 if found[2] else 1))
    if layers[0].stride != 1 or sum(layer.stride == 2 for layer in layers) != 3:
        raise SettingsError(f"cfg {design!r}: exactly three entries after the first must end in s2")
    return layers


class STVGG(SpikingBackbone):
    """ST-VGG by name ("32-ST-VGG") or cfg string."""

    def __init__(
        self, design: str, in_channels: int = 2, num_classes: int = 2, neuron: LIFSettings = PLIF_NEURON
    ) -> None:
        super().__init__()
        self.cfg = STVGG_CFGS.get(design, design)
        self.in_channels, self.num_classes = in_channels, num_classes
        stem, *layers = parse_cfg(self.cfg)
        self.stem = NormConvSpike(in_channels, stem.channels, 4, neuron, stride=4)
        self.layers = nn.ModuleList()
        cin = stem.channels
        for cout, stride in layers:
            self.layers.append(NormConvSpike(cin, cout, 3, neuron, stride=stride, padding=1))
            cin = cout
        self.taps = tuple(i for i, layer in enumerate(layers) if layer.stride == 2)
        self.map_channels = tuple(layers[i].channels for i in self.taps)
        self.classifier = NormConv(cin, num_classes, 1)

    def _run(self, x: Tensor, flow: StateFlow) -> list[Tensor]:
        """The spikes of every layer after the stem."""
        y = self.stem(x.flatten(0, 1).contiguous(memory_format=torch.channels_last), flow)
        outputs = []
        for layer in self.layers:
            y = self._through(layer, y, flow)
            outputs.append(y)
        return outputs
