"""Classifier: a spiking backbone that names the object of a sample, with everything that its use needs.

Station: in come time steps (T, B, C, H, W), out go class probabilities. The logits of a sample are the sum over its
time steps and places (facts/models.md, A.6).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from spiketrack.datasets.classified import SampleInput
from spiketrack.detector.checkpoint import load_checkpoint, load_weights
from spiketrack.detector.rescat import ResCatSNN
from spiketrack.detector.ssd import build_backbone
from spiketrack.detector.st_vgg import STVGG
from spiketrack.errors import CheckpointError
from spiketrack.pipeline import usable_device
from spiketrack.spiking.lif import LIFSettings
from spiketrack.spiking.neurons import State

TASK = "classification"


class NeuronSettings(LIFSettings):
    """A PLIF neuron where nothing else is said."""

    learn_tau: bool = Field(True, description="learn the time constant, one per layer (PLIF); else LIF")


class ClassifierSettings(BaseModel):
    """Which network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = Field(
        "16-ST-VGG", description="16-, 32- or 64-ST-VGG, 16-, 32- or 64-ResCat-SNN, or a cfg string of either"
    )
    neuron: NeuronSettings = Field(NeuronSettings(), description="the neurons of every layer")


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network, the input it was made for, and the class names by id.

    carry: whether the membranes go on from sample to sample, as they did in its training, or start anew with each.
    """

    model: STVGG | ResCatSNN
    settings: ClassifierSettings
    input: SampleInput
    class_names: tuple[str, ...]
    carry: bool

    @classmethod
    def build(
        cls, settings: ClassifierSettings, input: SampleInput, class_names: tuple[str, ...], carry: bool
    ) -> Classifier:
        """A fresh one, its weights drawn from torch's generator."""
        model = build_backbone(settings.backbone, input.channels, len(class_names), settings.neuron)
        return cls(model, settings, input, class_names, carry)

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Classifier:
        """Read a checkpoint. Raises CheckpointError where it is not one of a classifier."""
        content = load_checkpoint(path)
        if content.get("task") != TASK:
            raise CheckpointError(f"{path}: not the checkpoint of a classifier; `spiketrack classify train` makes one")
        try:
            settings = ClassifierSettings.model_validate(content["model"])
            seen = SampleInput.model_validate(content["input"])
            classifier = cls.build(settings, seen, tuple(content["class_names"]), bool(content["carry"]))
        except (KeyError, TypeError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path}: its settings are not those of this version ({reason})") from error
        load_weights(classifier.model, content["weights"], path)
        classifier.model.to(usable_device(device)).eval()
        return classifier

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "task": TASK,
            "model": self.settings.model_dump(),
            "input": self.input.model_dump(),
            "class_names": list(self.class_names),
            "carry": self.carry,
            "weights": self.model.state_dict(),
        }

    def logits(self, events: Tensor, state: State | None) -> tuple[Tensor, State]:
        """events: (T, B, C, H, W) of any dtype, on any device. Returns logits (B, K), and the state to hand on."""
        device = next(self.model.parameters()).device
        logits, state = self.model(events.to(device).float(), state)  # (T, B, K)
        return logits.sum(0), state


def continued(state: State | None, batch: int) -> State | None:
    """The state as constants (the gradient ends here), of the first `batch` streams: the last batch may be smaller."""
    return None if state is None else tuple(membrane.detach()[:batch] for membrane in state)


def probabilities(logits: Tensor) -> Tensor:
    """(B, K) float32, each row adds up to 1."""
    return torch.softmax(logits.float(), dim=1)
