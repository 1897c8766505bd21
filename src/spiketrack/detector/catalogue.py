"""Catalogue: every model with its size and cost at its nominal input.

Station: for `spiketrack models`. The published scales stand with the inputs of their papers, so that their parameter
counts can be compared to the parameter (SpikeYOLO: COCO, 80 classes, 640 x 640; GEN1, 2 classes, 320 x 320).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spiketrack.detector.spikeyolo import ModelSettings, Scale, SpikeYOLO, count_parameters
from spiketrack.spiking.neurons import COCO_NEURON, GEN1_NEURON, ILIFSettings


@dataclass(frozen=True)
class ModelEntry:
    """One model: its input (channels, height, width) per time step, classes, parameters, and dense operations.

    macs: multiply-accumulates of all convolutions for one time step of one image, every activation counted.
    """

    name: str
    scale: str
    channels: int
    height: int
    width: int
    classes: int
    parameters: int
    macs: int


_NOMINAL: dict[str, tuple[Scale, int, int, int, int, ILIFSettings]] = {
    "SpikeYOLO-p": ("p", 2, 240, 304, 10, COCO_NEURON),
    "SpikeYOLO-n": ("n", 3, 640, 640, 80, COCO_NEURON),
    "SpikeYOLO-s": ("s", 3, 640, 640, 80, COCO_NEURON),
    "SpikeYOLO-m": ("m", 3, 640, 640, 80, COCO_NEURON),
    "SpikeYOLO-l": ("l", 3, 640, 640, 80, COCO_NEURON),
    "SpikeYOLO-s-GEN1": ("s", 3, 320, 320, 2, GEN1_NEURON),
}


def catalogue() -> list[ModelEntry]:
    """Every model; built without memory for weights, so that the largest one costs nothing."""
    entries = []
    for name, (scale, channels, height, width, classes, neuron) in _NOMINAL.items():
        with torch.device("meta"):
            model = SpikeYOLO(ModelSettings(scale=scale, neuron=neuron), channels, classes)
        macs = dense_macs(model, channels, height, width)
        entries.append(ModelEntry(name, scale, channels, height, width, classes, count_parameters(model), macs))
    return entries


def dense_macs(model: SpikeYOLO, channels: int, height: int, width: int) -> int:
    """Multiply-accumulates of all convolutions for one time step of one image of (channels, height, width)."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    counter = FlopCounterMode(display=False)
    training = model.training
    with counter, torch.no_grad():
        model.eval()(torch.zeros(1, 1, channels, height, width, device=device))
    model.train(training)
    convolutions = {name: n for name, n in counter.get_flop_counts()["Global"].items() if "convolution" in str(name)}
    return sum(convolutions.values()) // 2
