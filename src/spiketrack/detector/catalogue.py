"""Catalogue: every model with its size and cost at its nominal input.

Station: for `spiketrack models`. The published scales stand with the inputs of their papers, so that their parameter
counts can be compared to the parameter (SpikeYOLO: COCO, 80 classes, 640 x 640; GEN1, 2 classes, 320 x 320; ST-VGG and
ResCat-SNN: 2 classes, 64 x 64; with SSD heads: GEN1, 240 x 304).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spiketrack.detector.rescat import RESCAT_CFGS, ResCatSNN
from spiketrack.detector.spikeyolo import ModelSettings, Scale, SpikeYOLO, count_parameters
from spiketrack.detector.ssd import SSD, SSDSettings, build_backbone
from spiketrack.detector.st_vgg import STVGG, STVGG_CFGS
from spiketrack.spiking import ILIF, LIF
from spiketrack.spiking.lif import PLIF_NEURON
from spiketrack.spiking.neurons import COCO_NEURON, GEN1_NEURON, ILIFSettings


@dataclass(frozen=True)
class ModelEntry:
    """One model: its input (channels, height, width) per time step, classes, and by each counting rule its size and
    its dense operations for one time step of one image, every activation counted.

    parameters: all weights, and 16 constants of the DFL in SpikeYOLO. parameters_without_classifier: without the layer
    that only the classifying form of a backbone uses. macs: multiply-accumulates of all convolutions.
    macs_and_neurons: these, and one operation for every neuron. The published_ fields name the rules that the numbers
    of its paper follow; None where it counts otherwise (SpikeYOLO's operations: re-parameterised convolutions dense).
    """

    name: str
    scale: str
    channels: int
    height: int
    width: int
    classes: int
    parameters: int
    parameters_without_classifier: int
    macs: int
    macs_and_neurons: int
    published_parameters_rule: str
    published_operations_rule: str | None


class Operations(NamedTuple):
    """What one time step of one image costs: multiply-accumulates of the convolutions, and neurons."""

    macs: int
    neurons: int


_NOMINAL: dict[str, tuple[Scale, int, int, int, int, ILIFSettings]] = {
    "SpikeYOLO-p": ("p", 2, 240, 304, 10, COCO_NEURON),
    "SpikeYOLO-n": ("n", 3, 640, 640, 80, COCO_NEURON),
    "SpikeYOLO-s": ("s", 3, 640, 640, 80, COCO_NEURON),
    "SpikeYOLO-m": ("m", 3, 640, 640, 80, COCO_NEURON),
    "SpikeYOLO-l": ("l", 3, 640, 640, 80, COCO_NEURON),
    "SpikeYOLO-s-GEN1": ("s", 3, 320, 320, 2, GEN1_NEURON),
}


# 32-ST-VGG is published with the operations of 2 input channels, the other classifiers with those of 4
_CLASSIFIER_RULES = {
    **dict.fromkeys([*STVGG_CFGS, *RESCAT_CFGS], "macs at 4 channels"),
    "32-ST-VGG": "macs",
}


def catalogue() -> list[ModelEntry]:
    """Every model; built without memory for weights, so that the largest one costs nothing."""
    with torch.device("meta"):
        return [*_spikeyolo_entries(), *_classifier_entries(), *_ssd_entries()]


def _spikeyolo_entries() -> Iterator[ModelEntry]:
    for name, (scale, channels, height, width, classes, neuron) in _NOMINAL.items():
        model = SpikeYOLO(ModelSettings(scale=scale, neuron=neuron), channels, classes)
        size = count_parameters(model)
        macs, neurons = count_operations(model, channels, height, width)
        counts = (size, size, macs, macs + neurons)
        yield ModelEntry(name, scale, channels, height, width, classes, *counts, "parameters", None)


def _classifier_entries() -> Iterator[ModelEntry]:
    for name, rule in _CLASSIFIER_RULES.items():
        model = build_backbone(name, 2, 2, PLIF_NEURON)
        yield _entry(name, model, model, 64, 64, "parameters_without_classifier", rule)


def _ssd_entries() -> Iterator[ModelEntry]:
    for name in _CLASSIFIER_RULES:
        model = SSD(SSDSettings(backbone=name), 2, 2)
        yield _entry(f"{name}+SSD", model, model.backbone, 240, 304, "parameters", "macs_and_neurons")


def _entry(
    name: str,
    model: nn.Module,
    backbone: STVGG | ResCatSNN,
    height: int,
    width: int,
    *rules: str,
) -> ModelEntry:
    parameters = sum(p.numel() for p in model.parameters())
    rest = parameters - sum(p.numel() for p in backbone.classifier.parameters())
    macs, neurons = count_operations(model, backbone.in_channels, height, width)
    sizes = (backbone.in_channels, height, width, backbone.num_classes)
    return ModelEntry(name, name.split("-")[0], *sizes, parameters, rest, macs, macs + neurons, *rules)


def count_operations(model: nn.Module, channels: int, height: int, width: int) -> Operations:
    """Operations for one time step of one image of (channels, height, width). The model takes (T, B, C, H, W)."""
    from torch.utils.flop_counter import FlopCounterMode

    neurons = 0

    def count(module: nn.Module, args: tuple, spikes: Tensor) -> None:
        nonlocal neurons
        neurons += spikes.numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, ILIF | LIF)]
    counter = FlopCounterMode(display=False)
    training = model.training
    device = next(model.parameters()).device
    try:
        with counter, torch.no_grad():
            model.eval()(torch.zeros(1, 1, channels, height, width, device=device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    convolutions = {name: n for name, n in counter.get_flop_counts()["Global"].items() if "convolution" in str(name)}
    return Operations(sum(convolutions.values()) // 2, neurons)


def dense_macs(model: nn.Module, channels: int, height: int, width: int) -> int:
    """Multiply-accumulates of all convolutions for one time step of one image of (channels, height, width)."""
    return count_operations(model, channels, height, width).macs
